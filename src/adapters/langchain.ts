// A loaded model as a language model of LangChain, inside the process.
import type { CallbackManagerForLLMRun } from '@langchain/core/callbacks/manager'
import { LLM, type BaseLLMParams } from '@langchain/core/language_models/llms'
import { GenerationChunk } from '@langchain/core/outputs'
import type { Model } from '../model.js'
import type { CompleteOptions, GenerateOptions } from '../options.js'

/** What {@link EweLLM} is made with. */
export interface EweLLMFields extends BaseLLMParams {
  model: Model
  /** Prompts are continued as they are. Default: they are instructions, for the model's template. */
  raw?: boolean
  /** Of each call. What it leaves out has the defaults of {@link Model.generate}, or of {@link Model.complete} with `raw`. */
  options?: Omit<GenerateOptions & CompleteOptions, 'signal' | 'n' | 'logprobs' | 'returnFullText'>
}

/**
 * A model for chains.
 *
 *     const llm = new EweLLM({ model, options: { temperature: 0 } })
 *     await prompt.pipe(llm).invoke({ country: 'Japan' })
 *
 * A call's `stop` and `signal` are honoured; its calls reject as {@link Model.generate} does.
 */
export class EweLLM extends LLM {
  readonly #model: Model
  readonly #raw: boolean
  readonly #options: NonNullable<EweLLMFields['options']>

  static override lc_name(): string {
    return 'EweLLM'
  }

  constructor({ model, raw, options, ...fields }: EweLLMFields) {
    super(fields)
    this.#model = model
    this.#raw = raw ?? false
    this.#options = options ?? {}
  }

  override _llmType(): string {
    return 'ewe'
  }

  override async _call(prompt: string, options: this['ParsedCallOptions']): Promise<string> {
    const request = this.#request(options)
    return (await (this.#raw ? this.#model.complete(prompt, request) : this.#model.generate(prompt, request))).text
  }

  override async *_streamResponseChunks(prompt: string, options: this['ParsedCallOptions'], run?: CallbackManagerForLLMRun): AsyncGenerator<GenerationChunk> {
    const request = this.#request(options)
    for await (const { text, finishReason } of this.#raw ? this.#model.streamComplete(prompt, request) : this.#model.stream(prompt, request)) {
      if (text === '' && finishReason === undefined) continue
      yield new GenerationChunk({ text, ...(finishReason === undefined ? {} : { generationInfo: { finishReason } }) })
      await run?.handleLLMNewToken(text)
    }
  }

  #request({ stop, signal }: this['ParsedCallOptions']): GenerateOptions & CompleteOptions {
    return { ...this.#options, ...(stop === undefined ? {} : { stop }), signal }
  }
}
