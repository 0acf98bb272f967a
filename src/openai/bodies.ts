// The request bodies of OpenAI's completions and chat completions as schemas. Keys that nothing here names are let through: clients send many.
import { z } from 'zod'

/** Most prompts of one body, and most answers to them. */
const maxPrompts = 2048
const maxAnswers = 4096

/** Clients send null for what they leave out. */
function optional<T extends z.ZodType>(schema: T) {
  return schema.nullish().transform((value): z.output<T> | undefined => value ?? undefined)
}

/** Refused when given, because to leave it out would change the answer without a word. */
function unsupported(what: string, harmless: (value: unknown) => boolean, described: object) {
  return z
    .unknown()
    .refine((value) => value === null || harmless(value), what)
    .optional()
    .meta({ anyOf: [described, { type: 'null' }] })
}

const empty = (value: unknown): boolean => Array.isArray(value) && value.length === 0
const emptyList = { type: 'array', items: {}, maxItems: 0 }

// What is checked by hand is described by hand, in JSON Schema, for a server's document.
const stopText = { type: 'string', minLength: 1, maxLength: 1024 }
const promptText = { type: 'string', minLength: 1 }
const listOf = (items: object): object => ({ type: 'array', minItems: 1, maxItems: maxPrompts, items })
const ids = { type: 'array', minItems: 1, items: { $ref: '#/components/schemas/TokenId' } } // how large an id may be, the document's own server knows

const sampling = {
  /** Name of the model; who serves several looks at it. */
  model: optional(z.string().max(1024)),
  temperature: optional(z.number().min(0).max(2)),
  // Smaller ones are 0 to the engine, which computes in 32 bits.
  top_p: optional(z.number().min(1e-6).max(1)),
  presence_penalty: optional(z.number().min(-2).max(2)),
  frequency_penalty: optional(z.number().min(-2).max(2)),
  /** By token id. */
  logit_bias: optional(z.record(z.string().regex(/^\d{1,9}$/, 'token ids as keys'), z.number().min(-100).max(100))),
  seed: optional(z.int()),
  n: z.int().min(1).max(128).nullish().transform((value) => value ?? 1),
  stop: optional(
    z
      .custom<string | string[]>((value) => [value].flat().every((text) => typeof text === 'string' && text !== '' && text.length <= 1024) && [value].flat().length <= 64, {
        error: 'a text, or up to 64 of them, of 1 to 1024 characters each,',
      })
      .meta({ anyOf: [stopText, { type: 'array', maxItems: 64, items: stopText }] }),
  ),
  stream: z.boolean().nullish().transform((value) => value ?? false),
  stream_options: optional(z.looseObject({ include_usage: z.boolean().nullish() })),
  response_format: unsupported('{"type":"text"}, the only format there is,', (value) => (value as { type?: unknown }).type === 'text', {
    type: 'object',
    required: ['type'],
    properties: { type: { const: 'text' } },
  }),
  // Beyond OpenAI's, by the names that other servers use.
  top_k: optional(z.int().min(0).max(1 << 24)),
  min_p: optional(z.number().min(0).max(1)),
  repetition_penalty: optional(z.number().min(1e-6).max(1e6)),
}

type Prompt = string | string[] | number[] | number[][]

const isText = (value: unknown): boolean => typeof value === 'string'
const isId = (value: unknown): boolean => Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31
const isIds = (value: unknown): boolean => Array.isArray(value) && value.length > 0 && value.every(isId)

/** By hand: a schema would report each of a million wrong elements. */
function isPrompt(value: unknown): value is Prompt {
  if (isText(value) || isIds(value)) return true
  return Array.isArray(value) && value.length > 0 && value.length <= maxPrompts && (value.every(isText) || value.every(isIds))
}

/** Body of `/v1/completions`. */
export const completionBody = z
  .looseObject({
    ...sampling,
    prompt: z.custom<Prompt>(isPrompt, { error: `a text, up to ${maxPrompts} texts, token ids, or up to ${maxPrompts} lists of token ids` }).meta({
      anyOf: [promptText, listOf(promptText), ids, listOf(ids)],
    }),
    best_of: optional(z.int().min(1).max(128)),
    /** 0 is for the log-probabilities of a prompt alone, with `echo`. */
    max_tokens: optional(z.int().min(0).max(1 << 24)),
    echo: z.boolean().nullish().transform((value) => value ?? false),
    logprobs: optional(z.int().min(0).max(20)),
    suffix: unsupported('none: text is continued, not filled in,', (value) => value === '', { const: '' }),
    /** Special tokens in prompts that are texts count as such. Otherwise, and by default, they are plain text, so that no prompt can forge a template. */
    parse_special: z.boolean().nullish().transform((value) => value ?? undefined),
    ignore_eos: z.boolean().nullish().transform((value) => value ?? false),
    /** Name tokens in log-probabilities `token_id:N`, not by their text. */
    return_tokens_as_token_ids: z.boolean().nullish().transform((value) => value ?? false),
  })
  .superRefine((body, context) => {
    const refuse = (key: string, message: string): void => context.addIssue({ code: 'custom', path: [key], message })
    const best = body.best_of ?? body.n
    if (best < body.n) refuse('best_of', `at least n, which is ${body.n},`)
    if (best > body.n && body.stream) refuse('best_of', 'n: the best ones are known at the end only, so without `stream`,')
    if (body.max_tokens === 0 && !body.echo) refuse('max_tokens', 'at least 1 without `echo`')
    if (body.max_tokens === 0 && body.stream) refuse('max_tokens', 'at least 1 with `stream`')
    const prompts = Array.isArray(body.prompt) && typeof body.prompt[0] !== 'number' ? body.prompt.length : 1
    if (prompts * best > maxAnswers) refuse(body.best_of === undefined ? 'n' : 'best_of', `at most ${maxAnswers} answers in all, here to ${prompts} prompts,`)
  })
  .meta({ id: 'CompletionRequest' })
export type CompletionBody = z.output<typeof completionBody>

const part = z.looseObject({ type: z.literal('text', { error: "'text', the only kind that this model reads," }), text: z.string() })

const message = z.looseObject({
  role: z.enum(['system', 'developer', 'user', 'assistant']),
  content: z.union([z.string(), z.array(part)], { error: 'a text, or a list of parts of type `text`' }),
  tool_calls: unsupported('none: this model knows no tools,', empty, emptyList),
})

/** Body of `/v1/chat/completions`. */
export const chatBody = z
  .looseObject({
    ...sampling,
    messages: z.array(message).min(1).max(4096),
    max_tokens: optional(z.int().min(1).max(1 << 24)),
    max_completion_tokens: optional(z.int().min(1).max(1 << 24)),
    logprobs: z.boolean().nullish().transform((value) => value ?? false),
    top_logprobs: optional(z.int().min(0).max(20)),
    tools: unsupported('none: this model knows no tools,', empty, emptyList),
    functions: unsupported('none: this model knows no functions,', empty, emptyList),
    modalities: unsupported('["text"], all there is,', (value) => Array.isArray(value) && value.every((one) => one === 'text'), {
      type: 'array',
      items: { const: 'text' },
    }),
  })
  .superRefine((body, context) => {
    const refuse = (path: (string | number)[], text: string): void => context.addIssue({ code: 'custom', path, message: text })
    const first = body.messages.findIndex(({ role }) => role === 'user' || role === 'assistant')
    if (body.messages.at(-1)?.role !== 'user') refuse(['messages', body.messages.length - 1, 'role'], 'a conversation that ends with `user`, with that role')
    else if (body.messages[first]?.role !== 'user') refuse(['messages', first, 'role'], 'a conversation that begins with `user`, with that role')
    const { max_tokens: most = null, max_completion_tokens: other = null } = body
    if (most !== null && other !== null && most !== other) refuse(['max_tokens'], 'the same as max_completion_tokens, or none,')
    if (body.top_logprobs !== undefined && !body.logprobs) refuse(['top_logprobs'], 'none without `logprobs`: true,')
  })
  .meta({ id: 'ChatCompletionRequest' })
export type ChatBody = z.output<typeof chatBody>
