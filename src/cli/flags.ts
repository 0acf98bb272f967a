import { InvalidArgumentError, type Command } from 'commander'

/** What every command takes. */
export interface CommonFlags {
  json?: boolean
  verbose?: boolean
}

/** Flags that choose a model and how it is loaded. */
export interface ModelFlags extends CommonFlags {
  model?: string
  device?: string
  weights?: string
  threads?: number
  maxContext?: number
  instructionSet?: string
}

/** Flags of the cache, for commands that run many requests. */
export interface CacheFlags {
  pages?: number
  pageSize?: number
  admission?: string
  prefixCache?: boolean
}

/** Flags of a request. They have the names of the options of the library, which checks their ranges. */
export interface SamplingFlags {
  maxNewTokens?: number
  temperature?: number
  topK?: number
  topP?: number
  minP?: number
  repetitionPenalty?: number
  seed?: bigint
  stop?: string[]
}

export function addCommonFlags(command: Command): Command {
  return command.option('--json', 'print JSON, errors too').option('--verbose', 'tell more on stderr, and of errors where they came from')
}

export function addModelFlags(command: Command): Command {
  return command
    .option('--model <model>', 'folder of a model, or its Hub id (org/name or org/name@revision) in the local Hub cache')
    .option('--device <device>', 'auto, cpu, cuda, cuda:N (default: auto)')
    .option('--weights <dtype>', 'dtype of the weights in memory: auto, float32, bfloat16, float16, int8 (default: that of the files)')
    .option('--threads <count>', 'threads of the CPU device (default: one for each processor)', wholeNumber)
    .option('--max-context <tokens>', 'most tokens of prompt and answer together (default: what the model was trained for)', wholeNumber)
    .option('--instruction-set <set>', 'of the CPU device: auto, plain, avx2, avx512, avx512bf16 (default: auto, the best one)')
}

export function addCacheFlags(command: Command): Command {
  return command
    .option('--pages <count>', 'pages of the cache in all (default: what all sequences need, or a share of the memory holds)', wholeNumber)
    .option('--page-size <tokens>', 'tokens of a page, a multiple of 16 (default: 64)', wholeNumber)
    .option('--admission <when>', 'pages: a request starts when its prompt has room; reserve: when its longest answer has room as well (default: pages)')
    .option('--no-prefix-cache', 'compute common beginnings of prompts anew each time')
}

export function addSamplingFlags(command: Command, seed = 'the same seed gives the same text (default: a random one)'): Command {
  return command
    .option('--max-new-tokens <count>', 'most tokens of an answer (default: 256)', wholeNumber)
    .option('--temperature <number>', '0 takes the most probable token (default: 1)', decimal)
    .option('--top-k <count>', 'keep only this many best tokens; 0 keeps all (default: 0)', wholeNumber)
    .option('--top-p <share>', 'keep the fewest best tokens that hold this share of the probability (default: 0.92)', decimal)
    .option('--min-p <share>', "keep tokens with at least this share of the best one's probability (default: 0)", decimal)
    .option('--repetition-penalty <number>', 'above 1, makes tokens that stand in prompt or answer less probable (default: 1)', decimal)
    .option('--seed <number>', seed, bigWholeNumber)
    .option('--stop <text>', 'ends the answer where this text comes, and is cut from it; may be given several times', append)
}

export function wholeNumber(text: string): number {
  const value = Number(text)
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) throw new InvalidArgumentError('Expected a whole number.')
  return value
}

function bigWholeNumber(text: string): bigint {
  if (!/^\d{1,20}$/.test(text)) throw new InvalidArgumentError('Expected a whole number.')
  return BigInt(text)
}

function decimal(text: string): number {
  const value = Number(text)
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) || !Number.isFinite(value)) throw new InvalidArgumentError('Expected a number.')
  return value
}

export function append(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), text]
}
