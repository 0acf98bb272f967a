// A server over the small model on a free port, and what the tests ask it with.
import { Model, shippedModel, type LoadOptions } from '../../src/index.js'
import { createServer, type Server, type ServerOptions } from '../../src/serve/server.js'

export const question = 'What is the capital of Japan?'

/** One line of the log. */
export type Line = Record<string, unknown>

export interface Reply {
  status: number
  headers: Headers
  text: string
}

export class Served {
  readonly lines: Line[] = []
  url = ''
  readonly model: Model
  readonly server: Server

  private constructor(model: Model, options: ServerOptions) {
    const keep = (fields: object): void => void this.lines.push(fields as Line)
    this.model = model
    this.server = createServer(model, { log: { info: keep, warn: keep, error: keep }, ...options })
  }

  static async over(model: Model, options: ServerOptions = {}, port = 0): Promise<Served> {
    const served = new Served(model, options)
    served.url = (await served.server.listen({ port })).url
    return served
  }

  async get(path: string, init: RequestInit = {}): Promise<Reply> {
    const response = await fetch(this.url + path, init)
    return { status: response.status, headers: response.headers, text: await response.text() }
  }

  post(path: string, body: unknown, init: RequestInit = {}): Promise<Reply> {
    const { headers, ...rest } = init
    return this.get(path, { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json', ...(headers as object) }, ...rest })
  }

  /** The JSON of an answer that must be good. */
  async json<T>(path: string, body: unknown, init: RequestInit = {}): Promise<T> {
    const { status, text } = await this.post(path, body, init)
    if (status !== 200) throw new Error(`${path}: ${status} ${text}`)
    return JSON.parse(text) as T
  }

  /** The events of a stream that must be good, `[DONE]` cut off. */
  async events<T>(path: string, body: object): Promise<T[]> {
    const { status, text } = await this.post(path, { ...body, stream: true })
    if (status !== 200) throw new Error(`${path}: ${status} ${text}`)
    return eventsIn<T>(text)
  }

  /** That a good request is answered, whatever came before. */
  async serves(): Promise<void> {
    await this.json('/v1/completions', good)
  }

  /** Waits until nothing runs, waits or holds pages any more. */
  async idle(): Promise<void> {
    await until('an idle model', () => {
      const { running, queued, pagesUsed } = this.model.stats()
      return running + queued + pagesUsed === 0
    })
  }
}

/** Waits until something holds. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const late = performance.now() + 60_000
  while (!(await holds())) {
    if (performance.now() > late) throw new Error(`waited in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

export function eventsIn<T>(text: string): T[] {
  const events = text.split('\n\n')
  if (events.pop() !== '' || events.pop() !== 'data: [DONE]') throw new Error(`no [DONE] at the end of ${text.slice(-200)}`)
  return events.map((event) => {
    if (!event.startsWith('data: ')) throw new Error(`no event: ${event}`)
    return JSON.parse(event.slice(6)) as T
  })
}

/** With more context than it was trained for, so that a request can take longer than whoever wants to see it under way. */
export function loadLamb(options: LoadOptions = {}): Promise<Model> {
  return Model.load(shippedModel(), { device: 'cpu', maxContext: 4096, ...options })
}

/** A request that is answered at once. */
export const good = { model: 'lamb', prompt: 'One', max_tokens: 1, temperature: 0 }

/** A request that runs until it is cancelled, or for a second or more. */
export const long = { model: 'lamb', prompt: question, max_tokens: 4000, temperature: 1, ignore_eos: true }

export interface Choice {
  text: string
  index: number
  finish_reason: string | null
  logprobs: { tokens: string[]; token_logprobs: (number | null)[]; top_logprobs: (Record<string, number> | null)[]; text_offset: number[] } | null
}

export interface Completion {
  id: string
  object: string
  model: string
  choices: Choice[]
  usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number; prompt_tokens_details?: { cached_tokens: number } } | null
}

export interface Chat {
  id: string
  object: string
  choices: { index: number; message: { content: string }; finish_reason: string }[]
  usage: Completion['usage']
}

export interface ChatChunk {
  object: string
  choices: { index: number; delta: { role?: string; content?: string }; finish_reason: string | null }[]
  usage: Completion['usage']
}
