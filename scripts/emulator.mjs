#!/usr/bin/env node
// Builds the emulator: the kernels compiled for the CPU, with what runs them (native/emulator). Needs g++ 12 or newer and an x86-64 processor with
// AVX2.
//
//   node scripts/emulator.mjs [--path 700,750,800,900] [--kind plain|thread|address|coverage]          every kernel -> libewe-emulator-PATH.so
//   node scripts/emulator.mjs [...] kernels/NAME.cu ...                                                these alone, for work on them: in seconds
//   node scripts/emulator.mjs [...] --program NAME FILE.cc ... kernels/NAME.cu ...                     a program, with all of it linked in; those of
//                                                                                                      sources.json need no files
//
// thread: ThreadSanitizer, address: AddressSanitizer and UndefinedBehaviorSanitizer, coverage: for gcov. Only the kernels (and a program's files) are
// instrumented; the emulator tells the sanitizers what they must know. A library of theirs is used with the sanitizer's own in LD_PRELOAD.
//
// Into --folder, else $EWE_EMULATOR_DIR, else build-emulator/; other kinds than plain into a folder of their own below it. Objects are kept: only
// what changed is compiled. A variant of a source: kernels/NAME.cu:-DTHIS=1,-DTHAT=2. --kernels FOLDER takes kernels and their headers from there.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { readSources, root } from './sources.mjs'

export class EmulatorError extends Error {}

export const paths = [700, 750, 800, 900]
export const kinds = ['plain', 'thread', 'address', 'coverage']

function execute(command, args) {
  return new Promise((done, reject) => {
    let output = ''
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text))
    child.on('error', (error) => reject(new EmulatorError(`${command}: ${error.message}`)))
    child.on('close', (code) => (code === 0 ? done(output) : reject(new EmulatorError(`${[command, ...args].join(' ')}\n${output}`))))
  })
}

/** Whether an output is newer than all it was made of, by the same command. */
function isCurrent(output, command, inputs) {
  if (!existsSync(output) || !existsSync(`${output}.stamp`) || readFileSync(`${output}.stamp`, 'utf8') !== command) return false
  const time = statSync(output).mtimeMs
  return inputs().every((input) => existsSync(input) && statSync(input).mtimeMs <= time)
}

/** What an object was made of, as its .d file says. */
function inputsOf(object) {
  if (!existsSync(`${object}.d`)) return [`${object}.d`]
  const names = readFileSync(`${object}.d`, 'utf8').replace(/\\\n/g, ' ').replace(/^[^:]*:/, '').trim().split(/\s+/)
  return names.map((name) => resolve(root, name))
}

async function inParallel(tasks, jobs) {
  const left = [...tasks]
  const work = async () => {
    for (let task = left.shift(); task !== undefined; task = left.shift()) await task()
  }
  await Promise.all(Array.from({ length: jobs }, work))
}

export function folderOf(kind, folder = process.env.EWE_EMULATOR_DIR || 'build-emulator') {
  return kind === 'plain' ? resolve(root, folder) : join(resolve(root, folder), kind)
}

/**
 * Builds one library or program and returns its file. `files`: kernels and C++ files, each perhaps with a variant; without, all kernels of
 * sources.json. `flags`: more flags for all of them.
 */
export async function buildEmulator({ path = 800, kind = 'plain', files, program, folder, kernels = root, flags = [] } = {}) {
  const jobs = Math.min(2, availableParallelism())
  const { emulator, kernels: { sources } } = readSources()
  const out = folderOf(kind, folder)
  const objects = join(out, 'objects', String(path))
  mkdirSync(objects, { recursive: true })
  const includes = [...new Set([join(root, 'native'), kernels, root])].map((at) => `-I${at}`)
  const instruments = emulator.kinds[kind]
  const common = [...emulator.flags, ...includes, '-DEWE_EMULATOR=1', `-DEWE_PATH=${path}`, ...instruments.defines]
  const own = emulator.sources.map((source) => ({ source: join(root, source), flags: ['-O3'] }))
  const listed = program === undefined ? undefined : emulator.programs[basename(program)]
  const given = (files ?? listed ?? sources.map((source) => join(kernels, source))).map((item) => {
    const [source, variant] = item.split(':')
    const more = variant === undefined ? [] : variant.split(',')
    return { source: isAbsolute(source) ? source : join(root, source), flags: [...instruments.flags, ...flags, ...more] }
  })
  const compiler = process.env.CXX ?? 'g++'
  let compiled = 0
  const made = [...own, ...given].map(({ source, flags: more }) => {
    const tag = createHash('sha256').update([source, ...more].join(' ')).digest('hex').slice(0, 8)
    const object = join(objects, `${relative(root, source).replace(/[^\w.]+/g, '-')}-${tag}.o`)
    const args = [...common, ...more, '-x', 'c++', '-MMD', '-MF', `${object}.d`, '-c', source, '-o', object]
    const command = [compiler, ...args].join(' ')
    return {
      object,
      compile: async () => {
        if (isCurrent(object, command, () => inputsOf(object))) return
        compiled++
        const warnings = await execute(compiler, args)
        if (warnings !== '') process.stderr.write(warnings)
        writeFileSync(`${object}.stamp`, command)
      },
    }
  })
  await inParallel(made.map(({ compile }) => compile), jobs)
  const output = join(out, program ?? `libewe-emulator-${path}.so`)
  mkdirSync(dirname(output), { recursive: true })
  const list = made.map(({ object }) => object)
  const args = [...(program === undefined ? ['-shared', '-Wl,-z,relro,-z,now'] : []), ...instruments.link, ...list, '-pthread', '-o', output]
  const command = [compiler, ...args].join(' ')
  if (!isCurrent(output, command, () => list)) {
    await execute(compiler, args)
    writeFileSync(`${output}.stamp`, command)
  }
  return { output, compiled }
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      path: { type: 'string', default: '800' },
      kind: { type: 'string', default: 'plain' },
      program: { type: 'string' },
      folder: { type: 'string' },
      kernels: { type: 'string', default: root },
      thread: { type: 'boolean' },
      address: { type: 'boolean' },
    },
  })
  const kind = values.thread ? 'thread' : values.address ? 'address' : values.kind
  if (!kinds.includes(kind)) throw new EmulatorError(`--kind ${kind}: ${kinds.join(', ')}`)
  for (const path of values.path.split(',').map(Number)) {
    if (!paths.includes(path)) throw new EmulatorError(`--path ${path}: ${paths.join(', ')}`)
    const files = positionals.length === 0 ? undefined : positionals
    const { output } = await buildEmulator({ ...values, kernels: resolve(values.kernels), path, kind, files })
    console.log(relative(process.cwd(), output))
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  main().catch((error) => {
    if (!(error instanceof EmulatorError)) throw error
    console.error(`ewe: ${error.message}`)
    process.exitCode = 1
  })
}
