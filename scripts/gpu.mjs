#!/usr/bin/env node
// Everything that a card must show, on the machine that has it: `npm run test:gpu` and `npm run bench:gpu`, or plain node where there is no npm.
//
//   node scripts/gpu.mjs prepare                                                on a machine with the compilers: builds, and lists what to take along
//   node scripts/gpu.mjs test  [PART ...] [--device cuda] [--out DIR] [--quick]
//   node scripts/gpu.mjs bench [PART ...] [--device cuda] [--out DIR]
//
// test and bench build nothing. What they run (addon, emulators, kernels, ewe-cases, dist/, build-test/) prepare lists in build-artifacts.json. With
// --device emulator:800 they are a rehearsal on a machine without a card. Parts, all of them unless some are named:
//
// test   doctor     what `ewe doctor` says of the card
//        seam       the functions of kernels/seam.cuh on the card: they come to what the emulator's do
//        cases      every op, model and engine case of ewe-cases; 100,000 random draws
//        older      the ops again, by the code for V100 and T4 compiled for this card
//        library    an answer of the program, and the model and API tests of test/model on the device
//        sanitizer  the small ops under memcheck, racecheck, synccheck and initcheck of compute-sanitizer, where it is on the PATH
//   The last line is `N passed, N failed`. --quick: a few cases of each, in seconds; nothing of test/model.
// bench  ceiling (always), dolly, sample, surplus, step, goldens (bench/README.md says what each is), and pytorch: the same work by PyTorch, where
//        python3 has it with CUDA. JSON with card, driver, clocks and date goes to bench/results, a table to stdout.
//
// What was printed on the way goes to FOLDER/test.log and bench.log; FOLDER is --out, else build-gpu. With --out the JSON goes there too; that of a
// rehearsal, which measured no card, is never put with the results.
import { spawn, spawnSync } from 'node:child_process'
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildEmulator } from './emulator.mjs'
import { buildKernels, findCompilers, packFile } from './kernels.mjs'
import { platformKey, root } from './sources.mjs'

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { device: { type: 'string', default: 'cuda' }, out: { type: 'string' }, quick: { type: 'boolean', default: false } },
})
const [what, ...parts] = positionals
const wanted = (part) => parts.length === 0 || parts.includes(part)
const onCard = options.device.startsWith('cuda')
const folder = options.out ?? join(root, 'build-gpu')
const cases = join(root, 'build-cases/ewe-cases')
const twins = { program: 'build-emulator/tests/900/twins', cubin: (path) => `build-kernels/twins/${path}.cubin` }
const older = [700, 750] // compiled for cards of compute capability 9, so that one of these can check them

const sum = { passed: 0, failed: 0 }
function note(name, ok, text = '') {
  sum[ok ? 'passed' : 'failed']++
  console.log(`${ok ? 'ok    ' : 'FAILED'} ${name}${text === '' ? '' : `: ${text}`}`)
}

const indented = (lines) => lines.join('\n').replace(/^/gm, '    ')

/** Runs a command; what it prints goes to the log and, in the end, to the caller. */
function logged(name, command, args, env = {}) {
  return new Promise((resolve) => {
    const started = Date.now()
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, NO_COLOR: '1', ...env } })
    let text = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (piece) => (text += piece))
    child.on('error', (error) => (text += error.message))
    child.on('close', (status, signal) => {
      const seconds = ((Date.now() - started) / 1000).toFixed(1)
      const lines = [`==== ${name}: ${[command, ...args].join(' ')}`, text.trimEnd(), `==== ${name}: ${status ?? signal} in ${seconds} s`, '\n']
      appendFileSync(join(folder, `${what}.log`), lines.join('\n'))
      resolve({ status: status ?? signal, text, seconds })
    })
  })
}

/** Adds the `N passed, N failed` at the end of what was printed. */
function count(name, { status, text, seconds }) {
  const found = [...text.matchAll(/^(\d+) passed, (\d+) failed/gm)].at(-1)
  const [passed, failed] = found === undefined ? [0, 0] : [Number(found[1]), Number(found[2])]
  if (passed + failed === 0 || (status !== 0 && failed === 0)) {
    note(name, false, `ended with ${status}, ${passed} passed, ${failed} failed\n${indented(text.trimEnd().split('\n').slice(-15))}`)
    return
  }
  sum.passed += passed
  sum.failed += failed
  console.log(`${failed === 0 ? 'ok    ' : 'FAILED'} ${name}: ${passed} passed, ${failed} failed in ${seconds} s`)
  if (failed > 0) console.log(indented(text.split('\n').filter((line) => line.startsWith('FAIL')).slice(0, 20)))
}

/** What nvidia-smi tells of the card. */
function card() {
  if (!onCard) return {}
  const clocks = ['clocks.sm', 'clocks.max.sm', 'clocks.mem', 'power.draw', 'power.limit', 'temperature.gpu']
  const fields = ['name', 'driver_version', 'compute_cap', 'memory.total', ...clocks]
  const index = options.device.split(':')[1] ?? '0'
  const query = ['-i', index, `--query-gpu=${fields.join(',')}`, '--format=csv,noheader']
  const { status, stdout, error } = spawnSync('nvidia-smi', query, { encoding: 'utf8' })
  if (status !== 0) {
    note('nvidia-smi', false, `tells nothing of card ${index}: ${error?.message ?? stdout.trim()}`)
    return {}
  }
  return Object.fromEntries(stdout.trim().split(', ').map((value, i) => [fields[i], value.trim()]))
}

// ---- test

async function seam(capability) {
  if (!onCard) {
    // The emulator's own answers are a test by themselves (test/emulator.ts): here only that the program was taken along.
    const { status, text } = await logged('seam', twins.program, [])
    note('seam: the program starts', status === 0 && text.includes('lanes'), `${text.trim().split('\n').length} cases`)
    return
  }
  if (capability !== 9) return console.log('seam: its images are for compute capability 9')
  for (const path of [...older, 900]) {
    const { status, text } = await logged(`seam-${path}`, twins.program, ['--card', twins.cubin(path), String(path)])
    note(`seam: path ${path}`, status === 0, text.trim().split('\n').at(-1))
  }
}

async function runCases() {
  const few = ['norm/float16', 'linear/int8 3x', 'block/float16 out', 'quantised/numbers of the CPU, neox-parallel', 'card/', 'engine/recordings']
  const settings = onCard ? [] : ['--settings', 'schedule=prio,seed=3,copies=coin,workers=2']
  for (const prefix of options.quick ? few : ['']) {
    count(`cases ${prefix}`.trim(), await logged('cases', cases, ['--all', prefix, '--device', options.device, ...settings]))
  }
}

async function draws() {
  const { status, text, seconds } = await logged('draws', cases, ['--draws', onCard ? '100000' : '50', '--device', options.device])
  note('draws', status === 0, `${text.trim().split('\n').at(-1)} in ${seconds} s`)
}

async function runOlder(capability) {
  if (!onCard || capability !== 9) return console.log('older: only on a card of compute capability 9')
  for (const path of older) {
    for (const prefix of ['norm', 'embed', 'linear', 'block', 'attention', 'sample/', 'quantised', 'goldens']) {
      const args = ['--all', prefix, '--device', options.device, '--kernels', packFile(path)]
      count(`code for path ${path}: ${prefix}`, await logged(`older-${path}`, cases, args))
    }
  }
}

async function library() {
  const question = ['generate', 'What is the capital of Japan?', '--temperature', '0', '--max-new-tokens', '24', '--device', options.device]
  const { status, text } = await logged('answer', process.execPath, ['dist/cli/main.js', ...question])
  note('answer', status === 0 && text.includes('Tokyo'), text.trim().split('\n').at(-1))
  if (options.quick) return
  const args = ['scripts/test.mjs', '--folder', join(root, 'build-test/test'), '--jobs', '1', '--timeout', '3000', 'model/']
  count('library', await logged('library', process.execPath, args, { EWE_TEST_DEVICE: options.device }))
}

async function sanitizer() {
  if (!onCard || spawnSync('compute-sanitizer', ['--version']).status !== 0) {
    console.log(`sanitizer: ${onCard ? 'compute-sanitizer is not on the PATH' : 'only on a card'}`)
    return
  }
  for (const tool of ['memcheck', 'racecheck', 'synccheck', 'initcheck']) {
    for (const prefix of ['embed', 'norm', 'linear', 'block', 'attention', 'sample/']) {
      const args = ['--tool', tool, '--error-exitcode', '9', cases, '--all', prefix, '--small', '--device', options.device]
      const { status, text, seconds } = await logged(`${tool} ${prefix}`, 'compute-sanitizer', args)
      const summary = text.match(/(ERROR|RACECHECK) SUMMARY: .*/)?.[0]
      note(`${tool} ${prefix}`, status === 0 && /SUMMARY: 0 /.test(summary ?? ''), `${summary ?? `ended with ${status}`} in ${seconds} s`)
    }
  }
}

async function test() {
  const found = card()
  const capability = Math.floor(Number(found.compute_cap ?? 0))
  if (wanted('doctor')) {
    const { status, text } = await logged('doctor', process.execPath, ['dist/cli/main.js', 'doctor'])
    console.log(text.trimEnd())
    note('doctor', status === 0 && (!onCard || text.includes(found.name)), onCard ? `it must name ${found.name}` : '')
  }
  if (wanted('seam')) await seam(capability)
  if (wanted('cases')) {
    await runCases()
    await draws()
  }
  if (wanted('older')) await runOlder(capability)
  if (wanted('library')) await library()
  if (wanted('sanitizer')) await sanitizer()
}

// ---- bench

/** Adds to each row its shares of the ceilings of the same run, and prints it. */
function judge(rows) {
  const most = (prefix, key) => Math.max(0, ...rows.filter(({ name }) => name.startsWith(prefix)).map((row) => row[key] ?? 0))
  const [copy, read] = ['ceiling/copy', 'ceiling/read'].map((name) => most(name, 'bytesPerSecond'))
  const multiply = most('ceiling/multiply', 'flopsPerSecond')
  const percent = (value) => (value ? `${(100 * value).toFixed(1)} %` : '').padStart(9)
  for (const row of rows) {
    if (row.bytesPerSecond) Object.assign(row, { shareOfCopy: row.bytesPerSecond / copy, shareOfRead: row.bytesPerSecond / read })
    if (row.flopsPerSecond) row.shareOfMultiply = row.flopsPerSecond / multiply
    const exact = row.name.endsWith(', recorded') ? rows.find(({ name }) => name === row.name.replace(/recorded$/, 'exact')) : undefined
    if (exact !== undefined) row.timesExact = row.microseconds / exact.microseconds
    const time = `${row.microseconds?.toFixed(1) ?? ''}`.padStart(11)
    const more = exact === undefined ? '' : `, ${row.timesExact.toFixed(3)} times the exact one`
    const shares = `${percent(row.shareOfRead)} of read ${percent(row.shareOfMultiply)} of multiply`
    console.log(row.text === undefined ? `${row.name.padEnd(64)} ${time} us ${shares}${more}` : `${row.name}: ${row.text}`)
  }
}

const objects = (text) => text.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line))

async function bench() {
  const before = card()
  const rows = []
  // The figures of goldens are of arithmetic, not of time; on the emulator its tests are enough.
  for (const part of ['ceiling', 'dolly', 'sample', 'surplus', 'step', ...(onCard ? ['goldens'] : [])]) {
    if (part !== 'ceiling' && !wanted(part)) continue
    const args = ['--bench', `${part}/`, '--device', options.device, '--json', ...(onCard ? [] : ['--small'])]
    const { status, text, seconds } = await logged(part, cases, args)
    const made = objects(text)
    note(part, status === 0 && made.length > 0, `${made.length} results in ${seconds} s`)
    if (status !== 0) console.log(indented(text.trimEnd().split('\n').slice(-5)))
    rows.push(...made)
  }
  judge(rows)
  const peers = wanted('pytorch') ? await logged('pytorch', 'python3', ['bench/peers_gpu.py']) : { status: 0, text: '' }
  const pytorch = objects(peers.text)
  for (const row of pytorch) console.log(`PyTorch: ${row.name.padEnd(55)} ${row.microseconds.toFixed(1).padStart(11)} us`)
  if (peers.status !== 0) console.log(`PyTorch: ${peers.text.trim().split('\n').at(-1)}`)
  const date = new Date().toISOString()
  const measured = onCard ? { card: before, cardAfter: card() } : { rehearsal: 'an emulated card, small shapes: the times mean nothing' }
  const name = (before.name ?? options.device).toLowerCase().replace(/[^a-z0-9]+/g, '-')
  const to = options.out ?? (onCard ? join(root, 'bench/results') : folder)
  mkdirSync(to, { recursive: true })
  const file = join(to, `${name}-${date.slice(0, 10)}.json`)
  writeFileSync(file, `${JSON.stringify({ date, device: options.device, ...measured, results: rows, pytorch }, null, 1)}\n`)
  console.log(`written to ${file}`)
}

// ---- prepare

function execute(command, args) {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
  if (status !== 0) throw new Error(`${[command, ...args].join(' ')} failed\n${stdout}${stderr ?? ''}`)
}

/** Builds all that test and bench run, and lists it relative to the root. With nothing changed it takes seconds. */
async function prepare() {
  const compilers = findCompilers()
  if (compilers === undefined) throw new Error('no nvcc in .cuda/ or on the PATH; scripts/cuda-toolchain.sh installs it')
  execute(process.execPath, ['scripts/build.mjs', '--addon', '--types', '--cases', '--emulator', '--path', '700,800', '--kernels'])
  execute(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'test/tsconfig.json'])
  for (const path of older) await buildKernels(compilers, { forced: path })
  await buildEmulator({ path: 900, program: 'tests/900/twins', folder: 'build-emulator' })
  mkdirSync(join(root, 'build-kernels/twins'), { recursive: true })
  for (const path of [...older, 900]) {
    const force = path === 900 ? [] : [`-DEWE_FORCE_PATH=${path}`]
    const flags = ['-cubin', '-std=c++17', '-O3', '--expt-relaxed-constexpr', '-Inative', '-I.', '-arch=sm_90', ...force]
    execute(compilers.nvcc, [...flags, '-o', twins.cubin(path), 'test/emulator/twins.cu'])
  }
  const prebuilt = join('prebuilds', platformKey())
  const packs = older.map((path) => packFile(path).slice(root.length + 1))
  const emulators = [700, 800].map((path) => `build-emulator/libewe-emulator-${path}.so`)
  const images = [...older, 900].map((path) => twins.cubin(path))
  const built = ['build-cases/ewe-cases', 'build-test', 'dist', join(prebuilt, 'ewe.node'), join(prebuilt, 'ewe.kernels')]
  const paths = [...built, ...emulators, twins.program, ...packs, ...images]
  const missing = paths.filter((path) => !existsSync(join(root, path)))
  if (missing.length > 0) throw new Error(`not built: ${missing.join(', ')}`)
  writeFileSync(join(root, 'build-artifacts.json'), `${JSON.stringify(paths, null, 1)}\n`)
  console.log(paths.join('\n'))
}

// ---- main

const known = {
  test: ['doctor', 'seam', 'cases', 'older', 'library', 'sanitizer'],
  bench: ['ceiling', 'dolly', 'sample', 'surplus', 'step', 'goldens', 'pytorch'],
}
const strange = parts.filter((part) => !known[what]?.includes(part))
if (what === 'prepare' && parts.length === 0) await prepare()
else if (known[what] !== undefined && strange.length === 0) {
  mkdirSync(folder, { recursive: true })
  rmSync(join(folder, `${what}.log`), { force: true })
  await (what === 'test' ? test() : bench())
  console.log(`\n${sum.passed} passed, ${sum.failed} failed`)
  process.exitCode = sum.failed > 0 ? 1 : 0
} else {
  if (strange.length > 0 && known[what] !== undefined) console.error(`no part of ${what}: ${strange.join(', ')}`)
  console.error(readFileSync(join(root, 'scripts/gpu.mjs'), 'utf8').split('\n').slice(3, 7).join('\n').replace(/^\/\/ ?/gm, ''))
  process.exitCode = 2
}
