// A loaded model as a language model of Vercel's AI SDK, inside the process.
import { randomUUID } from 'node:crypto'
import type { Asked, StreamPiece } from '../answers.js'
import { OptionError } from '../errors.js'
import type { Model } from '../model.js'
import type { GenerateOptions } from '../options.js'
import type { ChatTurn } from '../prompts.js'
import type { Call, FinishReason, GenerateResult, LanguageModel, Part, ProviderMetadata, ResponseMetadata, StreamPart, Usage, Version, Warning } from './specification.js'

export type { LanguageModel } from './specification.js'

/**
 * The model for `generateText`, `streamText` and all else that takes a language model. Of specification v3, which AI SDK 6 and 7 take, or of v4, the own
 * one of AI SDK 7. Prompts go through the model's own template; what the call leaves out has the defaults of {@link Model.generate}. Tools and reasoning
 * are not known: a call that asks for them gets a warning.
 *
 *     const { text } = await generateText({ model: languageModel(model), prompt: 'What is the capital of Japan?' })
 *
 * Its calls reject as {@link Model.generate} does, and with OptionError for files, answers of tools, and formats other than text.
 */
export function languageModel(model: Model): LanguageModel<'v3'>
export function languageModel<V extends Version>(model: Model, version: V): LanguageModel<V>
export function languageModel(model: Model, version: Version = 'v3'): LanguageModel<Version> {
  return {
    specificationVersion: version,
    provider: 'ewe',
    modelId: model.name,
    supportedUrls: {},
    async doGenerate(call): Promise<GenerateResult> {
      const response = responseOf(model)
      const { text, tokens, cachedTokens, finishReason, ...asked } = await model.generate(turnsOf(call), optionsOf(call, call.abortSignal))
      return {
        content: [{ type: 'text', text }],
        finishReason: { unified: finishReason, raw: finishReason },
        usage: usageOf(asked, cachedTokens, tokens.length),
        warnings: warningsOf(call),
        response,
        providerMetadata: metadataOf(asked),
      }
    },
    async doStream(call) {
      const leaving = new AbortController()
      const response = responseOf(model)
      const signal = call.abortSignal === undefined ? leaving.signal : AbortSignal.any([call.abortSignal, leaving.signal])
      const pieces = model.stream(turnsOf(call), optionsOf(call, signal))
      // What is wrong with the call is an error of the call, not of its stream.
      const first = await pieces.next()
      const parts = partsOf(call, response, first, pieces)
      const stream = new ReadableStream<StreamPart>({
        async pull(controller) {
          const { done, value } = await parts.next()
          if (done === true) controller.close()
          else controller.enqueue(value)
        },
        cancel: (reason) => leaving.abort(reason),
      })
      return { stream }
    },
  }
}

async function* partsOf(
  call: Call,
  response: ResponseMetadata,
  first: IteratorResult<StreamPiece, void>,
  pieces: AsyncGenerator<StreamPiece, void, void>,
): AsyncGenerator<StreamPart, void, void> {
  const id = '0'
  yield { type: 'stream-start', warnings: warningsOf(call) }
  yield { type: 'response-metadata', ...response }
  yield { type: 'text-start', id }
  let asked: Asked = { promptTokens: 0, seed: 0n, droppedTurns: 0 } // as the first piece says
  let cached = 0
  let generated = 0
  let finishReason: FinishReason = { unified: 'other', raw: undefined }
  try {
    for (let next = first; next.done !== true; next = await pieces.next()) {
      const { text, token, finishReason: reason } = next.value
      asked = next.value.asked ?? asked
      cached = next.value.cachedTokens ?? cached
      if (call.includeRawChunks === true) yield { type: 'raw', rawValue: next.value }
      if (token !== undefined) generated++
      if (text !== '') yield { type: 'text-delta', id, delta: text }
      if (reason !== undefined) finishReason = { unified: reason, raw: reason }
    }
  } catch (error) {
    yield { type: 'error', error }
    finishReason = { unified: 'error', raw: undefined }
  }
  yield { type: 'text-end', id }
  yield { type: 'finish', finishReason, usage: usageOf(asked, cached, generated), providerMetadata: metadataOf(asked) }
}

function turnsOf({ prompt }: Call): ChatTurn[] {
  return prompt.map((message, i) => {
    if (message.role === 'tool') throw new OptionError(`prompt[${i}]`, 'no answer of a tool: this model knows none,', message.role)
    return { role: message.role, content: message.role === 'system' ? message.content : message.content.map((part) => textOf(part, i)).join('') }
  })
}

function textOf(part: Part, message: number): string {
  if (part.type === 'text' && part.text !== undefined) return part.text
  if (part.type === 'reasoning') return ''
  throw new OptionError(`prompt[${message}].content`, 'parts of type text', part.type)
}

function optionsOf(call: Call, signal: AbortSignal | undefined): GenerateOptions {
  if (call.responseFormat?.type === 'json') throw new OptionError('responseFormat', 'text, the only format there is,', 'json')
  return {
    maxNewTokens: call.maxOutputTokens,
    temperature: call.temperature,
    topP: call.topP,
    topK: call.topK,
    presencePenalty: call.presencePenalty,
    frequencyPenalty: call.frequencyPenalty,
    stop: call.stopSequences,
    seed: call.seed === undefined ? undefined : BigInt.asUintN(64, BigInt(call.seed)),
    signal,
  }
}

function warningsOf({ tools = [], reasoning = 'none' }: Call): Warning[] {
  const warnings: Warning[] = []
  if (tools.length > 0) warnings.push({ type: 'unsupported', feature: 'tools', details: 'This model knows no tools: it answers without them' })
  if (reasoning !== 'none' && reasoning !== 'provider-default') {
    warnings.push({ type: 'unsupported', feature: 'reasoning', details: 'This model does not reason before it answers' })
  }
  return warnings
}

function responseOf(model: Model): ResponseMetadata {
  return { id: `ewe-${randomUUID()}`, timestamp: new Date(), modelId: model.name }
}

function metadataOf({ seed, droppedTurns }: Asked): ProviderMetadata {
  return { ewe: { seed: String(seed), droppedTurns } }
}

function usageOf({ promptTokens }: Asked, cached: number, generated: number): Usage {
  return {
    inputTokens: { total: promptTokens, noCache: promptTokens - cached, cacheRead: cached, cacheWrite: undefined },
    outputTokens: { total: generated, text: generated, reasoning: undefined },
  }
}
