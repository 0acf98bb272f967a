#!/usr/bin/env node
// Compiles the kernels (kernels/*.cu, listed in sources.json) for every card and packs them beside the addon (kernel-pack.mjs has the format).
//
//   node scripts/kernels.mjs [--nvcc FILE] [--jobs N] [--force]     prebuilds/PLATFORM/ewe.kernels
//   node scripts/kernels.mjs --path 700|750|800                     build-kernels/path-N.kernels: the code of older cards, compiled for sm_90, so that
//                                                                   one newer card can check it
//
// nvcc is that of .cuda/ (scripts/cuda-toolchain.sh), else of the PATH. What it doesn't know (sm_70, since CUDA 13) is compiled by NVRTC 12.9 of .cuda/.
// A source becomes PTX once for each path (kernels/plan.h), since only the path tells the architectures of one apart, and that becomes a cubin for each of
// them. All of it lies in build-kernels/ with a stamp: a hash of the source, of what it includes, and of the compiler. Beside each cubin lies the log of
// the assembler, which kernel-gates.mjs reads.
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { hashOfPack, kernelsOfCubin, kernelsOfPtx, writePack } from './kernel-pack.mjs'
import { kernelsHash, platformKey, readSources, root } from './sources.mjs'

const folder = join(root, 'build-kernels')
const ptxArchitecture = 90 // newer cards without a cubin have this compiled by their driver

export class KernelError extends Error {}

/** The path of an architecture, as pathOf() of kernels/plan.h says. */
const pathOf = (architecture) => (architecture >= 90 ? 900 : architecture >= 80 ? 800 : architecture >= 75 ? 750 : 700)

export function packFile(forced) {
  return forced === undefined ? join(root, 'prebuilds', platformKey(), 'ewe.kernels') : join(folder, `path-${forced}.kernels`)
}

// ---- The compilers

function tool(command, args) {
  const { status, stdout } = spawnSync(command, args, { encoding: 'utf8' })
  return status === 0 ? stdout : undefined
}

const numbers = (text) => new Set([...text.matchAll(/\d+/g)].map((match) => Number(match[0])))

/** nvcc with its tools, and NVRTC where it is; undefined without nvcc. */
export function findCompilers(chosen) {
  const local = join(root, '.cuda')
  const python = existsSync(join(local, 'lib')) ? readdirSync(join(local, 'lib')).find((name) => name.startsWith('python')) : undefined
  const nvidia = join(local, 'lib', python ?? '', 'site-packages/nvidia')
  const own = join(nvidia, 'cu13/bin/nvcc')
  const onPath = (process.env.PATH ?? '').split(':').map((at) => join(at, 'nvcc'))
  const nvcc = chosen ?? [own, ...onPath].find((path) => existsSync(path))
  if (nvcc === undefined) return undefined
  const version = tool(nvcc, ['--version'])
  if (version === undefined) throw new KernelError(`${nvcc} cannot be run`)
  const bin = dirname(realpathSync(nvcc))
  const compilers = { nvcc, bin, version, architectures: numbers(tool(nvcc, ['--list-gpu-code']) ?? ''), nvrtc: undefined }
  const library = join(nvidia, 'cuda_nvrtc/lib/libnvrtc.so.12')
  if (existsSync(library)) {
    const start = [join(local, 'bin/python'), join(root, 'scripts/nvrtc.py'), library]
    const headers = ['cuda_runtime', 'cuda_nvcc', 'cuda_cccl'].map((part) => `-I${join(nvidia, part, 'include')}`)
    const stamp = readFileSync(join(local, 'stamp'), 'utf8') + readFileSync(join(root, 'scripts/nvrtc.py'), 'utf8')
    compilers.nvrtc = { start, headers, version: stamp, architectures: numbers(tool(start[0], start.slice(1)) ?? '') }
  }
  return compilers
}

// ---- What is to be compiled

/** A source with everything it includes, each file's name and text. Files of the emulator are not among them: only its own build reads them. */
function closure(source, seen = new Map()) {
  if (seen.has(source)) return seen
  const text = readFileSync(join(root, source), 'utf8')
  seen.set(source, text)
  for (const [, name] of text.matchAll(/^\s*#\s*include "([^"]+)"/gm)) {
    if (name.startsWith('emulator/')) continue
    const file = [dirname(source), 'native', '.'].map((at) => join(at, name)).find((path) => existsSync(join(root, path)))
    if (file === undefined) throw new KernelError(`${source}: there is no ${name}`)
    closure(file, seen)
  }
  return seen
}

const textOf = (source) => JSON.stringify([...closure(source)])
const changing = 'the sources of the kernels changed while they were compiled: run it again'

/** The commands that make an object's PTX and cubins, each with the file for what it prints. */
function commandsFor(compilers, source, object, forced) {
  const { ptx, cubins } = object
  const options = ['-std=c++17', `-I${join(root, 'native')}`, `-I${root}`, ...(forced ? [`-DEWE_FORCE_PATH=${object.path}`] : [])]
  if (!compilers.architectures.has(object.architecture)) {
    const { start, headers } = compilers.nvrtc
    const flags = [`-arch=sm_${object.architecture}`, '--ptxas-options=-v', '--device-as-default-execution-space', ...options, ...headers]
    return [{ command: [...start, join(root, source), ptx, cubins[0].file, ...flags], log: cubins[0].log }]
  }
  // Plans and args.h are constexpr for hosts and kernels alike.
  const flags = ['-ptx', '-O3', '--expt-relaxed-constexpr', '-Werror', 'all-warnings', '-Wno-deprecated-gpu-targets', ...options]
  return [
    { command: [compilers.nvcc, ...flags, `-arch=compute_${object.architecture}`, '-o', ptx, join(root, source)] },
    ...cubins.map(({ architecture, file, log }) => {
      return { command: [join(compilers.bin, 'ptxas'), '-v', '-O3', `-arch=sm_${architecture}`, '-o', file, ptx], log }
    }),
  ]
}

/** Every object: source x path, with the architectures of the path; and the architectures that no compiler here knows. */
export function listObjects(compilers, forced) {
  const { sources, architectures } = readSources().kernels
  const known = (architecture) => compilers.architectures.has(architecture) || compilers.nvrtc?.architectures.has(architecture)
  const wanted = forced === undefined ? architectures.map(Number) : [ptxArchitecture]
  const left = wanted.filter((architecture) => !known(architecture))
  const paths = new Map() // path -> its architectures, the lowest first: its PTX is for all of them
  for (const architecture of wanted.filter(known)) {
    const path = forced ?? pathOf(architecture)
    paths.set(path, [...(paths.get(path) ?? []), architecture].sort((a, b) => a - b))
  }
  const objects = sources.flatMap((source) => {
    const text = textOf(source)
    return [...paths].map(([path, group]) => {
      const stem = basename(source, '.cu')
      const base = join(folder, forced === undefined ? `path-${path}` : `forced-${path}`, stem)
      const cubins = group.map((architecture) => ({ architecture, file: `${base}.sm_${architecture}.cubin`, log: `${base}.sm_${architecture}.log` }))
      const object = { source, text, stem, path, architecture: group[0], base, ptx: `${base}.ptx`, cubins }
      const commands = commandsFor(compilers, source, object, forced !== undefined)
      const version = compilers.architectures.has(object.architecture) ? compilers.version : compilers.nvrtc.version
      const hash = createHash('sha256').update(JSON.stringify([commands, version, text])).digest('hex')
      return { ...object, commands, hash }
    })
  })
  return { objects, left }
}

// ---- Compiling and packing

function isCurrent(object) {
  return existsSync(`${object.base}.stamp`) && readFileSync(`${object.base}.stamp`, 'utf8') === object.hash
}

function execute([command, ...args]) {
  return new Promise((resolve, reject) => {
    let output = ''
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text))
    child.on('error', (error) => reject(new KernelError(`${command}: ${error.message}`)))
    child.on('close', (code) => (code === 0 ? resolve(output) : reject(new KernelError(`${[command, ...args].join(' ')}\n${output}`))))
  })
}

async function compile(object) {
  mkdirSync(dirname(object.base), { recursive: true })
  rmSync(`${object.base}.stamp`, { force: true }) // nothing here is current until all of it is
  for (const { command, log } of object.commands) {
    const output = await execute(command)
    if (log !== undefined) writeFileSync(log, output)
  }
  if (textOf(object.source) !== object.text) throw new KernelError(changing)
  writeFileSync(`${object.base}.stamp`, object.hash)
}

async function compileAll(objects, jobs) {
  let next = 0
  let done = 0
  let failed
  const work = async () => {
    while (next < objects.length && failed === undefined) {
      const object = objects[next++]
      const started = Date.now()
      try {
        await compile(object)
        const seconds = ((Date.now() - started) / 1000).toFixed(1)
        console.error(`ewe: kernels: ${object.stem} for path ${object.path} in ${seconds} s (${++done} of ${objects.length})`)
      } catch (error) {
        failed ??= error
      }
    }
  }
  await Promise.all(Array.from({ length: jobs }, work))
  if (failed !== undefined) throw failed
}

/** The images of an object for the pack. */
function imagesOf(object, withPtx) {
  const images = object.cubins.map(({ architecture, file }) => {
    const data = readFileSync(file)
    return { stem: object.stem, path: object.path, architecture, kind: 'cubin', kernels: kernelsOfCubin(data), data }
  })
  if (withPtx && object.architecture === ptxArchitecture) {
    const data = readFileSync(object.ptx)
    images.push({ stem: object.stem, path: object.path, architecture: ptxArchitecture, kind: 'ptx', kernels: kernelsOfPtx(data.toString()), data })
  }
  for (const image of images) if (image.kernels.length === 0) throw new KernelError(`${object.base} for sm_${image.architecture} holds no kernel`)
  return images
}

/** Compiles what changed and packs all. With nothing changed it returns at once. */
export async function buildKernels(compilers, { forced, jobs = Math.min(2, availableParallelism()), force = false } = {}) {
  const { objects, left } = listObjects(compilers, forced)
  const output = packFile(forced)
  const parts = [objects.map((object) => object.hash), readFileSync(join(root, 'scripts/kernel-pack.mjs'), 'utf8')]
  const stamp = createHash('sha256').update(JSON.stringify(parts)).digest('hex')
  const stampFile = `${output}.stamp`
  const hash = kernelsHash()
  if (!force && hashOfPack(output) === hash && existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) return
  const started = Date.now()
  const changed = objects.filter((object) => force || !isCurrent(object))
  await compileAll(changed, jobs)
  if (kernelsHash() !== hash) throw new KernelError(changing)
  mkdirSync(dirname(output), { recursive: true })
  const images = objects.flatMap((object) => imagesOf(object, forced === undefined))
  const bytes = writePack(output, hash, images)
  writeFileSync(stampFile, stamp)
  for (const architecture of left) console.error(`ewe: kernels: none for sm_${architecture}: no compiler here knows it; scripts/cuda-toolchain.sh installs one`)
  const architectures = [...new Set(images.map((image) => image.architecture))].join(' ')
  const count = new Set(images.flatMap((image) => image.kernels)).size
  const [seconds, megabytes] = [(Date.now() - started) / 1000, bytes / 1e6].map((value) => value.toFixed(1))
  console.error(`ewe: built ${output.slice(root.length + 1)} in ${seconds} s: ${count} kernels for sm ${architectures}, ${megabytes} MB`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: { path: { type: 'string' }, nvcc: { type: 'string' }, jobs: { type: 'string' }, force: { type: 'boolean' } },
  })
  try {
    if (values.path !== undefined && !['700', '750', '800'].includes(values.path)) throw new KernelError(`--path ${values.path}: 700, 750 or 800`)
    if (values.jobs !== undefined && !/^[1-9]\d?$/.test(values.jobs)) throw new KernelError(`--jobs ${values.jobs}: from 1 to 99`)
    const compilers = findCompilers(values.nvcc)
    if (compilers === undefined) throw new KernelError('no nvcc in .cuda/ or on the PATH; scripts/cuda-toolchain.sh installs it')
    const [forced, jobs] = [values.path, values.jobs].map((value) => (value === undefined ? undefined : Number(value)))
    await buildKernels(compilers, { forced, jobs, force: values.force })
  } catch (error) {
    if (!(error instanceof KernelError)) throw error
    console.error(`ewe: ${error.message}`)
    process.exitCode = 1
  }
}
