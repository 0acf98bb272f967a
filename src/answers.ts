// What a model answers, as types.
import type { WeightsName } from './native.js'

/** Log-probabilities are natural logarithms, of the model's own distribution, before temperature and other processors. */
export interface TokenLogprob {
  token: number
  logprob: number
  /** The best tokens at this place, best first; empty unless asked for. */
  top: { token: number; logprob: number }[]
}

/** One answer to a prompt. */
export interface Sample {
  /** 0 to n - 1. */
  index: number
  text: string
  /** Ids generated, the one that ended the answer included. */
  tokens: number[]
  /** `stop`: an end id or a stop text; `length`: maxNewTokens or the end of the context. */
  finishReason: 'stop' | 'length'
  /** The end id or stop text, after `stop`. */
  stopped?: number | string
  /** One entry a token, when asked for. */
  logprobs?: TokenLogprob[]
}

/** What a request was made of. */
export interface Asked {
  /** Ids of the prompt. */
  promptTokens: number
  /** The seed used: give it again for the same text. */
  seed: bigint
  /** Of a chat: how many of its oldest exchanges did not fit the context. */
  droppedTurns: number
}

/** What a request gives: its first sample, and all of them. */
export interface Generation extends Sample, Asked {
  samples: Sample[]
  /** Ids of the prompt that were in the cache, of others that begin alike. This alone depends on what ran before. */
  cachedTokens: number
}

/** A piece of an answer under way. */
export interface StreamPiece {
  /** On the first piece of all. */
  asked?: Asked
  /** Which sample it belongs to. */
  index: number
  /** Text that is final; may be empty while characters or a possible stop text are incomplete. */
  text: string
  /** The token generated; absent in a last piece of text that was held back. */
  token?: number
  logprob?: TokenLogprob
  /** On the last piece of a sample. */
  finishReason?: 'stop' | 'length'
  stopped?: number | string
  /** On the last piece of all: as of {@link Generation}. */
  cachedTokens?: number
}

/** What a model takes and where its limits are. */
export interface Plan {
  /** As {@link devices} names it. */
  device: string
  weights: WeightsName
  maxContext: number
  maxBatch: number
  pageSize: number
  threads: number
  /** Bytes by part. */
  memory: Record<string, number>
}

/** What a finished request took. Milliseconds from the call. */
export interface Finished {
  promptTokens: number
  /** Of all samples. */
  generatedTokens: number
  /** Absent when it ended before. */
  firstToken: number | undefined
  total: number
  /** Absent as far as it did not come: until its first step, from there to its first token, and from there to its end. */
  queue: number | undefined
  prefill: number | undefined
  decode: number | undefined
  /** Of the sample that ended last. */
  reason: 'stop' | 'length' | 'cancelled' | 'error'
}

/** Hears of all requests of a model: for statistics. */
export interface Watcher {
  /** A token came this many milliseconds after the one before it in its sample. */
  token(gap: number): void
  finished(request: Finished): void
}
