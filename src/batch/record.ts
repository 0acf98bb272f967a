// One line of a job: what it asks for, and the line of output that answers it.
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { ContextLengthError, NumericError, OptionError, TokenizerError, type EweError } from '../errors.js'
import type { Model } from '../model.js'
import { chat, chatBody, complete, completionBody, type AnswerContext } from '../openai.js'
import { refusalOf, type ErrorBody } from '../openai/refusals.js'
import { check, type GenerateOptions } from '../options.js'
import { decode, lineLimit, parseJson, type InputLine } from './line.js'

export type Sampling = Pick<GenerateOptions, 'maxNewTokens' | 'temperature' | 'topK' | 'topP' | 'minP' | 'repetitionPenalty' | 'stop'>

/** What answers depend on, beside the line and the model. */
export interface AnswerSettings {
  /** Lines are prompts as they are, not JSON. */
  text: boolean
  /** Plain prompts are continued, without the template. */
  raw: boolean
  /** Of rows and plain prompts; a body of OpenAI's brings its own. */
  sampling: Sampling
  /** Of the job. */
  seed: bigint
  /** The model's name in answers. */
  modelName: string
  /** Seconds since 1970 in answers of OpenAI's shape. */
  created: number
  /** Hash of the whole input: ids of answers come from it and the line's number. */
  inputHash: string
}

/** A finished line. */
export interface Answer {
  /** JSON without a newline. */
  json: string
  ok: boolean
}

type Task =
  | { kind: 'instruction'; instruction: string; input: string | undefined }
  | { kind: 'raw'; prompt: string }
  | { kind: 'openai'; customId: string; url: OpenAILine['url']; body: unknown }

const instructionRow = z.looseObject({
  instruction: z.string().refine((text) => text.trim() !== '', 'a text that is not empty'),
  context: z.string().nullish(),
  /** Another usual name of the context. */
  input: z.string().nullish(),
})

const openaiLine = z.looseObject({
  custom_id: z.string().min(1).max(512),
  method: z.literal('POST'),
  url: z.enum(['/v1/completions', '/v1/chat/completions']),
  body: z.looseObject({}),
})
type OpenAILine = z.output<typeof openaiLine>

/**
 * Answers a line. What is wrong with the line itself is its answer; anything else is thrown.
 *
 * @param repeated whether an earlier line has the same custom_id.
 * @throws QueueFullError, DeviceError and its like; the signal's reason.
 */
export async function answerLine(model: Model, line: InputLine, repeated: boolean, settings: AnswerSettings, signal: AbortSignal): Promise<Answer> {
  const value = line.bytes === undefined || settings.text ? undefined : parseJson(line.bytes)
  const asked = isBatchLine(value) ? value : undefined
  const ids = idsOf(settings, line.number)
  try {
    const task = taskOf(line, value, repeated, settings)
    if (task.kind !== 'openai') return { json: JSON.stringify(await answerRow(model, task, line.number, settings, signal)), ok: true }
    const { status, body } = await answerBody(model, task, line.number, settings, signal)
    const response = { status_code: status, request_id: ids.request, body }
    return { json: JSON.stringify({ id: ids.line, custom_id: task.customId, response, error: null }), ok: status === 200 }
  } catch (thrown) {
    if (!isOfLine(thrown)) throw thrown
    const error = { code: thrown.code, message: thrown.message, line: line.number }
    if (asked === undefined) return { json: JSON.stringify({ line: line.number, error: { code: error.code, message: error.message } }), ok: false }
    const id = asked['custom_id']
    return { json: JSON.stringify({ id: ids.line, custom_id: typeof id === 'string' && id.length <= 512 ? id : null, response: null, error }), ok: false }
  }
}

function taskOf({ number, length, bytes }: InputLine, value: unknown, repeated: boolean, { text, raw }: AnswerSettings): Task {
  if (bytes === undefined) throw new OptionError('line', `at most ${lineLimit} bytes`, length)
  const string = value === undefined ? decode(bytes) : value
  if (!text && value === undefined) throw new OptionError('line', 'JSON (with --text, lines are prompts as they are)', string)
  if (typeof string === 'string') {
    if (string.trim() === '') throw new OptionError('line', 'a text that is not empty', string)
    return raw ? { kind: 'raw', prompt: string } : { kind: 'instruction', instruction: string, input: undefined }
  }
  if (isBatchLine(value)) {
    const { custom_id: customId, url, body } = check(openaiLine, value, 'line')
    if (repeated) throw new OptionError('custom_id', `an id that no line before ${number} has`, customId)
    return { kind: 'openai', customId, url, body }
  }
  if (isObject(value) && 'instruction' in value) {
    const { instruction, context, input } = check(instructionRow, value, 'line')
    if (context && input) throw new OptionError('input', 'nothing beside `context`: they are two names of one thing', input)
    return { kind: 'instruction', instruction, input: context || input || undefined }
  }
  throw new OptionError('line', 'a text, an object with `instruction`, or one with `custom_id`, `method`, `url` and `body`', value)
}

async function answerRow(
  model: Model,
  task: Exclude<Task, { kind: 'openai' }>,
  line: number,
  { sampling, seed }: AnswerSettings,
  signal: AbortSignal,
): Promise<object> {
  const options = { ...sampling, seed: lineSeed(seed, line, 0), signal }
  const { text, finishReason, promptTokens, tokens } =
    task.kind === 'raw' ? await model.complete(task.prompt, options) : await model.generate(task.instruction, { ...options, input: task.input })
  return { line, text, finishReason, promptTokens, generatedTokens: tokens.length }
}

async function answerBody(
  model: Model,
  { url, body }: Extract<Task, { kind: 'openai' }>,
  line: number,
  settings: AnswerSettings,
  signal: AbortSignal,
): Promise<{ status: number; body: object }> {
  const { seed, created, modelName } = settings
  const ids = idsOf(settings, line)
  const context: AnswerContext = { id: '', created, model: modelName, seed: (prompt) => lineSeed(seed, line, prompt), signal }
  try {
    if ((body as { stream?: unknown }).stream === true) throw new OptionError('stream', 'no stream: a batch answers with whole texts', true)
    const answer =
      url === '/v1/completions'
        ? await complete(model, check(completionBody, body, 'body'), { ...context, id: ids.completion })
        : await chat(model, check(chatBody, body, 'body'), { ...context, id: ids.chat })
    return { status: 200, body: answer }
  } catch (thrown) {
    const refusal: ErrorBody | undefined = refusalOf(thrown)
    if (refusal === undefined) throw thrown
    return { status: 400, body: refusal }
  }
}

/** Errors that the same line gives each time. */
function isOfLine(thrown: unknown): thrown is EweError {
  return thrown instanceof OptionError || thrown instanceof ContextLengthError || thrown instanceof TokenizerError || thrown instanceof NumericError
}

/** Depends on nothing but the job's seed and the place in the input, so neither order nor neighbours nor shards change an answer. */
export function lineSeed(seed: bigint, line: number, prompt: number): bigint {
  return createHash('sha256').update(`ewe batch ${seed} ${line} ${prompt}`).digest().readBigUInt64LE()
}

function idsOf({ inputHash }: AnswerSettings, line: number): { line: string; request: string; completion: string; chat: string } {
  const hex = createHash('sha256').update(`${inputHash} ${line}`).digest('hex').slice(0, 24)
  return { line: `batch_req_${hex}`, request: `req_${hex}`, completion: `cmpl-${hex}`, chat: `chatcmpl-${hex}` }
}

/** Meant as a line of OpenAI's batches, right or wrong. */
function isBatchLine(value: unknown): value is Record<string, unknown> {
  return isObject(value) && ('custom_id' in value || ('body' in value && !('instruction' in value)))
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
