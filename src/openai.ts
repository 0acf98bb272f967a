// The bodies of OpenAI's completions and chat completions: what a request asks of a model, and what its answer looks like. A server and a batch job both
// speak through this file; it knows nothing of HTTP and of files.
import { setMaxListeners } from 'node:events'
import type { Generation, Sample, TokenLogprob } from './answers.js'
import { OptionError } from './errors.js'
import type { Model } from './model.js'
import type { CompleteOptions, GenerateOptions } from './options.js'
import { packageVersion } from './package.js'
import type { ChatTurn } from './prompts.js'
import { TextOffsets } from './openai/offsets.js'
import type { ChatBody, CompletionBody } from './openai/bodies.js'

export { chatBody, completionBody, type ChatBody, type CompletionBody } from './openai/bodies.js'

/** What a body does not say of its answer. */
export interface AnswerContext {
  /** Of the answer, `cmpl-...` or `chatcmpl-...`. */
  id: string
  /** Seconds since 1970; 0 where answers must not depend on the time. */
  created: number
  /** The model's name as clients know it. */
  model: string
  /** Seed of a prompt, by its place in the body, where the body has none. Default: random ones. */
  seed?: ((prompt: number) => bigint) | undefined
  /** What a completions body without `parse_special` means. Default false. */
  parseSpecial?: boolean | undefined
  /** Whether usage tells what of the prompts was in the cache. It depends on what ran before: not for answers that must not. Default false. */
  cacheUsage?: boolean | undefined
  priority?: number | undefined
  /** Milliseconds. */
  deadline?: number | undefined
  signal?: AbortSignal | undefined
}

export interface Usage {
  prompt_tokens: number
  completion_tokens: number
  total_tokens: number
  prompt_tokens_details?: { cached_tokens: number }
}

/** What {@link Usage} is made of. */
export interface Tally {
  promptTokens: number
  /** Found in the cache; 0 for prompts whose own log-probabilities are asked for. */
  cachedTokens: number
  completionTokens: number
}

/** One list for each column, one entry a token. The first token of a prompt has no log-probability. */
export interface CompletionLogprobs {
  tokens: string[]
  token_logprobs: (number | null)[]
  top_logprobs: (Record<string, number> | null)[]
  /** Characters (code points) of the text before the token. */
  text_offset: number[]
}

export interface CompletionChoice {
  text: string
  index: number
  logprobs: CompletionLogprobs | null
  finish_reason: 'stop' | 'length' | null
}

export interface Completion {
  id: string
  object: 'text_completion'
  created: number
  model: string
  system_fingerprint: string
  choices: CompletionChoice[]
  usage: Usage
}

export interface ChatLogprob {
  token: string
  logprob: number
  bytes: number[]
}

export interface ChatLogprobs {
  content: (ChatLogprob & { top_logprobs: ChatLogprob[] })[]
  refusal: null
}

export interface ChatChoice {
  index: number
  message: { role: 'assistant'; content: string; refusal: null }
  logprobs: ChatLogprobs | null
  finish_reason: 'stop' | 'length'
}

export interface ChatCompletion {
  id: string
  object: 'chat.completion'
  created: number
  model: string
  system_fingerprint: string
  choices: ChatChoice[]
  usage: Usage
}

/** One prompt of a completions body as a call of {@link Model.complete} or `streamComplete`. */
export interface CompletionCall {
  /** Place in the body; its choices are numbered `prompt * n + sample`. */
  prompt: number
  tokens: Int32Array
  /** What stands before the answer: the prompt with `echo`, else nothing. */
  echo: string
  options: CompleteOptions
}

/** A chat body as a call of {@link Model.generate} or `stream`. */
export interface ChatCall {
  turns: ChatTurn[]
  options: GenerateOptions
}

/** The model's name, version and how it computes: equal answers need an equal one. */
export function fingerprint(model: Model): string {
  return `ewe-${packageVersion()}-${model.plan.device}-${model.plan.weights}`
}

export function usageOf({ promptTokens, cachedTokens, completionTokens }: Tally, { cacheUsage }: AnswerContext): Usage {
  const total = { prompt_tokens: promptTokens, completion_tokens: completionTokens, total_tokens: promptTokens + completionTokens }
  return cacheUsage === true ? { ...total, prompt_tokens_details: { cached_tokens: cachedTokens } } : total
}

/**
 * The calls that a completions body asks for, one for each of its prompts. What the body leaves out has OpenAI's defaults: 16 tokens, temperature 1, all
 * of the vocabulary. The body's seed holds for each prompt, so that its answer does not depend on its neighbours.
 *
 * @throws TokenizerError.
 */
export async function completionCalls(model: Model, body: CompletionBody, context: AnswerContext): Promise<CompletionCall[]> {
  const prompts = promptsOf(body.prompt)
  const best = body.best_of ?? body.n
  const special = body.parse_special ?? context.parseSpecial ?? false
  const encode = (text: string): Promise<Int32Array> => (special ? model.tokenizer.encodeWithSpecial(text) : model.tokenizer.encode(text))
  return await Promise.all(
    prompts.map(async (given, prompt) => {
      const tokens = typeof given === 'string' ? await encode(given) : idsOf(model, given, prompt)
      const left = Math.max(1, model.plan.maxContext - tokens.length)
      const options: CompleteOptions = {
        ...commonOptions(body, context, prompt),
        maxNewTokens: body.max_tokens ?? Math.min(16, left),
        temperature: body.temperature ?? 1,
        topP: body.top_p ?? 1,
        topK: body.top_k ?? 0,
        minP: body.min_p ?? 0,
        repetitionPenalty: body.repetition_penalty ?? 1,
        n: best,
        // The best of several are chosen by their log-probabilities.
        logprobs: body.logprobs ?? (best > body.n ? 0 : undefined),
        ignoreEos: body.ignore_eos,
      }
      const echo = body.echo ? (typeof given === 'string' ? given : model.tokenizer.decode(tokens, { skipSpecial: false })) : ''
      return { prompt, tokens, echo, options }
    }),
  )
}

/** The call that a chat body asks for. What it leaves out has the defaults of Dolly's pipeline. */
export function chatCall(body: ChatBody, context: AnswerContext): ChatCall {
  return {
    turns: body.messages.map(({ role, content }) => ({ role: role === 'developer' ? 'system' : role, content })),
    options: {
      ...commonOptions(body, context, 0),
      maxNewTokens: body.max_completion_tokens ?? body.max_tokens,
      temperature: body.temperature,
      topP: body.top_p,
      topK: body.top_k,
      minP: body.min_p,
      repetitionPenalty: body.repetition_penalty,
      n: body.n,
      logprobs: body.logprobs ? (body.top_logprobs ?? 0) : undefined,
    },
  }
}

/**
 * Answers a completions body.
 *
 * @throws OptionError, ContextLengthError, TokenizerError, QueueFullError, DeadlineError, NumericError; the signal's reason.
 */
export async function complete(model: Model, body: CompletionBody, context: AnswerContext): Promise<Completion> {
  // A prompt alone has no others to end.
  const { signal, abort, release } = promptsOf(body.prompt).length > 1 ? linked(context.signal) : { signal: context.signal, abort: () => {}, release: () => {} }
  try {
    const calls = await completionCalls(model, body, { ...context, signal })
    const answers = await Promise.all(calls.map((call) => answer(model, body, call, signal)))
    return {
      id: context.id,
      object: 'text_completion',
      created: context.created,
      model: context.model,
      system_fingerprint: fingerprint(model),
      choices: answers.flatMap(({ choices }) => choices),
      usage: usageOf(answers.map(({ tally }) => tally).reduce(added), context),
    }
  } catch (error) {
    abort() // one prompt failed, or all were given up: the others are not wanted any more
    throw error
  } finally {
    release()
  }
}

/**
 * Answers a chat body with the model's template.
 *
 * @throws as {@link complete}.
 */
export async function chat(model: Model, body: ChatBody, context: AnswerContext): Promise<ChatCompletion> {
  const { turns, options } = chatCall(body, context)
  const { samples, promptTokens, cachedTokens } = await model.generate(turns, options)
  return {
    id: context.id,
    object: 'chat.completion',
    created: context.created,
    model: context.model,
    system_fingerprint: fingerprint(model),
    choices: samples.map(({ index, text, logprobs, finishReason }) => ({
      index,
      message: { role: 'assistant', content: text, refusal: null },
      logprobs: logprobs === undefined ? null : chatLogprobs(model, logprobs),
      finish_reason: finishReason,
    })),
    usage: usageOf({ promptTokens, cachedTokens, completionTokens: countTokens(samples) }, context),
  }
}

/** Log-probabilities of a prompt's tokens, the first of which has none. */
export async function promptLogprobs(model: Model, body: CompletionBody, call: CompletionCall, signal?: AbortSignal): Promise<(TokenLogprob | null)[]> {
  const [scored = []] = await model.score([call.tokens], { topLogprobs: body.logprobs ?? 0, signal })
  return scored
}

/** The columns of a choice's log-probabilities; of a stream, those of the tokens since the last {@link take}. */
export class LogprobColumns {
  readonly #model: Model
  readonly #asIds: boolean
  readonly #offsets: TextOffsets
  #columns = emptyColumns()

  constructor(model: Model, body: CompletionBody) {
    this.#model = model
    this.#asIds = body.return_tokens_as_token_ids
    this.#offsets = new TextOffsets(model.tokenizer)
  }

  /** A prompt's tokens, with {@link promptLogprobs}. */
  addPrompt(tokens: Int32Array, logprobs: readonly (TokenLogprob | null)[]): void {
    tokens.forEach((token, i) => this.#add(token, logprobs[i] ?? null))
  }

  add(logprob: TokenLogprob): void {
    this.#add(logprob.token, logprob)
  }

  take(): CompletionLogprobs {
    const columns = this.#columns
    this.#columns = emptyColumns()
    return columns
  }

  #add(token: number, entry: TokenLogprob | null): void {
    const { tokens, token_logprobs: logprobs, top_logprobs: tops, text_offset: offsets } = this.#columns
    tokens.push(this.#text(token))
    logprobs.push(entry === null ? null : entry.logprob)
    tops.push(entry === null ? null : this.#top(entry))
    offsets.push(this.#offsets.before(token))
  }

  /** By text. Several ids can have one text, such as parts of a character: the most probable one counts. The token itself always stands among them. */
  #top({ token, logprob, top }: TokenLogprob): Record<string, number> {
    const texts = new Map<string, number>()
    for (const one of [...top, { token, logprob }]) {
      const text = this.#text(one.token)
      texts.set(text, Math.max(one.logprob, texts.get(text) ?? -Infinity))
    }
    return Object.fromEntries(texts)
  }

  #text(token: number): string {
    return this.#asIds ? `token_id:${token}` : tokenText(this.#model, token)
  }
}

export function chatLogprobs(model: Model, entries: readonly TokenLogprob[]): ChatLogprobs {
  const one = ({ token, logprob }: { token: number; logprob: number }): ChatLogprob => ({
    token: tokenText(model, token),
    logprob,
    bytes: TextOffsets.bytesOf(model.tokenizer, token),
  })
  return { content: entries.map((entry) => ({ ...one(entry), top_logprobs: entry.top.map(one) })), refusal: null }
}

async function answer(
  model: Model,
  body: CompletionBody,
  call: CompletionCall,
  signal: AbortSignal | undefined,
): Promise<{ choices: CompletionChoice[]; tally: Tally }> {
  const scored = body.echo && body.logprobs !== undefined
  const scores = scored ? await promptLogprobs(model, body, call, signal) : []
  const { samples, cachedTokens } = call.options.maxNewTokens === 0 ? nothing(body.n) : await model.complete(call.tokens, call.options)
  const choices = chooseBest(samples, body.n).map((sample, i): CompletionChoice => {
    const index = call.prompt * body.n + i
    const columns = new LogprobColumns(model, body)
    if (body.logprobs !== undefined) {
      if (body.echo) columns.addPrompt(call.tokens, scores)
      sample.logprobs?.forEach((entry) => columns.add(entry))
    }
    return { text: call.echo + sample.text, index, logprobs: body.logprobs === undefined ? null : columns.take(), finish_reason: sample.finishReason }
  })
  return { choices, tally: { promptTokens: call.tokens.length, cachedTokens: scored ? 0 : cachedTokens, completionTokens: countTokens(samples) } }
}

/** The answers to a body that asks for no token: a prompt echoed, with its log-probabilities. */
function nothing(n: number): Pick<Generation, 'samples' | 'cachedTokens'> {
  return { samples: Array.from({ length: n }, (_, index): Sample => ({ index, text: '', tokens: [], finishReason: 'length', logprobs: [] })), cachedTokens: 0 }
}

/** The samples with the best log-probability a token, best first; all of them stay as they are. */
function chooseBest(samples: readonly Sample[], n: number): readonly Sample[] {
  if (samples.length <= n) return samples
  const mean = ({ logprobs = [] }: Sample): number => logprobs.reduce((sum, { logprob }) => sum + logprob, 0) / Math.max(1, logprobs.length)
  return samples
    .map((sample) => ({ sample, score: mean(sample) }))
    .sort((a, b) => b.score - a.score)
    .slice(0, n)
    .map(({ sample }) => sample)
}

function commonOptions(body: CompletionBody | ChatBody, context: AnswerContext, prompt: number): GenerateOptions & CompleteOptions {
  return {
    presencePenalty: body.presence_penalty,
    frequencyPenalty: body.frequency_penalty,
    logitBias: body.logit_bias,
    // Clients send signed numbers too.
    seed: body.seed === undefined ? context.seed?.(prompt) : BigInt.asUintN(64, BigInt(body.seed)),
    stop: body.stop,
    priority: context.priority,
    deadline: context.deadline,
    signal: context.signal,
  }
}

function promptsOf(prompt: CompletionBody['prompt']): (string | readonly number[])[] {
  if (typeof prompt === 'string') return [prompt]
  return typeof prompt[0] === 'number' ? [prompt as number[]] : (prompt as string[] | number[][])
}

function idsOf(model: Model, ids: readonly number[], prompt: number): Int32Array {
  const wrong = ids.findIndex((id) => id >= model.config.vocab)
  if (wrong >= 0) throw new OptionError(`prompt[${prompt}][${wrong}]`, `a token id from 0 to ${model.config.vocab - 1}`, ids[wrong])
  return Int32Array.from(ids)
}

/** Special tokens are shown; a part of a character is U+FFFD. */
function tokenText(model: Model, token: number): string {
  return model.tokenizer.decode([token], { skipSpecial: false })
}

function added(a: Tally, b: Tally): Tally {
  return { promptTokens: a.promptTokens + b.promptTokens, cachedTokens: a.cachedTokens + b.cachedTokens, completionTokens: a.completionTokens + b.completionTokens }
}

function countTokens(samples: readonly Sample[]): number {
  return samples.reduce((sum, { tokens }) => sum + tokens.length, 0)
}

function emptyColumns(): CompletionLogprobs {
  return { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] }
}

/** A signal that follows another one and can be aborted by itself. */
function linked(outer: AbortSignal | undefined): { signal: AbortSignal; abort: () => void; release: () => void } {
  const controller = new AbortController()
  setMaxListeners(0, controller.signal) // each prompt listens
  const follow = (): void => controller.abort(outer?.reason)
  if (outer?.aborted === true) follow()
  outer?.addEventListener('abort', follow, { once: true })
  return { signal: controller.signal, abort: () => controller.abort(), release: () => outer?.removeEventListener('abort', follow) }
}
