import { z } from 'zod'
import { OptionError } from '../errors.js'
import type { Model } from '../model.js'
import { chat, chatBody, complete, completionBody, type AnswerContext, type ChatBody, type CompletionBody, type Tally, type Usage } from '../openai.js'
import { packageVersion } from '../package.js'
import type { Call, Work } from './call.js'
import { RequestError } from './failures.js'
import type { Hosts } from './hosts.js'
import type { Metrics } from './metrics.js'
import type { Settings } from './settings.js'
import { chatChunks, completionChunks } from './stream.js'

/** What the handlers share. */
export interface Service {
  model: Model
  /** The first one is the one that answers give. */
  names: readonly [string, ...string[]]
  settings: Settings
  work: Work
  metrics: Metrics
  hosts: Hosts
  created: number
}

/** What a handler gives: an object for JSON, a response, or events and the counts that go with them. */
export type Answer = object | Response | { events: AsyncGenerator<object>; tally: Tally }

export interface Asked {
  service: Service
  call: Call
  /** As the route's schema made it. */
  body: unknown
  /** What stands for the name in the path. */
  name: string
  /** For what is in neither: a query, a body that is no JSON. */
  request: Request
}

export interface Route {
  method: 'get' | 'post' | 'delete'
  /** With at most one name in it: `:file_id`, or `:model{.+}` for all that follows. */
  path: string
  summary: string
  /** Answered without a key, and under every name of the host: it tells nothing and does nothing that would need one. */
  open?: boolean
  /** Asked again and again by who watches the server: good answers are not logged. */
  watched?: boolean
  /** It makes the model work: counted, drained, refused when the server is about to stop. */
  work?: boolean
  /** It changes what is kept on the disk: refused when the server is about to stop. */
  writes?: boolean
  body?: z.ZodType
  /** A good body, beside the model's name. */
  example?: object
  /** What its query and its multipart/form-data hold, for the document: the handler reads them. */
  query?: z.ZodType
  form?: z.ZodType
  /** JSON of its answer. */
  answer?: z.ZodType
  /** JSON of an event, where a body asks for a stream. */
  events?: z.ZodType
  /** Type of an answer that is not JSON. */
  type?: string
  /** Its own statuses beyond 400, 404 and those of every route, and what they mean. */
  refusals?: Readonly<Record<number, string>>
  /** What its answer is for: OpenAPI's links, by name. */
  links?: object
  handle: (asked: Asked) => Answer | Promise<Answer>
}

const usage = z
  .object({ prompt_tokens: z.int(), completion_tokens: z.int(), total_tokens: z.int(), prompt_tokens_details: z.object({ cached_tokens: z.int() }).optional() })
  .meta({ id: 'Usage' })
const answered = { id: z.string(), created: z.int(), model: z.string(), system_fingerprint: z.string() }
const finish = z.enum(['stop', 'length'])
const completionChoice = z.object({
  text: z.string(),
  index: z.int(),
  finish_reason: finish,
  logprobs: z
    .object({
      tokens: z.array(z.string()),
      token_logprobs: z.array(z.number().nullable()),
      top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
      text_offset: z.array(z.int()),
    })
    .nullable(),
})
const textCompletion = { ...answered, object: z.literal('text_completion') }
const completion = z.object({ ...textCompletion, choices: z.array(completionChoice), usage }).meta({ id: 'Completion' })
const completionEvent = z
  .object({ ...textCompletion, choices: z.array(completionChoice.extend({ finish_reason: finish.nullable() })), usage: usage.nullish() })
  .meta({ id: 'CompletionEvent' })
const chatLogprob = { token: z.string(), logprob: z.number(), bytes: z.array(z.int()) }
const chatLogprobs = z
  .object({ content: z.array(z.object({ ...chatLogprob, top_logprobs: z.array(z.object(chatLogprob)) })), refusal: z.null() })
  .meta({ id: 'ChatLogprobs' })
const chatCompletion = z
  .object({
    ...answered,
    object: z.literal('chat.completion'),
    choices: z.array(
      z.object({
        index: z.int(),
        message: z.object({ role: z.literal('assistant'), content: z.string(), refusal: z.null() }),
        finish_reason: finish,
        logprobs: chatLogprobs.nullable(),
      }),
    ),
    usage,
  })
  .meta({ id: 'ChatCompletion' })
const chatEvent = z
  .object({
    ...answered,
    object: z.literal('chat.completion.chunk'),
    choices: z.array(
      z.object({
        index: z.int(),
        delta: z.object({ role: z.literal('assistant').optional(), content: z.string().optional() }),
        finish_reason: finish.nullable(),
        logprobs: chatLogprobs.nullable(),
      }),
    ),
    usage: usage.nullish(),
  })
  .meta({ id: 'ChatCompletionEvent' })
const modelCard = z
  .object({
    id: z.string(),
    object: z.literal('model'),
    created: z.int(),
    owned_by: z.string(),
    /** The name that answers give. */
    root: z.string(),
    max_model_len: z.int(),
  })
  .meta({ id: 'Model' })
const ok = z.object({ status: z.string() }).meta({ id: 'Status' })
const modelName = z.string().nullish()

const tokenizeBody = z
  .looseObject({ model: modelName, prompt: z.string(), add_special_tokens: z.boolean().nullish(), parse_special: z.boolean().nullish(), return_token_strs: z.boolean().nullish() })
  .meta({ id: 'TokenizeRequest' })
const detokenizeBody = z
  .looseObject({
    model: modelName,
    tokens: z
      .custom<number[]>((value) => Array.isArray(value) && value.every((id) => Number.isInteger(id) && id >= 0), 'an array of token ids')
      .meta({ type: 'array', items: { $ref: '#/components/schemas/TokenId' } }),
  })
  .meta({ id: 'DetokenizeRequest' })

const tokenText = z.string().nullable()
const tokenizerInfo = z
  .object({
    eos_token: tokenText,
    bos_token: tokenText,
    pad_token: tokenText,
    unk_token: tokenText,
    additional_special_tokens: z.array(z.string()),
    vocab_size: z.int(),
    model_max_length: z.int(),
    add_bos_token: z.literal(false),
    chat_template: z.null(),
  })
  .meta({ id: 'TokenizerInfo' })

export const routes: readonly Route[] = [
  {
    method: 'post',
    path: '/v1/completions',
    summary: 'Continues prompts',
    work: true,
    body: completionBody,
    example: { prompt: ['Once upon a time', 'The dog'], max_tokens: 8, logprobs: 1, seed: 1 },
    answer: completion,
    events: completionEvent,
    handle(asked) {
      const body = asked.body as CompletionBody
      return answer(asked, 'cmpl', body, body.max_tokens, complete, completionChunks)
    },
  },
  {
    method: 'post',
    path: '/v1/chat/completions',
    summary: "Answers the last turn of a conversation, with the model's template",
    work: true,
    body: chatBody,
    example: { messages: [{ role: 'user', content: 'What is the capital of Japan?' }], max_tokens: 8, logprobs: true, seed: 1 },
    answer: chatCompletion,
    events: chatEvent,
    handle(asked) {
      const body = asked.body as ChatBody
      return answer(asked, 'chatcmpl', body, body.max_completion_tokens ?? body.max_tokens, chat, chatChunks)
    },
  },
  {
    method: 'get',
    path: '/v1/models',
    summary: 'The names that the model goes by',
    answer: z.object({ object: z.literal('list'), data: z.array(modelCard) }),
    handle: ({ service }) => ({ object: 'list', data: service.names.map((name) => cardOf(service, name)) }),
  },
  {
    method: 'get',
    path: '/v1/models/:model{.+}',
    summary: 'One of them',
    answer: modelCard,
    handle({ service, name }) {
      checkModel(service.names, name)
      return cardOf(service, name)
    },
  },
  {
    method: 'post',
    path: '/tokenize',
    summary: 'Token ids of a text, in which nothing is special unless `parse_special` says so',
    body: tokenizeBody,
    answer: z.object({ tokens: z.array(z.int()), count: z.int(), max_model_len: z.int(), token_strs: z.array(z.string()).optional() }).meta({ id: 'Tokens' }),
    async handle({ service, body }) {
      const { prompt, model: named, parse_special: special, return_token_strs: withTexts } = body as z.output<typeof tokenizeBody>
      checkModel(service.names, named)
      const { tokenizer, plan } = service.model
      const tokens = [...(await ((special ?? service.settings.parseSpecial) ? tokenizer.encodeWithSpecial(prompt) : tokenizer.encode(prompt)))]
      const texts = withTexts === true ? { token_strs: tokens.map((token) => tokenizer.idToToken(token) ?? '') } : {}
      return { tokens, count: tokens.length, max_model_len: plan.maxContext, ...texts }
    },
  },
  {
    method: 'post',
    path: '/detokenize',
    summary: 'Text of token ids',
    body: detokenizeBody,
    answer: z.object({ prompt: z.string() }),
    handle({ service, body }) {
      const { tokens, model: named } = body as z.output<typeof detokenizeBody>
      checkModel(service.names, named)
      const { vocab } = service.model.config
      const wrong = tokens.findIndex((id) => id >= vocab)
      if (wrong >= 0) throw new OptionError(`tokens.${wrong}`, `a token id from 0 to ${vocab - 1}`, tokens[wrong])
      return { prompt: service.model.tokenizer.decode(tokens, { skipSpecial: false }) }
    },
  },
  {
    method: 'get',
    path: '/tokenizer_info',
    summary: "The tokenizer's special tokens",
    answer: tokenizerInfo,
    handle({ service }) {
      const { eos, bos, pad, unk, additionalSpecialTokens, vocabSize } = service.model.tokenizer
      const text = (token: { content: string } | undefined): string | null => token?.content ?? null
      const named = { eos_token: text(eos), bos_token: text(bos), pad_token: text(pad), unk_token: text(unk) }
      const sizes = { vocab_size: vocabSize, model_max_length: service.model.plan.maxContext }
      return { ...named, additional_special_tokens: additionalSpecialTokens, ...sizes, add_bos_token: false, chat_template: null }
    },
  },
  {
    method: 'get',
    path: '/health',
    watched: true,
    summary: 'Whether the model is loaded',
    open: true,
    answer: ok,
    handle({ service }) {
      service.model.stats()
      return { status: 'ok' }
    },
  },
  { method: 'get', path: '/live', watched: true, summary: 'Whether the process answers', open: true, answer: ok, handle: () => ({ status: 'ok' }) },
  {
    method: 'get',
    path: '/ready',
    watched: true,
    summary: 'Whether new work is taken: not any more when the server is about to stop',
    open: true,
    answer: ok,
    handle({ service }) {
      service.work.check()
      service.model.stats()
      return { status: 'ok' }
    },
  },
  {
    method: 'get',
    path: '/metrics',
    watched: true,
    summary: 'Counts and times for Prometheus',
    type: 'text/plain',
    async handle({ service: { metrics } }) {
      return new Response(await metrics.text(), { headers: { 'content-type': metrics.contentType } })
    },
  },
  {
    method: 'get',
    path: '/version',
    summary: 'The version of ewe',
    open: true,
    answer: z.object({ version: z.string() }),
    handle: () => ({ version: packageVersion() }),
  },
]

/** The answer to a body, whole or in pieces as it asks. Its counts go into the log. */
async function answer<Body extends CompletionBody | ChatBody>(
  { service: { model, names, settings }, call }: Asked,
  kind: string,
  body: Body,
  maxTokens: number | undefined,
  whole: (model: Model, body: Body, context: AnswerContext) => Promise<object & { usage: Usage }>,
  pieces: (model: Model, body: Body, context: AnswerContext, tally: Tally) => AsyncGenerator<object>,
): Promise<Answer> {
  if (body.model === undefined) throw new OptionError('model', `the name of the model, ${names[0]},`, undefined)
  checkModel(names, body.model)
  const most = settings.maxTokens
  if (most !== undefined && maxTokens !== undefined && maxTokens > most) throw new OptionError('max_tokens', `at most ${most}, the limit of this server,`, maxTokens)
  const context: AnswerContext = {
    id: `${kind}-${call.id.replace(/^req_/, '')}`,
    created: Math.floor(Date.now() / 1000),
    model: names[0],
    parseSpecial: settings.parseSpecial,
    cacheUsage: true,
    signal: call.signal,
  }
  if (body.stream) {
    const tally = { promptTokens: 0, cachedTokens: 0, completionTokens: 0 }
    return { events: pieces(model, body, context, tally), tally }
  }
  const full = await whole(model, body, context)
  const { prompt_tokens: promptTokens, prompt_tokens_details: details, completion_tokens: completionTokens } = full.usage
  Object.assign(call.fields, { promptTokens, cachedTokens: details?.cached_tokens, completionTokens })
  return full
}

function checkModel(names: Service['names'], named: string | null | undefined): void {
  if (named === undefined || named === null || names.includes(named)) return
  const shown = named.length > 80 ? `${named.slice(0, 77)}...` : named
  throw new RequestError(404, 'model_not_found', `There is no model ${JSON.stringify(shown)} here: this server has ${names.join(', ')}`, { param: 'model' })
}

function cardOf({ names, model: { plan }, created }: Service, id: string): z.output<typeof modelCard> {
  return { id, object: 'model', created, owned_by: 'ewe', root: names[0], max_model_len: plan.maxContext }
}
