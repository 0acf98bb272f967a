import type { Asked, Sample, StreamPiece } from '../model.js'

/** Milliseconds, and tokens a second; null where there was nothing to measure. */
export interface Timings {
  /** Until the first token. */
  promptMs: number
  promptTokensPerSecond: number | null
  /** From the first token of the answer to its last. */
  decodeMs: number
  decodeTokensPerSecond: number | null
}

/** What has come of a request so far, and how fast. */
export class Tally {
  readonly samples: Sample[]
  asked: Asked | undefined
  readonly #started = performance.now()
  #first: number | undefined
  #last: number | undefined
  /** Tokens that came with the first one: one of each sample. */
  #withFirst = 0
  #tokens = 0

  constructor(samples: number) {
    this.samples = Array.from({ length: samples }, (_, index) => ({ index, text: '', tokens: [], finishReason: 'length' }))
  }

  add(piece: StreamPiece): void {
    this.asked ??= piece.asked
    const sample = this.samples[piece.index]
    if (sample === undefined) throw new RangeError(`a piece of sample ${piece.index} of ${this.samples.length}`)
    sample.text += piece.text
    if (piece.token !== undefined) {
      sample.tokens.push(piece.token)
      this.#tokens++
      this.#last = performance.now()
      this.#first ??= this.#last
      if (sample.tokens.length === 1) this.#withFirst++
    }
    if (piece.logprob !== undefined) (sample.logprobs ??= []).push(piece.logprob)
    if (piece.finishReason !== undefined) sample.finishReason = piece.finishReason
    if (piece.stopped !== undefined) sample.stopped = piece.stopped
  }

  timings(): Timings {
    const promptMs = (this.#first ?? performance.now()) - this.#started
    const decodeMs = (this.#last ?? 0) - (this.#first ?? 0)
    const decoded = this.#tokens - this.#withFirst
    return {
      promptMs: rounded(promptMs),
      promptTokensPerSecond: this.asked === undefined ? null : rounded((this.asked.promptTokens / promptMs) * 1000),
      decodeMs: rounded(decodeMs),
      decodeTokensPerSecond: decoded === 0 || decodeMs === 0 ? null : rounded((decoded / decodeMs) * 1000),
    }
  }

  /** One line on all of it. */
  summary(): string {
    const { promptTokensPerSecond, decodeTokensPerSecond } = this.timings()
    const speed = (rate: number | null): string => (rate === null ? '' : ` at ${rate.toFixed(0)} tokens/s`)
    const { promptTokens = 0, seed = '' } = this.asked ?? {}
    const ends = new Set(this.samples.map(({ finishReason }) => finishReason))
    const answer = `answer ${this.#tokens} tokens${speed(decodeTokensPerSecond)}`
    return `prompt ${promptTokens} tokens${speed(promptTokensPerSecond)}, ${answer}, seed ${seed}, ended by ${[...ends].join(' and ')}`
  }
}

/** To a thousandth: what follows is noise. */
function rounded(value: number): number {
  return Math.round(value * 1000) / 1000
}
