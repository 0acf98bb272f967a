#!/usr/bin/env node
// Takes away each barrier, fence, commit and wait of kernels/, one at a time, and asks whether the cases of the ops notice.
//
//   node scripts/mutants.mjs                        a sample of --sample 12 by --seed 1, and what the last commit or the working tree changed
//   node scripts/mutants.mjs --all                  each one
//   node scripts/mutants.mjs kernels/norm.cu:54     those of a file, or of a line of it
//   --paths 800: on no other path than these.
//
// One build holds them all: each such call goes through a switch (EWE_MUTANT), so that a mutant costs no compilation. A run without a mutant tells
// which cases reach which switch, and how often. Then each mutant runs some of those, the cheapest looks first: the quickest of a few cases in several
// schedules, the very quickest under ThreadSanitizer, more seeds; and what survives the few, all the same with all cases of the ops. A survivor fails
// this script, unless its line ends with `// mutant: REASON`; so does such a line whose mutant is noticed (the sample asks only the few of it), and a
// call that no case reaches.
import { spawn, spawnSync } from 'node:child_process'
import { createWriteStream, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildEmulator, folderOf } from './emulator.mjs'
import { fewCases, listCases } from './kernel-cases.mjs'
import { root } from './sources.mjs'

const { values: options, positionals: chosen } = parseArgs({
  allowPositionals: true,
  options: {
    all: { type: 'boolean', default: false },
    sample: { type: 'string', default: '12' },
    seed: { type: 'string', default: '1' },
    paths: { type: 'string', default: '800,700,750' },
    cases: { type: 'string', default: 'build-cases/ewe-cases' },
    jobs: { type: 'string', default: String(Math.min(2, availableParallelism())) },
  },
})
const paths = options.paths.split(',').map(Number)
const work = join(folderOf('plain'), 'mutants')
const quickCases = 5 // of a mutant and a path: the quickest that reach it,
const deepCases = 3 // and those that reach it most often: a barrier between two rounds of a loop matters where there are two
const sanitizerSeconds = 60 // of plain time times about 100, for the cases of one mutant, on top of the quickest

// What is missing between blocks shows only where two workers happen to run them at the right times: so, several tries.
const sanitizerSettings = ['prio,copies=coin', 'fifo,copies=eager', 'prio,copies=coin,seed=2', 'random,copies=lazy'].map((way) => `schedule=${way},workers=2`)

// ---- The mutated sources

const calls = /\b(?:syncBlock|syncWarp|syncSome|fence|commitCopies|waitCopies\s*<[^;]*?>)\s*\([^();]*\)(?=;)/g

/** Writes kernels/ with a switch around each call, and returns the calls. The seam itself is as it was: there they are defined. */
function writeMutants() {
  const folder = join(work, 'kernels')
  mkdirSync(folder, { recursive: true })
  const write = (file, text) => {
    if (!existsSync(file) || readFileSync(file, 'utf8') !== text) writeFileSync(file, text) // what did not change is not compiled again
  }
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
    write(join(folder, name), mutated.join('\n'))
  }
  write(
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

/** Runs cases on a path without a mutant: which calls each reaches, and how long it takes. */
async function reach(names, path, folder, mutants) {
  const reachedBy = mutants.map(() => [])
  await inParallel([...names.entries()], async ([index, name]) => {
    const reached = join(work, `reached-${path}-${index}`)
    rmSync(reached, { force: true })
    const { passed, output, milliseconds } = await runCase(name, path, folder, { reached, settings: 'schedule=fifo,copies=eager' })
    if (!passed) throw new Error(`without a mutant, on path ${path}: ${name} fails:\n${output}`)
    if (!existsSync(reached)) return
    for (const line of readFileSync(reached, 'utf8').split('\n').filter(Boolean)) {
      const [number, times] = line.split(' ').map(Number)
      reachedBy[number - 1].push({ name, path, milliseconds, times })
    }
  })
  return reachedBy
}

/** The same on all paths. */
async function reachAll(namesOf, folders, mutants) {
  const found = mutants.map(() => [])
  for (const path of paths) {
    const reachedBy = await reach(namesOf(path), path, folders.get(path), mutants)
    reachedBy.forEach((some, index) => found[index].push(...some))
  }
  return found
}

/** Which of these cases notices a mutant: a line for the log, or undefined. */
async function noticed(mutant, reachedBy, folders) {
  const quick = []
  const deep = []
  for (const path of paths) {
    const all = reachedBy.filter((one) => one.path === path).sort((a, b) => a.milliseconds - b.milliseconds)
    quick.push(...all.slice(0, quickCases))
    deep.push(...all.slice(quickCases).sort((a, b) => b.times - a.times).slice(0, deepCases))
  }
  const firstOf = (cases) => paths.flatMap((path) => cases.filter((one) => one.path === path).slice(0, 1))
  return (
    (await noticedPlain(mutant, folders, quick, [1])) ??
    (await noticedBySanitizer(mutant, folders, firstOf(quick), Infinity)) ??
    (await noticedPlain(mutant, folders, deep, [1])) ??
    (await noticedPlain(mutant, folders, [...quick, ...deep], [2, 3])) ??
    (await noticedBySanitizer(mutant, folders, [...quick.filter((one) => !firstOf(quick).includes(one)), ...deep], sanitizerSeconds))
  )
}

async function noticedPlain(mutant, folders, cases, seeds) {
  for (const seed of seeds) {
    for (const { name, path, milliseconds } of cases) {
      const timeout = 60_000 + 20 * milliseconds // a loop that waits for what never comes
      const { passed, timedOut, output } = await runCase(name, path, folders.get(path), { mutant: mutant.number, seed, timeout })
      if (timedOut) return `${name} on path ${path}: does not end`
      if (!passed) return output.trim().split('\n')[0]
    }
  }
  return undefined
}

async function noticedBySanitizer(mutant, folders, cases, seconds) {
  for (const { name, path, milliseconds } of cases) {
    if (milliseconds / 10 > seconds) continue
    seconds -= milliseconds / 10
    const key = `thread ${path}`
    if (!folders.has(key)) folders.set(key, build('thread', path)) // a promise: another mutant may want it meanwhile
    const folder = await folders.get(key)
    for (const settings of sanitizerSettings) {
      const { passed, output } = await runCase(name, path, folder, { mutant: mutant.number, settings, thread: true })
      if (passed) continue
      const whole = await runCase(name, path, folder, { settings, thread: true })
      if (!whole.passed) throw new Error(`without a mutant, on path ${path} under ThreadSanitizer: ${name} fails:\n${whole.output}`)
      const race = /SUMMARY: (ThreadSanitizer: data race .*)/.exec(output)?.[1]
      return race === undefined ? output.trim().split('\n')[0] : `${name} on path ${path}: ${race}`
    }
  }
  return undefined
}

// ---- The choice

function changedFiles() {
  const git = (...args) => {
    const { status, stdout } = spawnSync('git', args, { cwd: root, encoding: 'utf8' })
    if (status !== 0) console.log(`git ${args.join(' ')} says nothing: the sample alone`)
    return status === 0 ? stdout.trim().split('\n') : []
  }
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
  const mutants = writeMutants().map((mutant, index) => ({ ...mutant, number: index + 1 }))
  const picked = choose(mutants)
  if (picked.length === 0) throw new Error('no mutant was chosen')
  const all = listCases(options.cases, paths)
  const folders = new Map()
  for (const path of paths) folders.set(path, await build('plain', path))
  const few = await reachAll(fewCases, folders, mutants)
  let rest // a promise; most mutants do without
  const others = () => (rest ??= reachAll((path) => all.filter((name) => !fewCases(path).includes(name)), folders, mutants))
  console.log(`${mutants.length} calls in kernels/, ${picked.length} to be taken away one at a time; with all in their place every case is green`)
  const log = createWriteStream(join(work, 'log'))
  const counts = { noticed: 0, explained: 0, failed: 0 }
  const sampled = !options.all && chosen.length === 0
  await inParallel(picked, async (mutant) => {
    const index = mutant.number - 1
    let reached = few[index].length
    let by = await noticed(mutant, few[index], folders)
    if (by === undefined && !(sampled && mutant.reason !== undefined)) {
      const more = (await others())[index]
      reached += more.length
      by = await noticed(mutant, more, folders)
    }
    const [outcome, text] = judge(mutant, by, reached)
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

function judge({ reason }, by, reached) {
  if (by !== undefined) return reason === undefined ? ['noticed', by] : ['failed', `its line explains "${reason}", but it is noticed: ${by}`]
  if (reason !== undefined) return ['explained', reason]
  return ['failed', reached === 0 ? 'no case reaches it' : `${reached} cases reach it, none notices`]
}

await main()
