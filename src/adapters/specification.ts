// What the AI SDK's specifications v3 and v4 have in common for a model of text: what a call may hold, and what is answered. Types of our own, to which those of
// `@ai-sdk/provider` 3 and 4 both fit, so that the adapter compiles with either of them, and without.

export type Version = 'v3' | 'v4'

export interface LanguageModel<V extends Version> {
  readonly specificationVersion: V
  readonly provider: string
  readonly modelId: string
  /** None: files are not known. */
  readonly supportedUrls: Record<string, RegExp[]>
  doGenerate(call: Call): Promise<GenerateResult>
  doStream(call: Call): Promise<{ stream: ReadableStream<StreamPart> }>
}

/** What of a call is read. */
export interface Call {
  prompt: readonly Message[]
  maxOutputTokens?: number | undefined
  temperature?: number | undefined
  topP?: number | undefined
  topK?: number | undefined
  presencePenalty?: number | undefined
  frequencyPenalty?: number | undefined
  stopSequences?: string[] | undefined
  seed?: number | undefined
  responseFormat?: { type: 'text' | 'json' } | undefined
  tools?: readonly object[] | undefined
  /** Of v4. */
  reasoning?: string | undefined
  includeRawChunks?: boolean | undefined
  abortSignal?: AbortSignal | undefined
}

export type Message = { role: 'system'; content: string } | { role: 'user' | 'assistant' | 'tool'; content: readonly Part[] }

/** `text` has a text, and so has `reasoning`; other types hold what this model cannot read. */
export interface Part {
  type: string
  text?: string
}

export interface GenerateResult {
  content: { type: 'text'; text: string }[]
  finishReason: FinishReason
  usage: Usage
  warnings: Warning[]
  response: ResponseMetadata
  providerMetadata: ProviderMetadata
}

export type StreamPart =
  | { type: 'stream-start'; warnings: Warning[] }
  | ({ type: 'response-metadata' } & ResponseMetadata)
  | { type: 'raw'; rawValue: unknown }
  | { type: 'text-start' | 'text-end'; id: string }
  | { type: 'text-delta'; id: string; delta: string }
  | { type: 'error'; error: unknown }
  | { type: 'finish'; finishReason: FinishReason; usage: Usage; providerMetadata: ProviderMetadata }

export interface ResponseMetadata {
  id: string
  timestamp: Date
  modelId: string
}

/**
 * What only this provider tells: the seed, in digits, with which the same call gives the same text, and how many of the oldest exchanges did not fit. As a
 * type, because an interface has no index signature.
 */
export type ProviderMetadata = { ewe: { seed: string; droppedTurns: number } }

export interface FinishReason {
  unified: 'stop' | 'length' | 'error' | 'other'
  raw: string | undefined
}

/** In tokens; undefined is what is not known. Those of the prompt that were in the cache are `cacheRead`. */
export interface Usage {
  inputTokens: { total: number; noCache: number; cacheRead: number; cacheWrite: undefined }
  outputTokens: { total: number; text: number; reasoning: undefined }
}

export interface Warning {
  type: 'unsupported'
  feature: string
  details: string
}
