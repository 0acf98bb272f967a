#!/usr/bin/env node
// The kernels on the emulator under a sanitizer: races (thread), or what lies outside of memory and undefined behaviour (address).
//
//   node scripts/kernel-sanitizers.mjs --kind thread|address [--paths 800,700] [--settings TEXT] [--self-test]
//   --all: every case of the ops that is small, instead of few.
//   --self-test: and that a bug planted in a kernel fails it.
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildEmulator, folderOf } from './emulator.mjs'
import { fewCases, listCases, opsPrefixes } from './kernel-cases.mjs'
import { root } from './sources.mjs'

const { values: options } = parseArgs({
  options: {
    kind: { type: 'string' },
    paths: { type: 'string', default: '800,700' },
    settings: { type: 'string', default: 'schedule=prio,copies=coin,workers=2' },
    all: { type: 'boolean', default: false },
    'self-test': { type: 'boolean', default: false },
    cases: { type: 'string', default: 'build-cases/ewe-cases' },
  },
})

const sanitizers = { thread: ['libtsan.so'], address: ['libasan.so', 'libubsan.so'] }
const libraries = sanitizers[options.kind]
if (libraries === undefined) throw new Error('--kind thread or --kind address')
const preload = libraries.map((name) => spawnSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).stdout.trim()).join(' ')
// The emulator's library has an operator new of its own, and what a card holds at the end of the process is nobody's leak.
const settings = { TSAN_OPTIONS: 'halt_on_error=1 report_thread_leaks=0', ASAN_OPTIONS: 'alloc_dealloc_mismatch=0 detect_leaks=0' }

/** Runs a case and returns what it printed where it failed, a sanitizer's finding among it. */
function run(name, path, folder) {
  return new Promise((done, reject) => {
    const env = { ...process.env, ...settings, EWE_EMULATOR_DIR: folder, LD_PRELOAD: preload }
    const args = [...(options.all ? ['--all', name] : ['--run', name]), '--small', '--device', `emulator:${path}`, '--settings', options.settings]
    const child = spawn(options.cases, args, { cwd: root, env })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text))
    child.on('error', reject)
    child.on('close', (status, signal) => done(status === 0 ? undefined : `${name} on path ${path} ended with ${signal ?? status}\n${output.trim()}`))
  })
}

async function runAll(path, folder, names) {
  const left = [...names]
  const failures = []
  const work = async () => {
    for (let name = left.shift(); name !== undefined; name = left.shift()) {
      const failure = await run(name, path, folder)
      if (failure !== undefined) failures.push(failure)
    }
  }
  await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, work))
  return failures
}

/** Takes something away from the norm's kernel, and returns the folder of the emulator of that alone. */
async function plant(path) {
  const bugs = { thread: ['  syncBlock();\n  const float mean', '  const float mean'], address: ['column < width', 'column < width + 4'] }
  const files = { thread: 'norm.cu', address: 'rownorm.cuh' }
  const work = join(folderOf('plain'), 'planted', options.kind)
  rmSync(join(work, 'kernels'), { recursive: true, force: true })
  mkdirSync(join(work, 'kernels'), { recursive: true })
  for (const name of readdirSync(join(root, 'kernels')).filter((file) => /\.(cu|cuh|h)$/.test(file))) {
    const text = readFileSync(join(root, 'kernels', name), 'utf8')
    const planted = name === files[options.kind] ? text.replace(...bugs[options.kind]) : text
    if (name === files[options.kind] && planted === text) throw new Error(`kernels/${name} has no place for the bug`)
    writeFileSync(join(work, 'kernels', name), planted)
  }
  const { output } = await buildEmulator({ path, kind: options.kind, folder: work, kernels: work, files: [join(work, 'kernels/norm.cu')] })
  return dirname(output)
}

const paths = options.paths.split(',').map(Number)
listCases(options.cases, paths)
let failed = 0
for (const path of paths) {
  const names = options.all ? opsPrefixes : fewCases(path)
  const started = Date.now()
  const { output } = await buildEmulator({ path, kind: options.kind })
  const built = Date.now()
  const failures = await runAll(path, dirname(output), names)
  failed += failures.length
  for (const failure of failures) console.log(`FAILED ${failure}`)
  const seconds = (from, to) => ((to - from) / 1000).toFixed(0)
  console.log(`path ${path}: ${names.length} runs, ${failures.length} failed; built in ${seconds(started, built)} s, run in ${seconds(built, Date.now())} s`)
}
if (options['self-test']) {
  const [path] = paths
  const failures = await runAll(path, await plant(path), [`norm/${path >= 800 ? 'bfloat16' : 'float16'} width 192`])
  const finding = /SUMMARY: (\w+Sanitizer: [\w-]+(?: race)?)/.exec(failures[0] ?? '')?.[1]
  console.log(finding === undefined ? `FAILED a planted bug is not found\n${failures.join('\n')}` : `a planted bug is found: ${finding}`)
  if (finding === undefined) failed++
}
process.exitCode = failed === 0 ? 0 : 1
