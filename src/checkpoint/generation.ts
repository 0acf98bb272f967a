import type { Values } from './values.js'

/** What generation_config.json says beside a model. Nothing is filled in. */
export interface GenerationConfig {
  bosTokenId?: number
  /** Every id that ends a text. */
  eosTokenIds?: number[]
  padTokenId?: number
  /** Whether to sample; otherwise the most probable token is taken. */
  doSample?: boolean
  /** From 0 on; 0 is greedy. */
  temperature?: number
  /** 0 keeps all. */
  topK?: number
  /** 0 to 1; 1 keeps all. */
  topP?: number
  /** Above 0; 1 changes nothing. */
  repetitionPenalty?: number
  /** Tokens. */
  maxNewTokens?: number
  /** Tokens, the prompt included. */
  maxLength?: number
}

const LARGEST = 2 ** 31 - 1

/** Reads the values of a generation_config.json. Throws `CheckpointError` for a value of the wrong type or out of its range. */
export function readGeneration(values: Values): GenerationConfig {
  return stated({
    bosTokenId: values.id(['bos_token_id']),
    eosTokenIds: values.ids(['eos_token_id']),
    padTokenId: values.id(['pad_token_id']),
    doSample: values.flag(['do_sample']),
    temperature: values.number(['temperature'], 0, 1e6),
    topK: values.whole(['top_k'], 0, LARGEST),
    topP: values.number(['top_p'], 1e-6, 1),
    repetitionPenalty: values.number(['repetition_penalty'], 1e-6, 1e6),
    maxNewTokens: values.whole(['max_new_tokens'], 1, LARGEST),
    maxLength: values.whole(['max_length'], 1, LARGEST),
  })
}

/** The same without the members that are undefined. */
function stated<T extends object>(values: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as { [K in keyof T]?: NonNullable<T[K]> }
}
