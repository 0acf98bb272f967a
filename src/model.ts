// The public face of a model; what it answers is in answers.ts. A request's way from here: prompts.ts (text, its parts marked), tokenizer (ids), engine.ts (one crossing into native code),
// and back as events of ids and text.
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { basename, resolve } from 'node:path'
import { readCheckpoint, type Checkpoint } from './checkpoint/checkpoint.js'
import type { ModelSpec } from './checkpoint/config.js'
import type { GenerationConfig } from './checkpoint/generation.js'
import { resolveModel } from './checkpoint/hub.js'
import type { Generation, Plan, Sample, StreamPiece, TokenLogprob, Watcher } from './answers.js'
import { Engine } from './engine.js'
import { ContextLengthError, OptionError, TokenizerError } from './errors.js'
import { loadNative, type NativeEvent, type NativeRequest, type NativeStats } from './native.js'
import {
  check,
  completeOptions,
  generateOptions,
  loadOptions,
  scoreOptions,
  type CompleteOptions,
  type GenerateOptions,
  type LoadOptions,
  type ScoreOptions,
} from './options.js'
import { nativeOptions } from './plan.js'
import { chooseTemplate, cutResponse, fitChat, fullText, instructionPrompt, ResponseCutter } from './prompts.js'
import type { ChatTurn, Part, Template } from './prompts.js'
import { Tokenizer } from './tokenizer/tokenizer.js'

/** A request with all defaults in place. */
interface Prepared {
  request: NativeRequest
  droppedTurns: number
  signal: AbortSignal | undefined
}

type Options = Partial<ReturnType<typeof generateOptions.parse>> & Partial<ReturnType<typeof completeOptions.parse>>
type Defaults = Record<'temperature' | 'topK' | 'topP' | 'minP' | 'repetitionPenalty' | 'maxNewTokens', number>

// generate.py's defaults: sampling with top-p alone.
const dollyDefaults: Defaults = { temperature: 1, topK: 0, topP: 0.92, minP: 0, repetitionPenalty: 1, maxNewTokens: 256 }
const greedyDefaults: Defaults = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, maxNewTokens: 16 }

/**
 * A loaded model.
 *
 *     const model = await Model.load('databricks/dolly-v2-3b')
 *     const { text } = await model.generate('What is the capital of Japan?')
 *     await model.dispose()
 */
export class Model implements AsyncDisposable {
  /** Its Hub id as it was given, or the last part of its folder's path. */
  readonly name: string
  /** Architecture and token ids, from config.json. */
  readonly config: ModelSpec
  /** What generation_config.json says. */
  readonly generation: GenerationConfig
  readonly plan: Plan
  readonly #engine: Engine
  readonly #tokenizer: Tokenizer | undefined
  readonly #template: Template | undefined
  readonly #dir: string

  private constructor(name: string, checkpoint: Checkpoint, engine: Engine, tokenizer: Tokenizer | undefined, plan: Plan) {
    this.name = name
    this.config = checkpoint.spec
    this.generation = checkpoint.generation
    this.plan = plan
    this.#dir = checkpoint.dir
    this.#engine = engine
    this.#tokenizer = tokenizer
    this.#template = tokenizer === undefined ? undefined : chooseTemplate(tokenizer)
  }

  /**
   * Loads a model from a folder in Hugging Face's layout, or by its Hub id from the local Hub cache. Nothing is downloaded and no code of the model is run.
   *
   * @param model path of a folder, or `organisation/name`, `organisation/name@revision`.
   * @throws OptionError, ModelNotFoundError, CheckpointError, TokenizerError, DeviceError, OutOfMemoryError, NativeError; the signal's reason when aborted.
   */
  static async load(model: string, options: LoadOptions = {}): Promise<Model> {
    if (typeof model !== 'string' || model === '') throw new OptionError('model', 'the path of a folder or a Hub id', model)
    const checked = check(loadOptions, options)
    checked.signal?.throwIfAborted()
    const dir = await resolveModel(model)
    const checkpoint = await readCheckpoint(dir, checked.signal === undefined ? {} : { signal: checked.signal })
    const tokenizer = await loadTokenizer(dir)
    const native = nativeOptions(checkpoint, checked)
    const table = tokenizer?.idBytes(checkpoint.spec.vocab)
    const engine = await Engine.load(checkpoint.native, native, table, checked)
    const { device, weights, maxContext, maxBatch, pageSize } = native
    const threads = native.threads === 0 ? (loadNative().devices().devices[0]?.threads ?? 1) : native.threads
    return new Model(existsSync(model) ? basename(resolve(model)) : model, checkpoint, engine, tokenizer, { device, weights, maxContext, maxBatch, pageSize, threads, memory: engine.stats().memory })
  }

  /** @throws TokenizerError when the folder has none: such a model takes ids only. */
  get tokenizer(): Tokenizer {
    if (this.#tokenizer === undefined) {
      throw new TokenizerError(`${this.#dir} has no tokenizer.json: give token ids to complete(), or put the tokenizer's files beside the weights`)
    }
    return this.#tokenizer
  }

  /**
   * Answers an instruction, or the last turn of a chat, as Dolly's pipeline does: its template, its defaults (top-p 0.92, 256 new tokens), and the answer cut
   * at `### End` and trimmed. Options of the call come before these defaults.
   *
   * @throws OptionError; ContextLengthError when the prompt, or the prompt with the maxNewTokens asked for, exceeds the context; the signal's reason.
   */
  async generate(instruction: string | readonly ChatTurn[], options: GenerateOptions = {}): Promise<Generation> {
    const checked = check(generateOptions, options)
    const prepared = await this.#instruct(instruction, checked)
    const generation = await this.#collect(prepared)
    const finish = (sample: Sample): void => {
      sample.text = cutResponse(this.#chosenTemplate(), sample.text, sample.stopped)
      if (checked.returnFullText === true) sample.text = fullText({ instruction: lastText(instruction), input: checked.input }, sample.text)
    }
    generation.samples.forEach(finish)
    return { ...generation, ...generation.samples[0]! }
  }

  /**
   * The same, piece by piece. Leaving the loop, or `return()`, cancels the request within one token.
   *
   * The pieces of a sample join to the text of {@link generate}: what may be cut from its end is held back until more text follows.
   */
  async *stream(instruction: string | readonly ChatTurn[], options: GenerateOptions = {}): AsyncGenerator<StreamPiece, void, void> {
    const checked = check(generateOptions, options)
    if (checked.returnFullText === true) throw new OptionError('returnFullText', 'no full text in a stream', true)
    const prepared = await this.#instruct(instruction, checked)
    const cutters = Array.from({ length: prepared.request.n }, () => new ResponseCutter(this.#chosenTemplate()))
    for await (const piece of this.#pieces(prepared)) {
      yield { ...piece, text: cutters[piece.index]!.push(piece.text, piece.finishReason !== undefined, piece.stopped) }
    }
  }

  /**
   * Continues a raw prompt: no template, nothing cut or trimmed but end ids and stop texts. A string is encoded with special tokens off; ids are taken as
   * they are. Defaults: generation_config.json, then greedy.
   *
   * @throws OptionError, ContextLengthError, TokenizerError; the signal's reason.
   */
  async complete(prompt: string | ArrayLike<number>, options: CompleteOptions = {}): Promise<Generation> {
    return await this.#collect(await this.#raw(prompt, check(completeOptions, options)))
  }

  /** The same, piece by piece. */
  async *streamComplete(prompt: string | ArrayLike<number>, options: CompleteOptions = {}): AsyncGenerator<StreamPiece, void, void> {
    yield* this.#pieces(await this.#raw(prompt, check(completeOptions, options)))
  }

  /**
   * Log-probabilities of each sequence's tokens from the second on, given those before.
   *
   * @returns for each sequence one entry a token, the first of which is null.
   */
  async score(sequences: readonly ArrayLike<number>[], options: ScoreOptions = {}): Promise<(TokenLogprob | null)[][]> {
    const { topLogprobs, signal } = check(scoreOptions, options)
    const checked = sequences.map((sequence, i) => this.#ids(sequence, `sequences[${i}]`))
    const top = Math.min(topLogprobs, this.config.vocab)
    return await limited(
      checked.map((tokens) => async () => {
        const scored = await this.#engine.score(tokens, top, signal)
        return Array.from(tokens, (token, i) =>
          i === 0
            ? null
            : {
                token,
                logprob: scored.logprobs[i - 1]!,
                top: pairs(scored.topTokens.subarray((i - 1) * top, i * top), scored.topLogprobs.subarray((i - 1) * top, i * top)),
              },
        )
      }),
      2 * this.plan.maxBatch,
    )
  }

  /** Logits of every token of a sequence, `[length, vocab]` in fp32. */
  async logits(tokens: ArrayLike<number>): Promise<Float32Array> {
    return await this.#engine.logits(this.#ids(tokens, 'tokens'))
  }

  /** Memory by part, cache pages, and counts since loading. */
  stats(): NativeStats {
    return this.#engine.stats()
  }

  /** Calls the watcher for every request's tokens and end, until the function that this returns is called. */
  watch(watcher: Watcher): () => void {
    return this.#engine.watch(watcher)
  }

  /** Cancels what is under way and frees the memory. Idempotent; use afterwards throws DisposedError. */
  dispose(): Promise<void> {
    return this.#engine.dispose()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }

  #chosenTemplate(): Template {
    if (this.#template === undefined) return this.tokenizer as never
    return this.#template
  }

  async #instruct(instruction: string | readonly ChatTurn[], options: Options): Promise<Prepared> {
    const template = this.#chosenTemplate()
    const encode = (parts: Part[]): Promise<Int32Array> => this.tokenizer.encodeParts(parts)
    let tokens: Int32Array
    let droppedTurns = 0
    if (typeof instruction === 'string' && options.system === undefined) {
      tokens = await encode(instructionPrompt(template, { instruction, input: options.input }))
    } else {
      const turns: ChatTurn[] = typeof instruction === 'string' ? [{ role: 'user', content: instruction, input: options.input }] : [...instruction]
      const reserved = options.maxNewTokens ?? Math.min(dollyDefaults.maxNewTokens, this.plan.maxContext >> 1)
      const fitted = await fitChat(template, turns, { system: options.system, maxTokens: Math.max(this.plan.maxContext - reserved, 1), encode })
      tokens = fitted.tokens
      droppedTurns = fitted.dropped
    }
    return { ...this.#prepare(tokens, options, dollyDefaults, this.#endIds(), template.stop), droppedTurns }
  }

  async #raw(prompt: string | ArrayLike<number>, options: Options): Promise<Prepared> {
    const tokens = typeof prompt === 'string' ? await this.tokenizer.encode(prompt) : this.#ids(prompt, 'prompt')
    return this.#prepare(tokens, options, fileDefaults(this.generation, tokens.length), options.ignoreEos === true ? [] : this.#endIds(), [])
  }

  #endIds(): number[] {
    return [...(this.#template?.endIds ?? []), ...this.config.eosTokenIds, ...(this.generation.eosTokenIds ?? [])]
  }

  #prepare(tokens: Int32Array, options: Options, defaults: Defaults, endIds: readonly number[], templateStop: readonly string[]): Prepared {
    const { maxContext } = this.plan
    if (tokens.length === 0) throw new OptionError('prompt', 'at least one token', 'none')
    const left = maxContext - tokens.length
    if (left < 1 || (options.maxNewTokens ?? 1) > left) {
      const asked = options.maxNewTokens === undefined ? '' : ` and ${options.maxNewTokens} new ones`
      throw new ContextLengthError(
        `The prompt has ${tokens.length} tokens${asked}, but the context is ${maxContext}: shorten the prompt, ask for fewer new tokens, or load with a larger maxContext`,
      )
    }
    const { stop = [], seed, n = 1, signal } = options
    const request: NativeRequest = {
      tokens,
      maxNewTokens: Math.min(options.maxNewTokens ?? defaults.maxNewTokens, left),
      n,
      temperature: options.temperature ?? defaults.temperature,
      topK: options.topK ?? defaults.topK,
      topP: options.topP ?? defaults.topP,
      minP: options.minP ?? defaults.minP,
      repetitionPenalty: options.repetitionPenalty ?? defaults.repetitionPenalty,
      presencePenalty: options.presencePenalty ?? 0,
      frequencyPenalty: options.frequencyPenalty ?? 0,
      ...this.#biases(options.logitBias ?? {}),
      seed: seed === undefined ? randomBytes(8).readBigUInt64LE() : BigInt(seed),
      endIds: Int32Array.from(new Set(endIds)),
      stop: [...templateStop, ...(typeof stop === 'string' ? [stop] : stop)],
      logprobs: options.logprobs === undefined ? -1 : Math.min(options.logprobs, this.config.vocab),
      keepSpecial: options.keepSpecial ?? false,
      priority: options.priority ?? 0,
      timeout: options.deadline ?? 0,
    }
    return { request, droppedTurns: 0, signal }
  }

  #biases(logitBias: Record<string, number>): Pick<NativeRequest, 'biasedIds' | 'biases'> {
    const entries = Object.entries(logitBias).map(([id, bias]) => [Number(id), bias] as const)
    entries.sort(([a], [b]) => a - b)
    if (entries.length > 1024) throw new OptionError('logitBias', 'at most 1024 ids', entries.length)
    entries.forEach(([id], i) => {
      if (id >= this.config.vocab) throw new OptionError('logitBias', `token ids from 0 to ${this.config.vocab - 1}`, id)
      if (id === entries[i - 1]?.[0]) throw new OptionError('logitBias', 'each id once', id)
    })
    return { biasedIds: Int32Array.from(entries, ([id]) => id), biases: Float32Array.from(entries, ([, bias]) => bias) }
  }

  async *#pieces({ request, droppedTurns, signal }: Prepared): AsyncGenerator<StreamPiece, void, void> {
    let first: Pick<StreamPiece, 'asked'> = { asked: { promptTokens: request.tokens.length, seed: request.seed, droppedTurns } }
    for await (const event of this.#engine.submit(request, signal)) {
      yield { ...first, ...pieceOf(event, request) }
      first = {}
    }
  }

  async #collect({ request, droppedTurns, signal }: Prepared): Promise<Generation> {
    const samples = Array.from({ length: request.n }, (_, index): Sample => {
      return { index, text: '', tokens: [], finishReason: 'length', ...(request.logprobs >= 0 ? { logprobs: [] } : {}) }
    })
    let cachedTokens = 0
    for await (const event of this.#engine.submit(request, signal)) {
      const piece = pieceOf(event, request)
      cachedTokens = piece.cachedTokens ?? cachedTokens
      const sample = samples[piece.index]!
      sample.text += piece.text
      if (piece.token !== undefined) sample.tokens.push(piece.token)
      if (piece.logprob !== undefined) sample.logprobs?.push(piece.logprob)
      if (piece.finishReason !== undefined) sample.finishReason = piece.finishReason
      if (piece.stopped !== undefined) sample.stopped = piece.stopped
    }
    return { ...samples[0]!, samples, promptTokens: request.tokens.length, cachedTokens, seed: request.seed, droppedTurns }
  }

  /** Ids as native code wants them, each in the vocabulary. */
  #ids(ids: ArrayLike<number>, name: string): Int32Array {
    if (typeof ids !== 'object' || ids === null || typeof ids.length !== 'number') throw new OptionError(name, 'an array of token ids', ids)
    const { maxContext } = this.plan
    if (ids.length === 0) throw new OptionError(name, 'at least one token id', 'none')
    if (ids.length > maxContext) throw new ContextLengthError(`${name} has ${ids.length} tokens, but the context is ${maxContext}`)
    return Int32Array.from(ids, (id, i) => {
      if (!Number.isInteger(id) || id < 0 || id >= this.config.vocab) throw new OptionError(`${name}[${i}]`, `a token id from 0 to ${this.config.vocab - 1}`, id)
      return id
    })
  }
}

/** Runs tasks, at most `most` at a time, and gives their results in order. */
async function limited<T>(tasks: readonly (() => Promise<T>)[], most: number): Promise<T[]> {
  const results: T[] = []
  const left = tasks.entries()
  const work = async (): Promise<void> => {
    for (const [i, task] of left) results[i] = await task()
  }
  await Promise.all(Array.from({ length: Math.min(most, tasks.length) }, work))
  return results
}

/** The defaults of generation_config.json, read as transformers does: greedy unless do_sample, and then 50 best tokens unless top_k says otherwise. */
function fileDefaults(file: GenerationConfig, promptTokens: number): Defaults {
  const length = file.maxNewTokens ?? (file.maxLength === undefined ? greedyDefaults.maxNewTokens : Math.max(1, file.maxLength - promptTokens))
  const common = { ...greedyDefaults, repetitionPenalty: file.repetitionPenalty ?? 1, maxNewTokens: length }
  if (file.doSample !== true) return common
  return { ...common, temperature: file.temperature ?? 1, topK: file.topK ?? 50, topP: file.topP ?? 1 }
}

/** A folder without tokenizer.json is a model that takes ids; any other trouble with the file is an error. */
async function loadTokenizer(dir: string): Promise<Tokenizer | undefined> {
  return (await readdir(dir)).includes('tokenizer.json') ? await Tokenizer.load(dir) : undefined
}

function pieceOf(event: NativeEvent, request: NativeRequest): StreamPiece {
  const piece: StreamPiece = { index: event.sample, text: event.text }
  if (event.token !== undefined) piece.token = event.token
  if (event.token !== undefined && event.logprob !== undefined) {
    piece.logprob = { token: event.token, logprob: event.logprob, top: pairs(event.topTokens ?? [], event.topLogprobs ?? []) }
  }
  if (event.finish === 'stop' || event.finish === 'length') piece.finishReason = event.finish
  if (event.stopToken !== undefined) piece.stopped = event.stopToken
  if (event.stopString !== undefined) piece.stopped = request.stop[event.stopString]!
  if (event.reusedTokens !== undefined) piece.cachedTokens = event.reusedTokens
  return piece
}

function pairs(tokens: ArrayLike<number>, logprobs: ArrayLike<number>): { token: number; logprob: number }[] {
  return Array.from(tokens, (token, i) => ({ token, logprob: logprobs[i]! }))
}

function lastText(instruction: string | readonly ChatTurn[]): string {
  if (typeof instruction === 'string') return instruction
  const content = instruction.at(-1)?.content ?? ''
  return typeof content === 'string' ? content : content.map((part) => part.text ?? '').join('')
}
