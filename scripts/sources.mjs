// The list of native sources, sources.json, for binding.gyp (as a command that prints one item a line) and for build.mjs (as functions). CMakeLists.txt
// reads the same file by itself. A file that is listed and not there stops the build here instead of as a puzzle of the linker.
// (Of the flags: g++ 12 warns of uninitialized variables in its own AVX-512 headers, hence -Wno-maybe-uninitialized there.)
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')

export function readSources(folder = root) {
  const sources = JSON.parse(readFileSync(join(folder, 'sources.json'), 'utf8'))
  const missing = listed(sources).filter((file) => !/^(test|bench)\//.test(file) && !existsSync(join(folder, file)))
  if (missing.length > 0) throw new Error(`sources.json lists files that do not exist: ${missing.join(', ')}`)
  return sources
}

/** Every file that sources.json names. The test cases and benches are not part of the package. */
function listed(sources) {
  return [...sources.native, ...sources.isa.sources, ...sources.cuda, ...sources.emulator.sources, ...sources.addon, ...sources.cases, ...sources.kernels.sources]
}

/** All files below some folders, sorted; a folder that does not exist has none. */
export function files(folder, tops) {
  return tops.flatMap((top) =>
    existsSync(join(folder, top))
      ? readdirSync(join(folder, top), { recursive: true, withFileTypes: true })
          .filter((entry) => entry.isFile())
          .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(folder.length + 1))
          .sort()
      : [],
  )
}

/** Instruction sets that the compiler for this processor can build. */
export function sets(sources, arch = process.arch) {
  return arch === 'x64' ? Object.keys(sources.isa.sets) : ['plain']
}

/** Where a platform's addon lies: `linux-x64`, with `-musl` behind it where the C library is not glibc. src/native.ts looks in the same folder. */
export function platformKey() {
  const glibc = process.report.getReport().header.glibcVersionRuntime !== undefined
  return `${process.platform}-${process.arch}${process.platform === 'linux' && !glibc ? '-musl' : ''}`
}

/** Folders of the headers of Node-API. */
export function includes() {
  const require = createRequire(join(root, 'package.json'))
  return [require('node-api-headers').include_dir, dirname(require.resolve('node-addon-api/package.json'))]
}

export function version(folder = root) {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).version
}

/** What device compilers read, and hosts and devices must agree on. */
export function kernelSources(folder = root) {
  return [...files(folder, ['kernels']).filter((file) => /\.(cu|cuh|h)$/.test(file)), 'native/ops/args.h', 'native/ops/draw.h']
}

/** SHA-256 of the kernels' sources: stands in the addon and in the pack of kernels, which must be the same. */
export function kernelsHash(folder = root) {
  const hash = createHash('sha256')
  for (const file of kernelSources(folder)) hash.update(`${file}\0`).update(readFileSync(join(folder, file))).update('\0')
  return hash.digest('hex')
}

const questions = {
  native: (sources) => [...sources.native, ...sources.cuda],
  isa: (sources) => sources.isa.sources,
  addon: (sources) => sources.addon,
  cases: (sources) => {
    const missing = sources.cases.filter((file) => !existsSync(join(root, file)))
    if (missing.length > 0) throw new Error(`sources.json lists test cases that do not exist: ${missing.join(', ')}`)
    return sources.cases
  },
  flags: (sources) => sources.flags,
  link: (sources) => sources.link,
  includes: () => includes(),
  version: () => [version()],
  'kernels-hash': () => [kernelsHash()],
  'kernel-sources': () => kernelSources(),
  set: (sources, name) => sources.isa.sets[name],
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [question, ...rest] = process.argv.slice(2)
  if (!Object.hasOwn(questions, question)) throw new Error(`unknown question ${question}: ask one of ${Object.keys(questions).join(', ')}`)
  console.log(questions[question](readSources(), ...rest).join('\n'))
}
