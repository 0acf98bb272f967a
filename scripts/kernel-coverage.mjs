#!/usr/bin/env node
// Which lines of kernels/ the cases of the ops execute, on the emulator.
//
//   node scripts/kernel-coverage.mjs [--paths 700,750,800] [--least 95] [--lines] [prefix ...]
//
// A line counts as executed where some path executes it, in one schedule: which lines run does not depend on it. --lines: which ones are not.
// Fails where a case does, or where fewer than --least percent are executed. Without prefixes: all cases of ops, and the benches of the ceilings in
// brief. gcov must be that of g++.
import { spawn, spawnSync } from 'node:child_process'
import { readdirSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { buildEmulator, folderOf } from './emulator.mjs'
import { opsPrefixes } from './kernel-cases.mjs'
import { root } from './sources.mjs'

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    paths: { type: 'string', default: '700,750,800' },
    settings: { type: 'string', default: 'schedule=fifo,copies=eager' },
    least: { type: 'string', default: '0' },
    lines: { type: 'boolean', default: false },
    cases: { type: 'string', default: 'build-cases/ewe-cases' },
  },
})
const paths = options.paths.split(',').map(Number)
const prefixes = positionals.length > 0 ? positionals : opsPrefixes
const objectsOf = (path) => join(folderOf('coverage'), 'objects', String(path))
const counted = (path) => readdirSync(objectsOf(path)).filter((file) => file.endsWith('.gcda'))

/** Counts of several processes add up in the same files. */
function run(path, folder, args) {
  return new Promise((done, reject) => {
    const env = { ...process.env, EWE_EMULATOR_DIR: folder }
    const child = spawn(options.cases, [...args, '--device', `emulator:${path}`, '--settings', options.settings], { cwd: root, env })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text))
    child.on('error', reject)
    child.on('close', (code) => (code === 0 ? done() : reject(new Error(`${args.join(' ')} fails on path ${path}:\n${output.slice(-4000)}`))))
  })
}

async function inParallel(tasks, jobs) {
  const left = [...tasks]
  const work = async () => {
    for (let task = left.shift(); task !== undefined; task = left.shift()) await task()
  }
  await Promise.all(Array.from({ length: jobs }, work))
}

const files = new Map() // file -> line -> executed

function collect(path) {
  for (const name of counted(path)) {
    const { status, stdout, stderr } = spawnSync('gcov', ['--json-format', '--stdout', join(objectsOf(path), name)], { cwd: root, maxBuffer: 1 << 30 })
    if (status !== 0) throw new Error(`gcov ${name}: ${stderr}`)
    const text = stdout[0] === 0x1f ? gunzipSync(stdout) : stdout
    for (const { file, lines } of text.toString().trim().split('\n').flatMap((line) => JSON.parse(line).files)) {
      const source = relative(root, resolve(root, file))
      if (!source.startsWith('kernels/')) continue
      const seen = files.get(source) ?? new Map()
      files.set(source, seen)
      for (const line of lines) seen.set(line.line_number, (seen.get(line.line_number) ?? false) || line.count > 0)
    }
  }
}

function print(hit, count, what) {
  console.log(`${((100 * hit) / count).toFixed(1).padStart(6)} % of ${String(count).padStart(4)} lines  ${what}`)
}

const tasks = []
for (const path of paths) {
  const { output } = await buildEmulator({ path, kind: 'coverage' })
  for (const name of counted(path)) rmSync(join(objectsOf(path), name))
  for (const prefix of prefixes) tasks.push(() => run(path, dirname(output), ['--all', prefix]))
  if (positionals.length === 0) tasks.push(() => run(path, dirname(output), ['--bench', 'ceiling/', '--small']))
}
await inParallel(tasks, Math.min(2, availableParallelism()))
for (const path of paths) collect(path)

let all = 0
let executed = 0
for (const [file, lines] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
  const missed = [...lines].filter(([, hit]) => !hit).map(([line]) => line).sort((a, b) => a - b)
  all += lines.size
  executed += lines.size - missed.length
  print(lines.size - missed.length, lines.size, options.lines && missed.length > 0 ? `${file}  not: ${missed.join(' ')}` : file)
}
if (all === 0) throw new Error('no line of kernels/ was counted')
print(executed, all, `kernels/, on the paths ${paths.join(', ')}`)
if (executed * 100 < Number(options.least) * all) {
  console.error(`fewer than ${options.least} %: \`node scripts/kernel-coverage.mjs --lines\` says which lines no case executes`)
  process.exitCode = 1
}
