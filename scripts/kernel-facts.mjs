// What the compilers say of each kernel: registers, stack, spills and shared memory from the assembler's log, threads and blocks from the PTX, and its
// instructions. And how many blocks of it fit on a multiprocessor.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Kernel -> { registers, stack, spills, shared } of a log of `ptxas -v`. Bytes; spills are stores and loads together. */
export function readLog(text) {
  const facts = new Map()
  let fact
  for (const line of text.split('\n')) {
    const entry = /Compiling entry function '(\w+)'/.exec(line)
    if (entry) facts.set(entry[1], (fact = { registers: 0, stack: 0, spills: 0, shared: 0 }))
    const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line)
    if (frame && fact) {
      fact.stack += Number(frame[1]) // of the kernel, and of functions it calls
      fact.spills += Number(frame[2]) + Number(frame[3])
    }
    const used = /Used (\d+) registers/.exec(line)
    if (used && fact) {
      fact.registers = Number(used[1])
      fact.shared = Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0)
    }
  }
  return facts
}

/** Kernel -> { threads, blocks, instructions } of PTX: what KERNEL() declares, and opcode -> count. */
export function readPtx(text) {
  const facts = new Map()
  for (const part of text.split(/^\.visible \.entry /m).slice(1)) {
    const name = /^\w+/.exec(part)[0]
    const [, x = '0', y = '1', z = '1'] = /\.maxntid (\d+)(?:, (\d+))?(?:, (\d+))?/.exec(part) ?? []
    const blocks = Number(/\.minnctapersm (\d+)/.exec(part)?.[1] ?? 0)
    facts.set(name, { threads: Number(x) * Number(y) * Number(z), blocks, instructions: count(part.matchAll(/^\s+(?:@!?%p\d+ )?([a-z][\w.:]*)/gm)) })
  }
  return facts
}

/** Kernel -> (opcode -> count) of the machine code that cuobjdump lists. */
export function readSass(text) {
  const facts = new Map()
  for (const part of text.split(/^\s*Function : /m).slice(1)) {
    const name = /^\w+/.exec(part)[0]
    facts.set(name, count(part.matchAll(/\/\*[0-9a-f]{4,}\*\/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)/g)))
  }
  return facts
}

function count(matches) {
  const counts = {}
  for (const match of matches) counts[match[1]] = (counts[match[1]] ?? 0) + 1
  return counts
}

/** How often an instruction that the pattern fits stands in the code. */
export function occurrences(instructions, pattern) {
  return Object.entries(instructions).reduce((sum, [opcode, times]) => sum + (pattern.test(opcode) ? times : 0), 0)
}

/** The listing of a cubin takes longer than all else, so its counts are kept beside it. */
function machineCode(cubin, hash, bin) {
  const file = `${cubin}.census.json`
  if (existsSync(file)) {
    const kept = JSON.parse(readFileSync(file, 'utf8'))
    if (kept.hash === hash) return new Map(Object.entries(kept.kernels))
  }
  const { status, stdout, stderr, error } = spawnSync(join(bin, 'cuobjdump'), ['-sass', cubin], { encoding: 'utf8', maxBuffer: 1 << 30 })
  if (status !== 0) throw new Error(`cuobjdump ${cubin}: ${error?.message ?? stderr}`)
  const kernels = readSass(stdout)
  writeFileSync(file, JSON.stringify({ hash, kernels: Object.fromEntries(kernels) }))
  return kernels
}

/** Kernel -> architecture -> facts, of all objects. No disassembler knows sm_70: its PTX stands for its machine code. */
export function gather(objects, bin) {
  const kernels = new Map()
  const problems = []
  for (const object of objects) {
    const ptx = readPtx(readFileSync(object.ptx, 'utf8'))
    for (const { architecture, file, log } of object.cubins) {
      const facts = readLog(readFileSync(log, 'utf8'))
      const code = architecture >= 75 ? machineCode(file, object.hash, bin) : undefined
      if (facts.size === 0) problems.push(`${object.stem} for sm_${architecture}: the assembler's log names no kernel`)
      for (const [name, fact] of facts) {
        const declared = ptx.get(name)
        const instructions = code === undefined ? declared?.instructions : code.get(name)
        if (declared === undefined || instructions === undefined) {
          problems.push(`${name} for sm_${architecture} is in the assembler's log, but not in the ${declared === undefined ? 'PTX' : 'machine code'}`)
          continue
        }
        if (!kernels.has(name)) kernels.set(name, { stem: object.stem, on: new Map() })
        kernels.get(name).on.set(architecture, { ...fact, threads: declared.threads, blocks: declared.blocks, instructions })
      }
    }
  }
  return { kernels, problems }
}

/** The architecture whose code a card runs (native/cuda/images.cc chooses alike). */
export function architectureOf(computeCapability, architectures) {
  return Math.max(...architectures.filter((one) => one <= computeCapability && Math.floor(one / 10) === Math.floor(computeCapability / 10)))
}

/** Blocks of a launch that a multiprocessor holds at once, by NVIDIA's occupancy rules, and what the limit is. */
export function occupancy(card, { registers, threads, shared }) {
  const warps = Math.ceil(threads / 32)
  // A warp's registers come in pieces of 256, from the quarter of the register file that it lives on.
  const perWarp = Math.ceil((registers * 32) / 256) * 256
  const byRegisters = Math.floor((Math.floor(card.registersPerSm / 4 / perWarp) * 4) / warps)
  // From 8.0 on the system keeps 1 KB of each block's.
  const [piece, kept] = card.computeCapability >= 80 ? [128, 1024] : [256, 0]
  const perBlock = Math.ceil((shared + kept) / piece) * piece
  const limits = { registers: byRegisters, threads: Math.floor(card.threadsPerSm / (warps * 32)), blocks: card.blocksPerSm }
  if (perBlock > 0) limits['shared memory'] = Math.floor(card.sharedPerSm / perBlock)
  const blocks = Math.min(...Object.values(limits))
  return { blocks, limit: Object.keys(limits).find((name) => limits[name] === blocks) }
}
