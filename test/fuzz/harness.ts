// What the fuzzers share: random numbers from a seed, mutations, and the promise that is tested. A case ends in a checkpoint or in a
// CheckpointError, within a bounded time and without the process growing.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { readCheckpoint, readFolder } from '../../src/checkpoint/checkpoint.js'
import type { Checkpoint } from '../../src/checkpoint/checkpoint.js'
import { CheckpointError } from '../../src/errors.js'
import { memoryFolder } from '../checkpoint/build.js'
import type { Files } from '../checkpoint/build.js'

/** A case that takes longer hangs: none needs a millisecond, but other processes may hold the machine. */
const MOST_MS = 30_000
/** Most that the process may grow over a run, in MB: what the collector leaves lying about, not what one case needs. */
const MOST_MB = 300
/** One case in so many is written to disk and read from there. */
const DISK_SHARE = 500

export interface FuzzOptions {
  count: number
  seed: number
  /** Is given every checkpoint that was accepted, with its files on disk. */
  accept?: (checkpoint: Checkpoint) => unknown
}

export interface FuzzResult {
  accepted: number
  refused: number
  /** Of the slowest case. */
  slowestMs: number
  seconds: number
  grownMB: number
}

export interface Case {
  files: Files
  /** Whether this one must be accepted. */
  valid?: boolean
}

/** Runs cases. Throws at the first that breaks the promise, with the seed and number that repeat it. */
export async function fuzz(options: FuzzOptions, make: (random: Random) => Case): Promise<FuzzResult> {
  const dir = mkdtempSync(join(tmpdir(), 'ewe-fuzz-'))
  const before = process.resourceUsage().maxRSS
  const begun = performance.now()
  const result = { accepted: 0, refused: 0, slowestMs: 0, seconds: 0, grownMB: 0 }
  try {
    for (let number = 0; number < options.count; number++) {
      // Each case has random numbers of its own, so that it can be repeated alone.
      const one = make(new Random(options.seed * 1_000_003 + number))
      const started = performance.now()
      const outcome = await attempt(one, dir, number % DISK_SHARE === 0)
      const ms = performance.now() - started
      result.slowestMs = Math.max(result.slowestMs, ms)
      const where = `seed ${options.seed}, case ${number}`
      if (ms > MOST_MS) throw new Error(`${where} took ${ms.toFixed(0)} ms`)
      if (outcome instanceof CheckpointError) {
        if (one.valid) throw new Error(`${where} is valid but was refused`, { cause: outcome })
        if (outcome.message.length > 20_000) throw new Error(`${where} gives a message of ${outcome.message.length} characters`)
        result.refused++
      } else if (outcome instanceof Error) {
        throw new Error(`${where} ended in ${outcome.name}`, { cause: outcome })
      } else {
        checkPlacements(outcome, where)
        result.accepted++
        if (options.accept !== undefined) await options.accept(await onDisk(one.files, dir))
      }
    }
  } finally {
    rmSync(dir, { recursive: true })
  }
  result.seconds = (performance.now() - begun) / 1000
  result.grownMB = (process.resourceUsage().maxRSS - before) / 1024
  if (result.grownMB > MOST_MB) throw new Error(`the process grew by ${result.grownMB.toFixed(0)} MB`)
  return result
}

async function attempt(one: Case, dir: string, disk: boolean): Promise<Checkpoint | Error> {
  try {
    return await (disk ? onDisk(one.files, dir) : readFolder(memoryFolder(one.files)))
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error))
  }
}

/** The files stay until the next case. */
function onDisk(files: Files, dir: string): Promise<Checkpoint> {
  const folder = join(dir, 'case')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder)
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content)
  return readCheckpoint(folder)
}

/** What the native loader relies on: every row of a slot is filled once, from rows that exist. */
function checkPlacements(checkpoint: Checkpoint, where: string): void {
  for (const { slot, rows, columns, tensors, blocks } of checkpoint.native.placements) {
    let filled = 0
    for (let i = 0; i < blocks.length; i += 6) {
      const [tensor = 0, source = 0, sourceStep = 0, target = 0, targetStep = 0, count = 0] = blocks.subarray(i, i + 6)
      const stored = tensors[tensor]
      const inside = stored !== undefined && source + (count - 1) * sourceStep < stored.rows && target + (count - 1) * targetStep < rows
      if (!inside || stored.columns !== columns) throw new Error(`${where}: ${slot} has a block outside its tensor`)
      filled += count
    }
    if (filled !== rows) throw new Error(`${where}: ${slot} has ${filled} of ${rows} rows`)
  }
}

/** Numbers from a seed (mulberry32): the same ones every time. */
export class Random {
  private state: number

  constructor(seed: number) {
    this.state = seed | 0
  }

  /** 0 to 1, without 1. */
  unit(): number {
    this.state = (this.state + 0x6d2b79f5) | 0
    let mixed = Math.imul(this.state ^ (this.state >>> 15), this.state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }

  /** 0 to `below` - 1. */
  below(below: number): number {
    return Math.floor(this.unit() * below)
  }

  chance(share: number): boolean {
    return this.unit() < share
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)]
    if (item === undefined && !items.includes(item as T)) throw new Error('nothing to pick from')
    return item as T
  }

  bytes(count: number): Buffer {
    return Buffer.from(Uint8Array.from({ length: count }, () => this.below(256)))
  }
}

/** Numbers at the edges of what readers count with, as text. */
export const EDGES = [
  '0',
  '1',
  '2',
  '-1',
  '7',
  '8',
  '255',
  '256',
  '65535',
  '65536',
  '2147483647',
  '2147483648',
  '4294967295',
  '4294967296',
  '9007199254740991',
  '9007199254740992',
  '9223372036854775807',
  '9223372036854775808',
  '18446744073709551615',
  '18446744073709551616',
  '-0',
  '1e3',
  '1e308',
  '1e999',
  '-1e999',
  '0.1',
  '8.0',
  '1e-400',
  'NaN',
  'Infinity',
  'null',
  'true',
  '""',
  '[]',
  '{}',
  '[[]]',
  '"8"',
  '00',
  '1_000',
  '0x10',
  '9'.repeat(400),
  '9'.repeat(2000),
] as const

/** A copy with a few bytes changed, taken away, doubled or put in. */
export function mutate(random: Random, bytes: Buffer): Buffer {
  let result = Buffer.from(bytes)
  for (let times = 1 + random.below(4); times > 0; times--) {
    const at = random.below(result.length + 1)
    const count = 1 + random.below(random.chance(0.1) ? 64 : 4)
    switch (random.below(6)) {
      case 0:
        if (at < result.length) result[at] = random.below(256)
        break
      case 1:
        if (at < result.length) result[at] = (result[at] ?? 0) ^ (1 << random.below(8))
        break
      case 2:
        result = Buffer.concat([result.subarray(0, at), result.subarray(at + count)])
        break
      case 3:
        result = Buffer.concat([result.subarray(0, at), random.bytes(count), result.subarray(at)])
        break
      case 4:
        result = Buffer.concat([result.subarray(0, at), result.subarray(Math.max(0, at - count))])
        break
      default:
        result = Buffer.from(result.subarray(0, random.chance(0.2) ? at : result.length))
    }
  }
  return result
}

/** A copy of a JSON text in which some numbers and texts are others. */
export function mutateJson(random: Random, text: string): string {
  const tokens = text.split(/(-?\d[\d.eE+-]*|"[^"]*"|[[\]{},:])/)
  for (let times = 1 + random.below(3); times > 0; times--) {
    const at = random.below(tokens.length)
    switch (random.below(5)) {
      case 0:
      case 1:
        tokens[at] = random.pick(EDGES)
        break
      case 2:
        tokens[at] = random.pick(tokens)
        break
      case 3:
        tokens.splice(at, 1 + random.below(3))
        break
      default:
        tokens.splice(at, 0, ...tokens.slice(at, at + 1 + random.below(12)))
    }
  }
  return tokens.join('')
}

/** Runs a fuzzer from the command line: --count N --seed S --accept MODULE (its default export is given every accepted checkpoint). */
export async function main(name: string, run: (options: FuzzOptions) => Promise<FuzzResult>): Promise<void> {
  const { values } = parseArgs({
    options: { count: { type: 'string', default: '100000' }, seed: { type: 'string', default: '1' }, accept: { type: 'string' } },
  })
  const options: FuzzOptions = { count: Number(values.count), seed: Number(values.seed) }
  if (values.accept !== undefined) {
    const module = (await import(pathToFileURL(values.accept).href)) as { default: (checkpoint: Checkpoint) => unknown }
    options.accept = module.default
  }
  const { accepted, refused, slowestMs, seconds, grownMB } = await run(options)
  const outcome = `${accepted + refused} cases, ${accepted} accepted, ${refused} refused`
  console.log(`${name}: ${outcome}, slowest ${slowestMs.toFixed(1)} ms, ${seconds.toFixed(1)} s, grew by ${grownMB.toFixed(0)} MB`)
}
