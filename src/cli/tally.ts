import type { Asked, Plan, Sample, StreamPiece } from '../answers.js'

/** Milliseconds, and tokens a second; null where there was nothing to measure. */
export interface Timings {
  /** Until the first token came. */
  promptMs: number
  promptTokensPerSecond: number | null
  /** From then until the last token came. */
  decodeMs: number
  decodeTokensPerSecond: number | null
}

/** A sample that may be unfinished. */
interface Tallied extends Omit<Sample, 'finishReason'> {
  finishReason: Sample['finishReason'] | 'cancelled'
}

/** What has come of a request so far, and how fast. */
export class Tally {
  readonly samples: Tallied[]
  asked: Asked | undefined
  readonly #started = performance.now()
  #first: number | undefined
  #last: number | undefined
  /** Tokens that came in the same turn of the event loop as the first one: nothing is known of their times. */
  #withFirst = 0
  #firstTurn = true
  /** Of all samples. */
  tokens = 0

  constructor(samples: number) {
    this.samples = Array.from({ length: samples }, (_, index) => ({ index, text: '', tokens: [], finishReason: 'cancelled' }))
  }

  add(piece: StreamPiece): void {
    this.asked ??= piece.asked
    const sample = this.samples[piece.index]
    if (sample === undefined) throw new RangeError(`a piece of sample ${piece.index} of ${this.samples.length}`)
    sample.text += piece.text
    if (piece.token !== undefined) {
      sample.tokens.push(piece.token)
      this.tokens++
      this.#last = performance.now()
      if (this.#first === undefined) setImmediate(() => (this.#firstTurn = false))
      this.#first ??= this.#last
      if (this.#firstTurn) this.#withFirst++
    }
    if (piece.logprob !== undefined) (sample.logprobs ??= []).push(piece.logprob)
    if (piece.finishReason !== undefined) sample.finishReason = piece.finishReason
    if (piece.stopped !== undefined) sample.stopped = piece.stopped
  }

  timings(): Timings {
    const promptMs = (this.#first ?? performance.now()) - this.#started
    const decodeMs = (this.#last ?? 0) - (this.#first ?? 0)
    const decoded = this.tokens - this.#withFirst
    return {
      promptMs: rounded(promptMs),
      promptTokensPerSecond: this.asked === undefined ? null : rounded((this.asked.promptTokens / promptMs) * 1000),
      decodeMs: rounded(decodeMs),
      decodeTokensPerSecond: decoded === 0 ? null : rounded((decoded / decodeMs) * 1000),
    }
  }

  /** Of the first sample. */
  get text(): string {
    return this.samples[0]?.text ?? ''
  }

  /** What --json prints. The seed is text because a number in JSON does not hold 64 bits. */
  json(plan: Plan): Record<string, unknown> & { timings: Timings } {
    const all = this.samples.map(({ text, finishReason, stopped, tokens, logprobs }) => ({ text, finishReason, stopped, tokens, logprobs }))
    return {
      ...all[0],
      ...(all.length === 1 ? {} : { samples: all }),
      ...this.asked,
      ...(this.asked === undefined ? {} : { seed: String(this.asked.seed) }),
      device: plan.device,
      weights: plan.weights,
      timings: this.timings(),
    }
  }

  /** One line on all of it. */
  summary(): string {
    const { promptTokensPerSecond, decodeTokensPerSecond } = this.timings()
    const speed = (rate: number | null): string => (rate === null ? '' : ` at ${rate.toFixed(0)} tokens/s`)
    const { promptTokens = 0, seed = '' } = this.asked ?? {}
    const ends = new Set(this.samples.map(({ finishReason }) => finishReason))
    const answer = `answer ${this.tokens} tokens${speed(decodeTokensPerSecond)}`
    return `prompt ${promptTokens} tokens${speed(promptTokensPerSecond)}, ${answer}, seed ${seed}, ended by ${[...ends].join(' and ')}`
  }
}

/** To a thousandth: what follows is noise. */
function rounded(value: number): number {
  return Math.round(value * 1000) / 1000
}
