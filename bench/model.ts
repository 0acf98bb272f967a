// What a loaded model does in a second. Prompts are random ids, generation is greedy and goes on past end ids, so that every run does the same work.
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Model, type LoadOptions } from '../src/index.js'
import type { facts, Limits } from './machine.js'
import { measure, quantile, type Figure } from './measure.js'

export type Weights = NonNullable<LoadOptions['weights']>

/** How a model is loaded for a bench; threads as in {@link LoadOptions}. */
export interface Setting {
  model: string
  weights: Weights
  instructionSet: NonNullable<LoadOptions['instructionSet']>
  threads: number | undefined
  /** How long to measure each figure. */
  seconds: number
}

/** GB/s and GFLOP/s are what the figure's median amounts to: least traffic with memory, and arithmetic of matrices and attention. */
export interface Rate extends Figure {
  unit: string
  tokens: number
  gbs?: number
  gflops?: number
}

/** Requests at once. */
export const counts = [1, 8, 32] as const
export type Counts<T> = Record<`${(typeof counts)[number]}`, T>

const depth = 16 // tokens of the prompt before decoding
const length = 64 // steps of decoding

export function open(setting: Setting, maxContext = 1024, maxBatch = 32): Promise<Model> {
  const { weights, instructionSet, threads } = setting
  return Model.load(setting.model, { device: 'cpu', weights, instructionSet, maxContext, maxBatch, ...(threads === undefined ? {} : { threads }) })
}

/** Milliseconds from a folder whose files are in the page cache to a model that can be asked. */
export async function load(setting: Setting): Promise<Figure & { unit: string; mb: number; mbs: number }> {
  const figure = await measure('load', setting.seconds, async () => {
    const start = performance.now()
    const model = await open(setting)
    const time = performance.now() - start
    await model.dispose()
    return time
  })
  const mb = (await weightBytes(setting.model)) / 1e6
  return { ...figure, unit: 'ms', mb, mbs: mb / (figure.median / 1e3) }
}

async function weightBytes(folder: string): Promise<number> {
  const names = (await readdir(folder)).filter((name) => /\.(safetensors|bin)$/.test(name))
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(folder, name))).size))
  return sizes.reduce((sum, size) => sum + size, 0)
}

/** Tokens a second of a prompt, up to its first new token. */
export async function prefill(model: Model, seconds: number): Promise<Rate> {
  const tokens = Math.min(512, model.plan.maxContext - 1)
  let seed = 0
  const figure = await measure('prefill', seconds, async () => {
    const prompt = randomTokens(model, tokens, seed++)
    const start = performance.now()
    await model.complete(prompt, { maxNewTokens: 1, temperature: 0, ignoreEos: true })
    return tokens / ((performance.now() - start) / 1e3)
  })
  const { layers, hidden, heads, headSize, vocab } = model.config
  const products = 2 * (tokens * layerWeights(model) * layers + vocab * hidden)
  const attention = 2 * tokens * (tokens + 1) * heads * headSize * layers
  return { ...figure, unit: 'tokens/s', tokens, gflops: ((products + attention) * figure.median) / tokens / 1e9 }
}

/**
 * Tokens a second after prompts of 16 tokens, summed over so many requests at once, each with a prompt of its own: what many tokens take longer than one.
 * (The tokens' arrival in JavaScript says less: with a small model several steps arrive together.)
 */
export async function decode(model: Model, count: number, seconds: number): Promise<Rate> {
  const steps = Math.min(length, model.plan.maxContext - depth - 1)
  let seed = 0
  const figure = await measure(`decode ${count}`, seconds, async () => {
    const prompts = Array.from({ length: count }, () => randomTokens(model, depth, seed++))
    const time = async (maxNewTokens: number): Promise<number> => {
      const start = performance.now()
      await Promise.all(prompts.map((prompt) => model.complete(prompt, { maxNewTokens, temperature: 0, ignoreEos: true })))
      return performance.now() - start
    }
    await time(1) // then the prompts' pages are known, and both of the next find them
    const one = await time(1)
    return (steps * count) / (((await time(steps + 1)) - one) / 1e3)
  })
  const bytes = model.plan.memory['weights']! + model.plan.memory['vectors']!
  return { ...figure, unit: 'tokens/s', tokens: steps * count, gbs: (bytes * figure.median) / count / 1e9 }
}

/** Shares, 0 to 1, of what is not the model's work: of the loop's time that outside the device, and of all time that in which JavaScript runs. */
export interface Requests extends Rate {
  scheduling: number
  javascript: number
}

/** Tokens a second of so many requests at once, each with a prompt of its own, from the first to the last of their streamed answers. */
export async function requests(model: Model, count: number, seconds: number): Promise<Requests> {
  const tokens = Math.min(length, model.plan.maxContext - depth)
  let seed = 0
  const [before, utilization] = [model.stats(), performance.eventLoopUtilization()]
  const figure = await measure(`requests ${count}`, seconds, async () => {
    const prompts = Array.from({ length: count }, () => randomTokens(model, depth, seed++))
    const start = performance.now()
    await Promise.all(
      prompts.map(async (prompt) => {
        for await (const _ of model.streamComplete(prompt, { maxNewTokens: tokens, temperature: 0, ignoreEos: true }));
      }),
    )
    return (tokens * count) / ((performance.now() - start) / 1e3)
  })
  const after = model.stats()
  const busy = after.busySeconds - before.busySeconds
  const scheduling = 1 - (after.deviceSeconds - before.deviceSeconds) / busy
  const javascript = performance.eventLoopUtilization(utilization).utilization
  return { ...figure, unit: 'tokens/s', tokens: tokens * count, scheduling, javascript }
}

/** Elements of the matrices of one layer. */
function layerWeights(model: Model): number {
  const { hidden, heads, kvHeads, headSize, inner } = model.config
  return hidden * headSize * (2 * heads + 2 * kvHeads) + 2 * hidden * inner
}

/** Lateness of a timer in milliseconds. */
export interface Lateness {
  p50: number
  p99: number
  most: number
  timers: number
}

/** How late a timer of 1 ms is on the JavaScript thread: with nothing to do, and while prompts of 512 tokens and answers of 64 are under way. */
export async function timer(model: Model, seconds: number): Promise<{ idle: Lateness; generating: Lateness }> {
  const idle = await lateness(sleep(seconds * 1e3))
  const end = performance.now() + seconds * 1e3
  const prompt = randomTokens(model, Math.min(512, model.plan.maxContext - length - 1), 1)
  const generate = async (): Promise<void> => {
    while (performance.now() < end) {
      const answer = model.streamComplete(prompt, { maxNewTokens: length, temperature: 0, ignoreEos: true })
      for await (const _ of answer) if (performance.now() > end) break
    }
  }
  return { idle, generating: await lateness(generate()) }
}

async function lateness(work: Promise<void>): Promise<Lateness> {
  const late: number[] = []
  let asked = performance.now()
  let next: NodeJS.Timeout
  const tick = (): void => {
    const now = performance.now()
    late.push(Math.max(0, now - asked - 1))
    asked = now
    next = setTimeout(tick, 1)
  }
  next = setTimeout(tick, 1)
  try {
    await work
  } finally {
    clearTimeout(next)
  }
  return { p50: quantile(late, 0.5), p99: quantile(late, 0.99), most: Math.max(...late), timers: late.length }
}

/** Tokens a second through the iterator of a stream, drawn as `generate` draws them: what an answer's way costs where the model costs little. */
export async function text(model: Model, sequences: number, seconds: number): Promise<Rate & { characters: number }> {
  const maxNewTokens = Math.min(length, model.plan.maxContext - depth)
  const options = { n: sequences, maxNewTokens, seed: 1, temperature: 1, topP: 0.92, ignoreEos: true }
  let characters = 0
  const figure = await measure(`text ${sequences}`, seconds, async () => {
    characters = 0
    let tokens = 0
    const start = performance.now()
    for await (const piece of model.streamComplete(randomTokens(model, depth, 1), options)) {
      characters += piece.text.length
      if (piece.token !== undefined) tokens++
    }
    return tokens / ((performance.now() - start) / 1e3)
  })
  return { ...figure, unit: 'tokens/s', tokens: maxNewTokens * sequences, characters }
}

/** Ids that look like nothing, the same for the same seed. */
function randomTokens(model: Model, count: number, seed: number): Int32Array {
  let state = seed
  return Int32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state >>> 8) % model.config.vocab
  })
}

/** Everything of one call of `npm run bench`, as --json prints it. */
export interface Report {
  machine: ReturnType<typeof facts> & { limits?: Limits }
  model: { folder: string; weights: string; threads: number; instructionSet: string }
  load?: Awaited<ReturnType<typeof load>>
  prefill?: Rate
  decode?: Counts<Rate>
  timer?: { idle: Lateness; generating: Lateness }
  text?: Counts<Rate>
  requests?: Counts<Requests>
}
