import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { NativeError } from '../errors.js'
import { addonPath, tryLoad } from '../native.js'
import { packageFolder } from '../package.js'

export interface BuildOptions {
  /** Build again even when nothing changed. */
  force?: boolean
  /** Which build to use; default: CMake where it is on the PATH, else node-gyp. */
  tool?: 'cmake' | 'gyp'
}

/**
 * `ewe build`: builds the addon from the sources in the package, with the compiler of this machine, and loads it once. The compiler's output goes to stderr.
 *
 * @returns the exit code: 0, or 1 when the build failed.
 * @throws {@link NativeError} when what was built cannot be loaded.
 */
export function build(options: BuildOptions = {}): number {
  const args = [join(packageFolder(), 'scripts', 'build.mjs'), '--addon']
  if (options.force) args.push('--force')
  if (options.tool !== undefined) args.push('--tool', options.tool)
  const { status } = spawnSync(process.execPath, args, { stdio: ['ignore', 2, 2] })
  if (status !== 0) return 1
  const built = addonPath('')
  const result = tryLoad(built)
  if ('cause' in result) throw new NativeError(`The build ended well, but ${built} cannot be loaded: ${result.cause}`)
  console.log(built)
  return 0
}
