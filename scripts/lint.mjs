// npm run lint: oxlint with types over TypeScript and scripts, clang-format over C++ and CUDA. `npm run format` (--fix) repairs what it can.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { files, root } from './sources.mjs'

const fix = process.argv.includes('--fix')

function run(script, args) {
  return spawnSync(process.execPath, [join(root, 'node_modules', script), ...args], { cwd: root, stdio: 'inherit' }).status === 0
}

const native = files(root, ['native', 'kernels', 'test', 'bench']).filter((file) => /\.(cc|h|cu|cuh)$/.test(file) && !file.startsWith('test/fixtures/'))
if (native.length === 0) throw new Error('no native source was found: is this the root of the repository?')
console.log(`clang-format: ${native.length} files`)
const formatted = run('clang-format/index.js', [...(fix ? ['-i'] : ['--dry-run', '-Werror']), ...native])
const linted = run('oxlint/bin/oxlint', ['--type-aware', '--deny-warnings', ...(fix ? ['--fix'] : []), '.'])
process.exitCode = formatted && linted ? 0 : 1
