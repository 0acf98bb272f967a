#!/usr/bin/env node
// Which lines of kernels/ the cases of the ops execute, on the emulator: node scripts/kernel-coverage.mjs [--paths 700,750,800] [--lines] [prefix]
// A line counts as executed where some path executes it. --lines: which ones are not. gcov must be that of g++.
import { spawnSync } from 'node:child_process'
import { readdirSync, rmSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { buildEmulator, folderOf } from './emulator.mjs'
import { root } from './sources.mjs'

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    paths: { type: 'string', default: '700,750,800' },
    lines: { type: 'boolean' },
    cases: { type: 'string', default: 'build-cases/ewe-cases' },
  },
})

const files = new Map() // file -> line -> executed

function collect(folder) {
  for (const name of readdirSync(folder).filter((file) => file.endsWith('.gcda'))) {
    const { status, stdout, stderr } = spawnSync('gcov', ['--json-format', '--stdout', join(folder, name)], { cwd: root, maxBuffer: 1 << 30 })
    if (status !== 0) throw new Error(`gcov ${name}: ${stderr}`)
    const text = stdout[0] === 0x1f ? gunzipSync(stdout) : stdout
    for (const { file, lines } of text.toString().trim().split('\n').flatMap((line) => JSON.parse(line).files)) {
      const path = relative(root, resolve(root, file))
      if (!path.startsWith('kernels/')) continue
      const seen = files.get(path) ?? new Map()
      files.set(path, seen)
      for (const line of lines) seen.set(line.line_number, (seen.get(line.line_number) ?? false) || line.count > 0)
    }
  }
}

for (const path of options.paths.split(',').map(Number)) {
  const folder = join(folderOf('coverage'), 'objects', String(path))
  const { output } = await buildEmulator({ path, kind: 'coverage' })
  for (const name of readdirSync(folder).filter((file) => file.endsWith('.gcda'))) rmSync(join(folder, name))
  const env = { ...process.env, EWE_EMULATOR_DIR: output.replace(/\/[^/]*$/, '') }
  const args = ['--all', ...positionals, '--device', `emulator:${path}`]
  const { status, stdout, stderr } = spawnSync(options.cases, args, { cwd: root, env, encoding: 'utf8', maxBuffer: 1 << 28 })
  if (status !== 0) throw new Error(`cases fail on path ${path}:\n${stdout.slice(-4000)}${stderr}`)
  collect(folder)
}

function print(hit, count, what) {
  console.log(`${((100 * hit) / count).toFixed(1).padStart(6)} % of ${String(count).padStart(4)} lines  ${what}`)
}

let all = 0
let executed = 0
for (const [file, lines] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
  const missed = [...lines].filter(([, hit]) => !hit).map(([line]) => line).sort((a, b) => a - b)
  all += lines.size
  executed += lines.size - missed.length
  print(lines.size - missed.length, lines.size, options.lines && missed.length > 0 ? `${file}  not: ${missed.join(' ')}` : file)
}
if (all === 0) throw new Error('no line of kernels/ was counted')
print(executed, all, 'kernels/')
