#!/usr/bin/env node
// Everything that a card must show, on the machine that has it: `npm run test:gpu` and `npm run bench:gpu`, or plain node where there is no npm.
//
//   node scripts/gpu.mjs test  [--device cuda] [--out DIR] [--quick]
//   node scripts/gpu.mjs bench [--device cuda] [--out DIR]
//
// Nothing is built here: what it runs (addon, emulators, kernels, ewe-cases, dist/, build-test/) is listed in build-artifacts.json by
// `node scripts/gpu.mjs prepare`, on a machine with the compilers. With --device emulator:800 it is the rehearsal on a machine without a card.
//
// test: what `ewe doctor` says; every op, model and engine case of ewe-cases; the model and API tests of test/model on the device; and, where
// compute-sanitizer is on the PATH, the small cases under memcheck, racecheck, synccheck and initcheck. The last line is `N passed, N failed`.
// bench: the card's ceilings, every op's bench and whole steps of the Dolly family as shares of them, and PyTorch's matmul, attention and sorted
// sampling where python3 has torch with CUDA. JSON with card, driver, clocks and date goes to --out (bench/results), a table to stdout.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from './sources.mjs'

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { device: { type: 'string', default: 'cuda' }, out: { type: 'string' }, quick: { type: 'boolean', default: false } },
})
const cases = join(root, 'build-cases/ewe-cases')
const out = options.out ?? join(root, 'bench/results')
const onCard = options.device.startsWith('cuda')
mkdirSync(out, { recursive: true })

const sum = { passed: 0, failed: 0 }
function note(name, ok, text = '') {
  sum[ok ? 'passed' : 'failed']++
  console.log(`${ok ? 'ok    ' : 'FAILED'} ${name}${text === '' ? '' : `: ${text}`}`)
}

/** Runs a command; its output goes to a file of --out and, from the end, to the caller. */
function logged(name, command, args, env = {}) {
  return new Promise((resolve) => {
    const started = Date.now()
    const child = spawn(command, args, { cwd: root, env: { ...process.env, NO_COLOR: '1', ...env } })
    let text = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (piece) => (text += piece))
    child.on('error', (error) => (text += error.message))
    child.on('close', (status) => {
      writeFileSync(join(out, `${name}.log`), text)
      resolve({ status, text, seconds: ((Date.now() - started) / 1000).toFixed(1) })
    })
  })
}

/** `N passed, N failed` at the end of a log. */
function totals(text) {
  const found = [...text.matchAll(/^(\d+) passed, (\d+) failed/gm)].at(-1)
  return found === undefined ? undefined : { passed: Number(found[1]), failed: Number(found[2]) }
}

function count(name, { status, text, seconds }) {
  const found = totals(text)
  if (found === undefined || (status !== 0 && found.failed === 0)) {
    note(name, false, `ended with ${status} before its totals\n${text.trimEnd().split('\n').slice(-15).join('\n').replace(/^/gm, '    ')}`)
    return
  }
  sum.passed += found.passed
  sum.failed += found.failed
  console.log(`${found.failed === 0 ? 'ok    ' : 'FAILED'} ${name}: ${found.passed} passed, ${found.failed} failed in ${seconds} s`)
  if (found.failed > 0) console.log(text.split('\n').filter((line) => line.startsWith('FAIL')).slice(0, 20).join('\n').replace(/^/gm, '    '))
}

async function test() {
  const doctor = await logged('doctor', process.execPath, ['dist/cli/main.js', 'doctor'])
  console.log(doctor.text.trimEnd())
  note('doctor', doctor.status === 0)
  count('cases', await logged('cases', cases, ['--all', ...(options.quick ? ['norm/'] : []), '--device', options.device]))
  const folder = join(root, 'build-test/test')
  count(
    'library',
    await logged('library', process.execPath, ['scripts/test.mjs', '--folder', folder, '--jobs', '1', '--timeout', '1200', 'model/'], {
      EWE_TEST_DEVICE: options.device,
    }),
  )
  if (!onCard || spawnSync('compute-sanitizer', ['--version']).status !== 0) {
    console.log(onCard ? 'compute-sanitizer is not on the PATH: not run' : 'compute-sanitizer: only on a card')
    return
  }
  for (const tool of ['memcheck', 'racecheck', 'synccheck', 'initcheck']) {
    for (const prefix of ['embed', 'norm', 'linear', 'block', 'attention', 'sample/']) {
      const name = `${tool}-${prefix.replace('/', '')}`
      const { status, text } = await logged(name, 'compute-sanitizer', ['--tool', tool, '--error-exitcode', '9', cases, '--all', (prefix), '--small', '--device', options.device])
      note(name, status === 0 && /ERROR SUMMARY: 0 errors/.test(text), text.match(/ERROR SUMMARY: .*/)?.[0] ?? `ended with ${status}`)
    }
  }
}

/** Name, driver and clocks, as nvidia-smi tells them. */
function card() {
  const fields = ['name', 'driver_version', 'memory.total', 'clocks.sm', 'clocks.max.sm', 'clocks.mem', 'power.limit', 'temperature.gpu']
  const { status, stdout } = spawnSync('nvidia-smi', [`--query-gpu=${fields.join(',')}`, '--format=csv,noheader'], { encoding: 'utf8' })
  if (status !== 0) return { name: options.device }
  return Object.fromEntries(stdout.split('\n')[0].split(', ').map((value, i) => [fields[i], value.trim()]))
}

async function bench() {
  const before = card()
  const { status, text } = await logged('bench', cases, ['--bench', '--device', options.device, '--json'])
  const rows = text.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line))
  const ceiling = (name) => rows.find((row) => row.name === name)
  const copy = ceiling('ceiling/copy')?.bytesPerSecond
  const multiply = Math.max(0, ...rows.filter((row) => row.name.startsWith('ceiling/multiply')).map((row) => row.flopsPerSecond))
  for (const row of rows) {
    if (copy && row.bytesPerSecond) row.shareOfCopy = row.bytesPerSecond / copy
    if (multiply && row.flopsPerSecond) row.shareOfMultiply = row.flopsPerSecond / multiply
    const share = (value) => (value === undefined ? '' : `${(100 * value).toFixed(1)} %`.padStart(9))
    console.log(`${row.name.padEnd(64)} ${row.microseconds?.toFixed(1).padStart(11) ?? ''} us ${share(row.shareOfCopy)} of copy ${share(row.shareOfMultiply)} of multiply ${row.text ?? ''}`)
  }
  const peers = await logged('peers', 'python3', ['bench/peers_gpu.py'])
  const torch = peers.text.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line))
  for (const row of torch) console.log(`PyTorch ${row.name.padEnd(56)} ${row.microseconds.toFixed(1).padStart(11)} us`)
  if (peers.status !== 0) console.log(`PyTorch: ${peers.text.trim().split('\n').at(-1)}`)
  const date = new Date().toISOString()
  const name = before.name.toLowerCase().replace(/[^a-z0-9]+/g, '-')
  const file = join(out, `${name}-${date.slice(0, 10)}.json`)
  writeFileSync(file, `${JSON.stringify({ date, device: options.device, before, after: card(), results: rows, pytorch: torch }, null, 1)}\n`)
  console.log(`written to ${file}`)
  note('bench', status === 0 && rows.length > 0, `${rows.length} results`)
}

/** The list of what must be taken along, relative to the root. */
function prepare() {
  const paths = ['build-cases/ewe-cases', 'build-test', 'dist', 'models']
  for (const folder of ['prebuilds', 'build-emulator']) {
    if (!existsSync(join(root, folder))) continue
    for (const name of readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })) {
      if (/\.(node|kernels)$|libewe-emulator-\d+\.so$/.test(name) && !name.includes('CMakeFiles')) paths.push(join(folder, name))
    }
  }
  const missing = paths.filter((path) => !existsSync(join(root, path)))
  if (missing.length > 0) throw new Error(`not built: ${missing.join(', ')}. Run \`npm test\` first, and \`node scripts/build.mjs --kernels --emulator\``)
  writeFileSync(join(root, 'build-artifacts.json'), `${JSON.stringify(paths, null, 1)}\n`)
  console.log(paths.join('\n'))
}

const [what] = positionals
if (what === 'prepare') prepare()
else if (what === 'test' || what === 'bench') {
  await (what === 'test' ? test() : bench())
  console.log(`\n${sum.passed} passed, ${sum.failed} failed`)
  process.exitCode = sum.failed > 0 ? 1 : 0
} else {
  console.error(readFileSync(import.meta.filename ?? new URL(import.meta.url), 'utf8').split('\n').slice(1, 6).join('\n').replace(/^\/\/ ?/gm, ''))
  process.exitCode = 2
}
