// npm test [-- PREFIX ...] [--timeout SECONDS] [--jobs N] [--folder DIR]
//
// Builds what changed, then runs every test file whose path under test/ starts with one of the prefixes (default: all), each in its own process. A test
// file is one that imports uvu. uvu's exit code says nothing of a `before` hook that throws, of a file without a test or of one that exits early, so the
// totals it prints are what counts. The last line is `N passed, N failed`. --folder runs the files of a folder as they are, without a build.
import { spawn, spawnSync } from 'node:child_process'
import { readFileSync, readdirSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from './sources.mjs'

const { values: options, positionals: prefixes } = parseArgs({
  allowPositionals: true,
  options: {
    timeout: { type: 'string', default: '400' },
    jobs: { type: 'string', default: String(Math.min(2, availableParallelism())) },
    folder: { type: 'string' },
  },
})
const folder = options.folder ?? join(root, 'build-test/test')

function step(args) {
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' })
  if (status === 0) return
  console.log(`\nnode ${args.join(' ')} failed\n\n0 passed, 1 failed`)
  process.exit(1)
}

function build() {
  step(['scripts/build.mjs', '--addon', '--types', '--cases', '--emulator', '--path', '700,800'])
  rmSync(join(root, 'build-test'), { recursive: true, force: true }) // a test whose source is gone must not run on
  step(['node_modules/typescript/bin/tsc', '-p', 'test/tsconfig.json'])
}

// These need more than npm brings: they run when they are named in full (test/README.md).
const apart = ['serve/page.js']

function findFiles() {
  return readdirSync(folder, { recursive: true })
    .filter((name) => /\.m?js$/.test(name) && (options.folder !== undefined || !name.startsWith('fixtures')))
    .filter((name) => /from ['"]uvu['"]/.test(readFileSync(join(folder, name), 'utf8')))
    .filter(isChosen)
    .sort()
}

function isChosen(name) {
  if (prefixes.length === 0) return !apart.includes(name)
  const stems = prefixes.map((prefix) => prefix.replace(/^test\//, '').replace(/\.ts$/, ''))
  return stems.some((stem) => (apart.includes(name) ? name === `${stem}.js` : name.startsWith(stem)))
}

/** Runs one file. The problem, if any, is what its totals do not tell. */
function runFile(path) {
  return new Promise((resolve) => {
    const started = Date.now()
    let output = ''
    let timedOut = false
    // In a process group of its own, so that a file that hangs takes what it started with it.
    const child = spawn(process.execPath, ['--enable-source-maps', path], { cwd: root, detached: true, env: { ...process.env, NO_COLOR: '1', FORCE_COLOR: '0' } })
    const timer = setTimeout(() => {
      timedOut = true
      process.kill(-child.pid, 'SIGKILL')
    }, Number(options.timeout) * 1000)
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text))
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      const totals = [...output.matchAll(/^ {2}Total: +(\d+)\n {2}Passed: +(\d+)\n {2}Skipped: +(\d+)$/gm)].at(-1)
      const [total, passed, skipped] = totals === undefined ? [0, 0, 0] : totals.slice(1).map(Number)
      let failed = total - passed
      let problem
      if (timedOut) problem = `ran longer than ${options.timeout} s`
      else if (signal !== null) problem = `was ended by ${signal}`
      else if (totals === undefined) problem = `ended before its tests did, with exit code ${code}`
      else if (total === 0) problem = 'has no test'
      else if (code === 0 && failed > 0) problem = 'a hook of its suite threw (uvu does not tell what)'
      else if (code !== 0 && failed === 0) problem = `passed its tests, then ended with exit code ${code}`
      if (problem !== undefined) failed = Math.max(1, failed)
      resolve({ passed, failed, skipped, problem, output, seconds: (Date.now() - started) / 1000 })
    })
  })
}

if (options.folder === undefined) build()
const files = findFiles()
const sum = { passed: 0, failed: 0, skipped: 0 }
const broken = []
let next = 0
async function work() {
  while (next < files.length) {
    const name = files[next++]
    const result = await runFile(join(folder, name))
    for (const key of Object.keys(sum)) sum[key] += result[key]
    const label = name.replace(/\.m?js$/, '')
    const note = result.problem === undefined ? '' : `: ${result.problem}`
    console.log(`${result.failed === 0 ? 'ok    ' : 'FAILED'} ${label} (${result.passed} of ${result.passed + result.failed}, ${result.seconds.toFixed(1)} s)${note}`)
    if (result.failed === 0) continue
    broken.push(`${label}${note}`)
    console.log(result.output.trimEnd().replace(/^/gm, '    '))
  }
}
await Promise.all(Array.from({ length: Number(options.jobs) }, work))
if (files.length === 0) {
  console.log(`No test file starts with ${prefixes.join(' or ')}`)
  sum.failed = 1
}
if (broken.length > 0) console.log(`\nFailed:\n${broken.map((line) => `  ${line}`).join('\n')}`)
console.log(`\n${sum.passed} passed, ${sum.failed} failed${sum.skipped > 0 ? `, ${sum.skipped} skipped` : ''}`)
process.exitCode = sum.failed > 0 ? 1 : 0
