// What a model is asked, as text with its parts marked, and what counts as its answer. The texts are those that Dolly was trained with.

import { ContextLengthError, OptionError } from './errors.js'

/** A stretch of a prompt; special tokens are recognised in trusted ones only. */
export interface Part {
  text: string
  /** Written here, not by a user. */
  trusted: boolean
}

/**
 * - `dolly-v2`: the keys are special tokens, the response key with its newline.
 * - `dolly-v1`: the same text, the response key without its newline.
 * - `dolly-text`: the same text for a tokenizer without these tokens; the answer is found by searching its text for the end key.
 * - `plain`: the instruction and nothing else.
 */
export type TemplateName = 'dolly-v2' | 'dolly-v1' | 'dolly-text' | 'plain'

export interface Template {
  name: TemplateName
  /** Ids that end an answer, beside those of the model's configuration. */
  endIds: readonly number[]
  /** Texts that end an answer. */
  stop: readonly string[]
}

/** What the choice of a template needs to know of a tokenizer. */
export interface SpecialTokens {
  /** In the order of the tokenizer's configuration. */
  readonly additionalSpecialTokens: readonly string[]
  /** Ids by special token. */
  readonly specialTokens: ReadonlyMap<string, number>
}

const INTRO = 'Below is an instruction that describes a task. Write a response that appropriately completes the request.'
const INSTRUCTION_KEY = '### Instruction:'
const INPUT_KEY = 'Input:'
const RESPONSE_KEY = '### Response:'
const END_KEY = '### End'

/**
 * The template that fits a tokenizer, by the rule of Dolly's pipeline: the first special token that begins with `### Response:` tells the version,
 * and an answer ends with `### End` when that is a special token too. A tokenizer without these, such as that of Pythia itself, gets `dolly-text`.
 */
export function chooseTemplate(tokenizer: SpecialTokens): Template {
  const responseKey = tokenizer.additionalSpecialTokens.find((token) => token.startsWith(RESPONSE_KEY))
  if (responseKey === `${RESPONSE_KEY}\n` && tokenizer.specialTokens.has(END_KEY)) return templateNamed('dolly-v2', tokenizer)
  if (responseKey === RESPONSE_KEY && tokenizer.specialTokens.has(END_KEY)) return templateNamed('dolly-v1', tokenizer)
  return templateNamed('dolly-text', tokenizer)
}

/**
 * A template by name.
 *
 * @throws OptionError when the tokenizer lacks the special tokens that the template is made of.
 */
export function templateNamed(name: TemplateName, tokenizer: SpecialTokens): Template {
  if (name === 'plain') return { name, endIds: [], stop: [] }
  if (name === 'dolly-text') return { name, endIds: [], stop: [END_KEY] }
  const responseKey = name === 'dolly-v2' ? `${RESPONSE_KEY}\n` : RESPONSE_KEY
  const end = tokenizer.specialTokens.get(END_KEY)
  if (end === undefined || !tokenizer.specialTokens.has(responseKey)) {
    const needed = `${JSON.stringify(responseKey)} and ${JSON.stringify(END_KEY)}`
    throw new OptionError('template', `a template for a tokenizer without the special tokens ${needed}`, name)
  }
  return { name, endIds: [end], stop: [] }
}

export interface Instruction {
  instruction: string
  /** A text that the instruction is about; empty is none. */
  input?: string | undefined
}

/** The prompt of one instruction, up to where the answer begins. */
export function instructionPrompt(template: Template, request: Instruction): Part[] {
  if (template.name === 'plain') return plainPrompt([request.instruction, request.input])
  return [ours(`${INTRO}\n\n`), ...question(request)]
}

/** The instruction and its answer, as Dolly's pipeline joins them when the full text is asked for. It is not the prompt that the model read. */
export function fullText(request: Instruction, answer: string): string {
  return `${task(request).map((part) => part.text).join('')}\n${answer}`
}

export interface ChatTurn {
  role: 'system' | 'user' | 'assistant'
  /** Text, or parts that are all text. */
  content: string | ReadonlyArray<{ type: string; text?: string | undefined }>
  /** Of a user's turn: a text that it is about. */
  input?: string | undefined
}

export interface ChatOptions {
  /** Stands before the first instruction, ahead of the texts of turns with the role `system`. */
  system?: string | undefined
}

/**
 * The prompt of a conversation, up to where the answer to its last turn begins: earlier turns are instructions with their responses and `### End`.
 * Turns of one role in a row count as one, with a blank line between them. With the template `plain` all texts follow one another in the same way.
 *
 * @throws OptionError when a part is no text, when the first turn that is not `system` is not a user's, or when the last turn is not a user's.
 */
export function chatPrompt(template: Template, turns: readonly ChatTurn[], options: ChatOptions = {}): Part[] {
  const { system, exchanges } = readTurns(turns, options)
  return assemble(template, system, exchanges)
}

export interface FittedChat {
  /** Ids of the prompt. */
  tokens: Int32Array
  /** How many of the oldest exchanges (an instruction and its response) were left out. */
  dropped: number
}

/**
 * The prompt of a conversation in at most `maxTokens` tokens: the oldest exchanges are left out as far as needed. System text and last turn stay.
 *
 * @throws OptionError as {@link chatPrompt} does.
 * @throws ContextLengthError when the last turn alone is too long.
 */
export async function fitChat(
  template: Template,
  turns: readonly ChatTurn[],
  options: ChatOptions & { maxTokens: number; encode: (parts: Part[]) => Promise<Int32Array> }
): Promise<FittedChat> {
  const { system, exchanges } = readTurns(turns, options)
  const without = (dropped: number) => options.encode(assemble(template, system, exchanges.slice(dropped)))
  let tokens = await without(0)
  if (tokens.length <= options.maxTokens) return { tokens, dropped: 0 }

  // Halving: encoding the whole again for each exchange would take quadratic time in a long conversation.
  let tooFew = 0
  let dropped = exchanges.length - 1
  tokens = await without(dropped)
  if (tokens.length > options.maxTokens) {
    throw new ContextLengthError(`The last turn takes ${tokens.length} tokens with its template and ${options.maxTokens} are left for it: shorten it`)
  }
  while (dropped - tooFew > 1) {
    const middle = (dropped + tooFew) >> 1
    const candidate = await without(middle)
    if (candidate.length > options.maxTokens) tooFew = middle
    else {
      dropped = middle
      tokens = candidate
    }
  }
  return { tokens, dropped }
}

/**
 * The answer in a model's text, trimmed, as Dolly's pipeline cuts it. With `dolly-text` it ends before the first end key, in any number of `#` and
 * with any space. `plain` text stays as it is.
 *
 * Where a model ends at once, the pipeline's search returns a `#` of the end key; here the answer is empty.
 *
 * @param text what the model wrote after the prompt, without the token that ended it.
 * @param stopped the stop text that ended it, when one did.
 */
export function cutResponse(template: Template, text: string, stopped?: string | number): string {
  if (template.name === 'plain') return text
  if (template.name !== 'dolly-text') return strip(text)
  const whole = typeof stopped === 'string' && template.stop.includes(stopped) ? text + stopped : text
  const end = endKey(whole)
  return strip(end === -1 ? whole : whole.slice(0, end))
}

// Python's white space: it strips U+001C to U+001F and U+0085, and keeps U+FEFF, unlike String.prototype.trim.
const SPACE = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'
const IS_SPACE = new RegExp(SPACE)
// The last `#` of an end key. To look for all of them in the pattern would take quadratic time in a row of them.
const END_PATTERN = new RegExp(`#${SPACE}*End`)

function strip(text: string): string {
  const start = spaceAtStart(text)
  return text.slice(start, Math.max(start, spaceAtEnd(text, text.length)))
}

/** Length of the space that a text begins with. */
function spaceAtStart(text: string): number {
  let start = 0
  while (start < text.length && IS_SPACE.test(text.charAt(start))) start++
  return start
}

/** Where the space begins that ends before `end`. */
function spaceAtEnd(text: string, end: number): number {
  let start = end
  while (start > 0 && IS_SPACE.test(text.charAt(start - 1))) start--
  return start
}

/**
 * {@link cutResponse} for an answer that comes in pieces: what it lets through joins to the same text. It holds back space that may be the end and,
 * with `dolly-text`, what may begin an end key.
 */
export class ResponseCutter {
  readonly #template: Template
  #held = ''
  #started = false
  #ended = false

  constructor(template: Template) {
    this.#template = template
  }

  /** The text that is final after this piece. `finished` with the last piece, and then the stop text that ended it, when one did. */
  push(text: string, finished: boolean, stopped?: string | number): string {
    if (this.#template.name === 'plain') return text
    if (this.#ended) return ''
    const searches = this.#template.name === 'dolly-text'
    let whole = this.#held + text
    if (searches && finished && typeof stopped === 'string' && this.#template.stop.includes(stopped)) whole += stopped
    if (!this.#started) whole = whole.slice(spaceAtStart(whole))
    this.#started ||= whole !== ''
    const end = searches ? endKey(whole) : -1
    this.#ended = finished || end !== -1
    const final = end === -1 ? whole : whole.slice(0, end)
    const upTo = spaceAtEnd(final, searches && !this.#ended ? mayBeEndKey(final) : final.length)
    this.#held = this.#ended ? '' : final.slice(upTo)
    return final.slice(0, upTo)
  }
}

/** Where the first end key begins, or -1. */
function endKey(text: string): number {
  let start = text.search(END_PATTERN)
  while (start > 0 && text[start - 1] === '#') start--
  return start
}

/** Where the end of a text begins that more text could make an end key; its length when there is none. */
function mayBeEndKey(text: string): number {
  const key = spaceAtEnd(text, text.length - (/En?$/.exec(text)?.[0].length ?? 0))
  let start = key
  while (text[start - 1] === '#') start--
  return start < key ? start : text.length
}

interface Exchange extends Instruction {
  response?: string
}

function readTurns(turns: readonly ChatTurn[], options: ChatOptions): { system: string[]; exchanges: Exchange[] } {
  const system = options.system === undefined || options.system === '' ? [] : [options.system]
  const exchanges: Exchange[] = []
  for (const [index, turn] of turns.entries()) {
    const at = `turns[${index}]`
    const text = textOf(turn.content, `${at}.content`)
    const last = exchanges.at(-1)
    if (turn.role === 'system') system.push(text)
    else if (turn.role === 'assistant') {
      if (last === undefined) throw new OptionError(`${at}.role`, 'a conversation that begins with a user', turn.role)
      last.response = last.response === undefined ? text : `${last.response}\n\n${text}`
    } else if (turn.role !== 'user') throw new OptionError(`${at}.role`, '`system`, `user` or `assistant`', turn.role)
    else if (last !== undefined && last.response === undefined) {
      last.instruction = `${last.instruction}\n\n${text}`
      last.input = [last.input, turn.input].filter(Boolean).join('\n\n')
    } else exchanges.push({ instruction: text, input: turn.input })
  }
  const last = exchanges.at(-1)
  if (last === undefined || last.response !== undefined) throw new OptionError('turns', 'a conversation that ends with a user', turns.at(-1)?.role)
  return { system, exchanges }
}

function textOf(content: ChatTurn['content'], at: string): string {
  if (typeof content === 'string') return content
  if (!Array.isArray(content)) throw new OptionError(at, 'text or parts of text', content)
  return content
    .map((part: { type: string; text?: unknown } | null, index) => {
      if (part?.type === 'text' && typeof part.text === 'string') return part.text
      throw new OptionError(`${at}[${index}]`, 'a part of type `text`, the only one this model reads', part?.type)
    })
    .join('')
}

function assemble(template: Template, system: readonly string[], exchanges: readonly Exchange[]): Part[] {
  if (template.name === 'plain') {
    return plainPrompt([...system, ...exchanges.flatMap(({ instruction, input, response }) => [instruction, input, response])])
  }
  return [
    ours(`${INTRO}\n\n`),
    ...system.flatMap((text) => [theirs(text), ours('\n\n')]),
    ...exchanges.flatMap((exchange) => [
      ...question(exchange),
      ...(exchange.response === undefined ? [] : [theirs(exchange.response), ours(`\n\n${END_KEY}\n\n`)])
    ])
  ]
}

/** Instruction, input and the response key. */
function question(request: Instruction): Part[] {
  return [ours(`${INSTRUCTION_KEY}\n`), ...task(request), ours(`\n\n${RESPONSE_KEY}\n`)]
}

function task({ instruction, input }: Instruction): Part[] {
  return [theirs(instruction), ...(input === undefined || input === '' ? [] : [ours(`\n\n${INPUT_KEY}\n`), theirs(input)])]
}

function plainPrompt(texts: ReadonlyArray<string | undefined>): Part[] {
  const given = texts.filter((text): text is string => text !== undefined && text !== '')
  return given.flatMap((text, index) => (index === 0 ? [theirs(text)] : [ours('\n\n'), theirs(text)]))
}

function ours(text: string): Part {
  return { text, trusted: true }
}

function theirs(text: string): Part {
  return { text, trusted: false }
}
