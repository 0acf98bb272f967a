import { z } from 'zod'
import { OptionError } from './errors.js'

/** Largest count of samples of one request. */
const maxSamples = 1024
const signal = z.instanceof(AbortSignal)
const seed = z.union([z.int().min(0), z.bigint().min(0n).max(0xffff_ffff_ffff_ffffn)])

/** Options of {@link Model.load}. */
export const loadOptions = z.strictObject({
  /**
   * `auto` takes the first CUDA card that can run a model, else the CPU. `emulator:PATH` (700, 750, 800 or 900; built in a clone) runs the kernels of cards
   * of that kind on the CPU, slowly. Default `auto`.
   */
  device: z
    .string()
    .regex(/^(auto|cpu|cuda(:\d{1,4})?|emulator(:(700|750|800|900))?)$/, "'auto', 'cpu', 'cuda', 'cuda:N', 'emulator' or 'emulator:PATH' (700, 750, 800 or 900)")
    .default('auto'),
  /**
   * Dtype of the weights in memory; `auto` is the dtype of the files, or the nearest one that the device multiplies. `int8` halves the memory of 16 bits:
   * whole numbers with a scale for each output, quantised while loading, and the same on every device. Default `auto`.
   */
  weights: z.enum(['auto', 'float32', 'bfloat16', 'float16', 'int8']).default('auto'),
  /** Most tokens of prompt and answer together. Default: what the model was trained for. */
  maxContext: z.int().min(1).max(1 << 24).optional(),
  /** Most sequences of one step. Default 32 on the CPU, 256 on a card, 8 on an emulated one. */
  maxBatch: z.int().min(1).max(4096).optional(),
  /** Tokens of a cache page, a multiple of 16. Default 64. */
  pageSize: z.int().min(16).max(1024).multipleOf(16).default(64),
  /** Tokens of a step that prompts fill up, beside one for each sequence that generates. Default 256. */
  chunk: z.int().min(1).max(65536).default(256),
  /**
   * Cache pages in all. Default: what `maxBatch` sequences at full context need, or what fits a quarter of the free memory, or a card's memory. When they run
   * out, requests that run wait for each other.
   */
  pages: z.int().min(1).max(1 << 24).optional(),
  /** Most requests that wait for their first step; more are refused with QueueFullError. Default 4096. */
  maxQueue: z.int().min(1).max(1 << 24).default(4096),
  /** Prompts with a common beginning share its pages, also with later requests. The same bits with and without. Default true. */
  prefixCache: z.boolean().default(true),
  /**
   * When a request may start: `pages` when its prompt has room, and who came last is sent back if pages run out later; `reserve` when its longest answer
   * has room beside those of all others. Default `pages`.
   */
  admission: z.enum(['pages', 'reserve']).default('pages'),
  /** Threads of the CPU device. Default: one for each processor this process may use. */
  threads: z.int().min(1).max(1024).optional(),
  /** Instruction set of the CPU device. Default `auto`, the best one there is. */
  instructionSet: z.enum(['auto', 'plain', 'avx2', 'avx512', 'avx512bf16']).default('auto'),
  /** Cancels loading. */
  signal: signal.optional(),
  /** Called with bytes done and in all, at most 50 times a second. */
  onProgress: z.custom<(progress: { done: number; total: number }) => void>((value) => typeof value === 'function', 'a function').optional(),
})
export type LoadOptions = z.input<typeof loadOptions>

const sampling = {
  /** Most tokens of the answer. Default 256 (`generate`, `stream`), or generation_config.json's, else 16 (`complete`); never beyond the context. */
  maxNewTokens: z.int().min(1).max(1 << 24).optional(),
  /** 0 is greedy. Default 1 (`generate`, `stream`). */
  temperature: z.number().min(0).max(1e6).refine((value) => value === 0 || value >= 1e-6, '0, or a number from 1e-6 on').optional(),
  /** Keep only this many best tokens (ties stay); 0 keeps all. Default 0 (`generate`, `stream`). */
  topK: z.int().min(0).max(1 << 24).optional(),
  /** Keep the fewest best tokens that hold this share of the probability. Default 0.92 (`generate`, `stream`). */
  topP: z.number().min(1e-6).max(1).optional(),
  /** Keep tokens with at least this share of the best one's probability. Default 0. */
  minP: z.number().min(0).max(1).optional(),
  /** Divides positive and multiplies negative logits of tokens seen before, prompt included. Default 1. */
  repetitionPenalty: z.number().min(1e-6).max(1e6).optional(),
  /** Taken off the logits of tokens that were generated before (OpenAI's definition). Default 0. */
  presencePenalty: z.number().min(-100).max(100).optional(),
  /** The same, once for each time that a token was generated. Default 0. */
  frequencyPenalty: z.number().min(-100).max(100).optional(),
  /** Added to the logits of ids, by id, before all else. At most 1024. */
  logitBias: z.record(z.string().regex(/^\d{1,9}$/, 'token ids as keys'), z.number().min(-1000).max(1000)).optional(),
  /** The same seed gives the same text, whatever else runs. Default: a random one, which the result tells. */
  seed: seed.optional(),
  /** Texts that end the answer and are cut from it. */
  stop: z.union([z.string().min(1).max(1024), z.array(z.string().min(1).max(1024)).max(64)]).optional(),
  /** Samples of the same prompt. Default 1. */
  n: z.int().min(1).max(maxSamples).optional(),
  /** Requests with more start first, and take the places of those with less. Default 0. */
  priority: z.int().min(-1000).max(1000).optional(),
  /** Milliseconds from the call after which the request is given up with DeadlineError. Default: none. */
  deadline: z.number().gt(0).max(1e9).optional(),
  /** Report log-probabilities: of the chosen token (0) and of that many best ones. Default: none. */
  logprobs: z.int().min(0).max(20).optional(),
  /** Ends the request within one token; its promise rejects with the signal's reason. */
  signal: signal.optional(),
}

/** Options of `generate` and `stream`: the instruction pipeline of Dolly. */
export const generateOptions = z.strictObject({
  ...sampling,
  /** Text that the instruction is about; stands in the prompt's `Input:` block. */
  input: z.string().optional(),
  /** Text before the first instruction of a chat. */
  system: z.string().optional(),
  /** Result is instruction, newline, answer. Default false. */
  returnFullText: z.boolean().optional(),
})
export type GenerateOptions = z.input<typeof generateOptions>

/** Options of `complete`: the raw continuation of a prompt. */
export const completeOptions = z.strictObject({
  ...sampling,
  /** Go on past the model's end ids. Default false. */
  ignoreEos: z.boolean().optional(),
  /** Show special tokens in the text. Default false. */
  keepSpecial: z.boolean().optional(),
})
export type CompleteOptions = z.input<typeof completeOptions>

/** Options of `score`. */
export const scoreOptions = z.strictObject({
  /** Report this many best tokens beside each given one, up to 20. Default 0. */
  topLogprobs: z.int().min(0).max(20).default(0),
  signal: signal.optional(),
})
export type ScoreOptions = z.input<typeof scoreOptions>

/** Checks user input against a schema. Throws {@link OptionError} for the first thing that is wrong. */
export function check<S extends z.ZodType>(schema: S, value: unknown, name = 'options'): z.output<S> {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  if (issue === undefined) throw result.error
  const unknown = issue.code === 'unrecognized_keys' ? issue.keys[0] : undefined
  const path = [...issue.path.map(String), ...(unknown === undefined ? [] : [unknown])]
  const received = path.reduce<unknown>((at, key) => (at as Record<string, unknown> | undefined)?.[key], value)
  const known = schema instanceof z.ZodObject ? Object.keys(schema.shape).join(', ') : 'known options'
  throw new OptionError(path.length === 0 ? name : path.join('.'), unknown === undefined ? expectation(issue) : `one of the options ${known}`, received)
}

function expectation(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'too_small':
      return `${issue.origin === 'string' || issue.origin === 'array' ? 'a length of ' : 'a number '}${issue.inclusive === false ? 'above' : 'at least'} ${issue.minimum}`
    case 'too_big':
      return `${issue.origin === 'string' || issue.origin === 'array' ? 'a length of ' : 'a number '}${issue.inclusive === false ? 'below' : 'at most'} ${issue.maximum}`
    case 'not_multiple_of':
      return `a multiple of ${issue.divisor}`
    case 'invalid_value':
      return `one of ${issue.values.map(String).join(', ')}`
    case 'invalid_type':
      return issue.expected === 'int' ? 'a whole number' : `a ${issue.expected}`
    case 'invalid_key':
      return issue.issues[0]?.message ?? issue.message
    case 'invalid_format':
    case 'custom':
      return issue.message
    default:
      return issue.message
  }
}
