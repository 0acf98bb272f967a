#!/usr/bin/env node
// Takes away each barrier, fence, commit and wait of kernels/, one at a time, and asks whether the cases of the ops notice.
//
//   node scripts/mutants.mjs                        a sample of --sample 12 by --seed 1, and what the last commit or the working tree changed
//   node scripts/mutants.mjs --all                  each one
//   node scripts/mutants.mjs kernels/norm.cu:54     those of a file, or of a line of it
//   --only REGEX: with no other cases than these.   --paths 800: on no other path.
//
// One build holds them all: each such call goes through a switch (EWE_MUTANT), so that a mutant costs no compilation. A run without a mutant tells
// which cases reach which switch, and how often. Then each mutant runs a few of those, in several schedules and seeds, and what survives runs again
// under ThreadSanitizer. A survivor fails this script, unless its line ends with `// mutant: REASON`; so does such a line whose mutant is
// noticed, and a call that no case reaches.
import { spawn, spawnSync } from 'node:child_process'
import { createWriteStream, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildEmulator, folderOf } from './emulator.mjs'
import { root } from './sources.mjs'

const { values: options, positionals: chosen } = parseArgs({
  allowPositionals: true,
  options: {
    all: { type: 'boolean', default: false },
    sample: { type: 'string', default: '12' },
    seed: { type: 'string', default: '1' },
    paths: { type: 'string', default: '800,700,750' },
    cases: { type: 'string', default: 'build-cases/ewe-cases' },
    only: { type: 'string', default: '^(attention|block|embed|linear|logProbs|norm|sample)/' },
    jobs: { type: 'string', default: String(Math.min(2, availableParallelism())) },
  },
})
const paths = options.paths.split(',').map(Number)
const work = join(folderOf('plain'), 'mutants')
const quickCases = 5 // of a mutant and a path: the quickest that reach it,
const deepCases = 3 // and those that reach it most often: a barrier between two rounds of a loop matters where there are two
const sanitizerSeconds = 60 // of plain time times about 100, for the cases of one mutant

// ---- The mutated sources

const calls = /\b(?:syncBlock|syncWarp|syncSome|fence|commitCopies|waitCopies\s*<[^;]*?>)\s*\([^();]*\)(?=;)/g

/** Writes kernels/ with a switch around each call, and returns the calls. The seam itself is as it was: there they are defined. */
function writeMutants() {
  const folder = join(work, 'kernels')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const mutants = []
  for (const name of readdirSync(join(root, 'kernels')).filter((file) => /\.(cu|cuh|h)$/.test(file)).sort()) {
    const lines = readFileSync(join(root, 'kernels', name), 'utf8').split('\n')
    const mutated = lines.map((line, index) => {
      const comment = line.indexOf('//')
      const code = comment < 0 ? line : line.slice(0, comment)
      if (name === 'seam.cuh' || !/\.cuh?$/.test(name)) return line
      const reason = /\/\/ mutant: (.+)$/.exec(line)?.[1]
      const text = code.replace(calls, (call) => {
        const number = mutants.push({ file: `kernels/${name}`, line: index + 1, call, reason })
        return `(mutated(${number}) ? (void)0 : ${call})`
      })
      return text + line.slice(code.length)
    })
    writeFileSync(join(folder, name), mutated.join('\n'))
  }
  writeFileSync(
    join(work, 'mutated.h'),
    `#include <cstdio>
#include <cstdlib>
namespace ewe::kernels {
struct Switches {
  int mutant = std::getenv("EWE_MUTANT") ? std::atoi(std::getenv("EWE_MUTANT")) : 0;
  const char* file = std::getenv("EWE_MUTANT_REACHED");
  long reached[${mutants.length + 1}] = {};
  ~Switches() {
    std::FILE* out = file ? std::fopen(file, "a") : nullptr;
    for (int i = 1; out && i <= ${mutants.length}; i++)
      if (reached[i]) std::fprintf(out, "%d %ld\\n", i, reached[i]);
    if (out) std::fclose(out);
  }
};
inline Switches switches;
__attribute__((no_sanitize("thread"))) inline bool mutated(int number) {
  switches.reached[number]++;
  return number == switches.mutant;
}
}  // namespace ewe::kernels
`,
  )
  return mutants
}

async function build(kind, path) {
  const folder = join(work, `${kind}-${path}`)
  const { output } = await buildEmulator({ path, kind, folder, kernels: work, flags: ['-include', join(work, 'mutated.h')] })
  return output.replace(/\/[^/]*$/, '')
}

// ---- Running cases

const sanitizer = spawnSync('g++', ['-print-file-name=libtsan.so'], { encoding: 'utf8' }).stdout.trim()

function runCase(name, path, folder, { mutant = 0, seed = 1, reached, settings, thread = false, timeout = 600_000 }) {
  return new Promise((resolve) => {
    const started = Date.now()
    const env = { ...process.env, EWE_EMULATOR_DIR: folder, EWE_MUTANT: String(mutant), EWE_MUTANT_REACHED: reached }
    if (thread) Object.assign(env, { LD_PRELOAD: sanitizer, TSAN_OPTIONS: 'halt_on_error=1 report_thread_leaks=0' })
    const args = ['--run', name, '--device', `emulator:${path}`, '--seed', String(seed), ...(settings === undefined ? [] : ['--settings', settings])]
    const child = spawn(options.cases, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    const timer = setTimeout(() => child.kill('SIGKILL'), timeout)
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text))
    child.on('close', (status, signal) => {
      clearTimeout(timer)
      resolve({ passed: status === 0, timedOut: signal === 'SIGKILL', output, milliseconds: Date.now() - started })
    })
  })
}

async function inParallel(items, task) {
  const left = [...items]
  const worker = async () => {
    for (let item = left.shift(); item !== undefined; item = left.shift()) await task(item)
  }
  await Promise.all(Array.from({ length: Number(options.jobs) }, worker))
}

/** Runs every case of the kernels on a path without a mutant: which calls each reaches, and how long it takes. */
async function reach(path, folder, mutants) {
  const listed = spawnSync(options.cases, ['--list'], { cwd: root, encoding: 'utf8' })
  const names = listed.stdout.split('\n').filter((name) => new RegExp(options.only).test(name))
  if (names.length === 0) throw new Error(`${options.cases} lists no cases of ops:\n${listed.stderr}`)
  await inParallel(names, async (name) => {
    const reached = join(work, `reached-${path}-${names.indexOf(name)}`)
    rmSync(reached, { force: true })
    const { passed, output, milliseconds } = await runCase(name, path, folder, { reached, settings: 'schedule=fifo,copies=eager' })
    if (!passed) throw new Error(`without a mutant, on path ${path}: ${name} fails:\n${output}`)
    if (!existsSync(reached)) return
    for (const line of readFileSync(reached, 'utf8').split('\n').filter(Boolean)) {
      const [number, times] = line.split(' ').map(Number)
      mutants[number - 1].reachedBy.push({ name, path, milliseconds, times })
    }
  })
  return names.length
}

/** Who notices a mutant: a line for the log, or undefined. */
async function noticed(mutant, folders) {
  const quickest = paths.flatMap((path) => {
    const all = mutant.reachedBy.filter((one) => one.path === path).sort((a, b) => a.milliseconds - b.milliseconds)
    return [...all.slice(0, quickCases), ...all.slice(quickCases).sort((a, b) => b.times - a.times).slice(0, deepCases)]
  })
  for (const seed of [1, 2, 3]) {
    for (const { name, path, milliseconds } of quickest) {
      const timeout = 60_000 + 20 * milliseconds // a loop that waits for what never comes
      const { passed, timedOut, output } = await runCase(name, path, folders.get(path), { mutant: mutant.number, seed, timeout })
      if (timedOut) return `${name} on path ${path}: does not end`
      if (!passed) return output.trim().split('\n')[0]
    }
  }
  let left = sanitizerSeconds
  for (const { name, path, milliseconds } of quickest) {
    if (milliseconds / 10 > left) continue
    left -= milliseconds / 10
    folders.set(`thread ${path}`, folders.get(`thread ${path}`) ?? (await build('thread', path)))
    for (const settings of ['schedule=prio,copies=coin,workers=2', 'schedule=fifo,copies=eager,workers=2']) {
      const { passed, output } = await runCase(name, path, folders.get(`thread ${path}`), { mutant: mutant.number, settings, thread: true })
      const race = /SUMMARY: (ThreadSanitizer: data race .*)/.exec(output)?.[1]
      if (race !== undefined) return `${name} on path ${path}: ${race}`
      if (!passed) return output.trim().split('\n')[0]
    }
  }
  return undefined
}

// ---- The choice

function changedFiles() {
  const git = (...args) => spawnSync('git', args, { cwd: root, encoding: 'utf8' }).stdout.trim().split('\n')
  return new Set([...git('diff', '--name-only', 'HEAD~1', '--', 'kernels'), ...git('ls-files', '--others', '--exclude-standard', '--', 'kernels')])
}

function choose(mutants) {
  if (chosen.length > 0) return mutants.filter((mutant) => chosen.some((place) => place === mutant.file || place === `${mutant.file}:${mutant.line}`))
  if (options.all) return mutants
  const changed = changedFiles()
  let state = BigInt(options.seed)
  const random = () => Number((state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn) >> 33n)
  const order = mutants.map((mutant) => [random(), mutant]).sort((a, b) => a[0] - b[0]).map(([, mutant]) => mutant)
  return order.filter((mutant, index) => index < Number(options.sample) || changed.has(mutant.file))
}

async function main() {
  mkdirSync(work, { recursive: true })
  const mutants = writeMutants().map((mutant, index) => ({ ...mutant, number: index + 1, reachedBy: [] }))
  const picked = choose(mutants)
  if (picked.length === 0) throw new Error('no mutant was chosen')
  const folders = new Map()
  let cases = 0
  for (const path of paths) {
    folders.set(path, await build('plain', path))
    cases += await reach(path, folders.get(path), mutants)
  }
  console.log(`${mutants.length} calls in kernels/, ${picked.length} to be taken away one at a time; all are there: ${cases} runs of cases are green`)
  const log = createWriteStream(join(work, 'log'))
  const counts = { noticed: 0, explained: 0, failed: 0 }
  await inParallel(picked, async (mutant) => {
    const by = mutant.reachedBy.length === 0 ? undefined : await noticed(mutant, folders)
    const [outcome, text] = judge(mutant, by)
    counts[outcome]++
    const line = `${mutant.file}:${mutant.line} ${mutant.call}: ${outcome}: ${text}`
    if (outcome === 'failed') console.log(line)
    log.write(`${line}\n`)
  })
  log.end()
  const { noticed: dead, explained, failed } = counts
  console.log(`${picked.length} mutants: ${dead} noticed, ${explained} explained, ${failed} failed; ${join(work, 'log')} has each`)
  process.exitCode = failed === 0 ? 0 : 1
}

function judge({ reason, reachedBy }, by) {
  if (by !== undefined) return reason === undefined ? ['noticed', by] : ['failed', `its line explains "${reason}", but it is noticed: ${by}`]
  if (reason !== undefined) return ['explained', reason]
  return ['failed', reachedBy.length === 0 ? 'no case reaches it' : `${reachedBy.length} cases reach it, none notices`]
}

await main()
