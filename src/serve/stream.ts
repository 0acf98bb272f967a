// Answers piece by piece, as server-sent events of OpenAI's interface.
import type { Model } from '../model.js'
import {
  chatCall,
  chatLogprobs,
  completionCalls,
  fingerprint,
  LogprobColumns,
  promptLogprobs,
  usageOf,
  type AnswerContext,
  type ChatBody,
  type ChatLogprobs,
  type CompletionBody,
  type CompletionCall,
  type CompletionChoice,
  type Tally,
  type Usage,
} from '../openai.js'
import { ClientLeft, type Call } from './call.js'
import { clientLeft, failureOf, type Failure } from './failures.js'

interface ChatDelta {
  index: number
  delta: { role?: 'assistant'; content?: string }
  logprobs: ChatLogprobs | null
  finish_reason: 'stop' | 'length' | null
}

interface Chunk<Choice> {
  id: string
  object: string
  created: number
  model: string
  system_fingerprint: string
  choices: Choice[]
  usage?: Usage | null
}

export async function* completionChunks(model: Model, body: CompletionBody, context: AnswerContext, tally: Tally): AsyncGenerator<Chunk<CompletionChoice>> {
  const calls = await completionCalls(model, body, context)
  tally.promptTokens = calls.reduce((sum, { tokens }) => sum + tokens.length, 0)
  const sources = calls.map((call) => promptChoices(model, body, call, context.signal, tally))
  const [only] = sources
  const choices = sources.length === 1 && only !== undefined ? only : merge(sources)
  yield* chunks('text_completion', model, body, context, tally, choices)
}

export async function* chatChunks(model: Model, body: ChatBody, context: AnswerContext, tally: Tally): AsyncGenerator<Chunk<ChatDelta>> {
  yield* chunks('chat.completion.chunk', model, body, context, tally, chatDeltas(model, body, context, tally))
}

async function* chunks<Choice>(
  object: string,
  model: Model,
  { stream_options: asked }: CompletionBody | ChatBody,
  context: AnswerContext,
  tally: Tally,
  choices: AsyncIterable<Choice>,
): AsyncGenerator<Chunk<Choice>> {
  const withUsage = asked?.include_usage === true
  const common = { id: context.id, object, created: context.created, model: context.model, system_fingerprint: fingerprint(model) }
  for await (const choice of choices) yield { ...common, choices: [choice], ...(withUsage ? { usage: null } : {}) }
  if (withUsage) yield { ...common, choices: [], usage: usageOf(tally, context) }
}

/** The choices of one prompt. */
async function* promptChoices(
  model: Model,
  body: CompletionBody,
  call: CompletionCall,
  signal: AbortSignal | undefined,
  tally: Tally,
): AsyncGenerator<CompletionChoice> {
  const wanted = body.logprobs !== undefined
  const columns = Array.from({ length: body.n }, () => (wanted ? new LogprobColumns(model, body) : undefined))
  const choice = (sample: number, text: string, finish: CompletionChoice['finish_reason']): CompletionChoice => ({
    text,
    index: call.prompt * body.n + sample,
    logprobs: columns[sample]?.take() ?? null,
    finish_reason: finish,
  })
  if (body.echo) {
    const scores = wanted ? await promptLogprobs(model, body, call, signal) : []
    for (const [sample, column] of columns.entries()) {
      column?.addPrompt(call.tokens, scores)
      yield choice(sample, call.echo, null)
    }
  }
  for await (const { index, text, token, logprob, finishReason, cachedTokens } of model.streamComplete(call.tokens, call.options)) {
    if (token !== undefined) tally.completionTokens++
    if (cachedTokens !== undefined && !(body.echo && wanted)) tally.cachedTokens += cachedTokens
    if (logprob !== undefined) columns[index]?.add(logprob)
    if (text !== '' || finishReason !== undefined || logprob !== undefined) yield choice(index, text, finishReason ?? null)
  }
}

async function* chatDeltas(model: Model, body: ChatBody, context: AnswerContext, tally: Tally): AsyncGenerator<ChatDelta> {
  const { turns, options } = chatCall(body, context)
  const begun = new Set<number>()
  for await (const { asked, index, text, token, logprob, finishReason, cachedTokens } of model.stream(turns, options)) {
    if (asked !== undefined) tally.promptTokens = asked.promptTokens
    tally.cachedTokens = cachedTokens ?? tally.cachedTokens
    if (token !== undefined) tally.completionTokens++
    if (!begun.has(index)) {
      begun.add(index)
      yield { index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }
    }
    const logprobs = logprob === undefined ? null : chatLogprobs(model, [logprob])
    if (text !== '' || logprobs !== null) yield { index, delta: { content: text }, logprobs, finish_reason: null }
    if (finishReason !== undefined) yield { index, delta: {}, logprobs: null, finish_reason: finishReason }
  }
}

/** What several sources give, as it comes. A source that fails ends the whole; the others end by the signal that they listen to. */
export async function* merge<T>(sources: readonly AsyncIterable<T>[]): AsyncGenerator<T> {
  const ready: T[] = []
  let running = sources.length
  let failed: { reason: unknown } | undefined
  let wake = (): void => {}
  const pump = async (source: AsyncIterable<T>): Promise<void> => {
    try {
      for await (const item of source) {
        ready.push(item)
        wake()
      }
    } catch (reason) {
      failed ??= { reason }
    } finally {
      running--
      wake()
    }
  }
  for (const source of sources) void pump(source)
  for (;;) {
    const item = ready.shift()
    if (item !== undefined) yield item
    else if (failed !== undefined) throw failed.reason
    else if (running === 0) return
    else await new Promise<void>((resolve) => (wake = resolve))
  }
}

/**
 * A response of events. Its headers go out with the first one: what fails before has a status of its own.
 *
 * @param end called once when the stream is over, with the status for the log.
 */
export async function eventStream(call: Call, source: AsyncGenerator<object>, end: (status: number, failure?: Failure, thrown?: unknown) => void): Promise<Response> {
  const encoder = new TextEncoder()
  let next: IteratorResult<object> | undefined = await source.next()
  const events = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const send = (text: string): void => controller.enqueue(encoder.encode(`data: ${text}\n\n`))
      try {
        const { done, value } = next ?? (await source.next())
        next = undefined
        if (call.left) return
        send(done === true ? '[DONE]' : JSON.stringify(value))
        if (done !== true) return
        end(200)
      } catch (thrown) {
        if (call.left) return
        const failure = failureOf(thrown)
        send(JSON.stringify(failure.body))
        end(failure.status, failure, thrown)
      }
      controller.close()
    },
    cancel() {
      call.abort(new ClientLeft())
      end(clientLeft)
    },
  })
  const headers = { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no' }
  return new Response(events, { headers })
}
