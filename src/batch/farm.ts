// One job on many processes and machines, over Redis: the process that holds input and journal puts lines into a queue of BullMQ, workers answer them, and
// the answers come back to the one journal. A worker that is killed loses nothing: its lines go back to the queue when their locks run out. An answer that
// comes twice is the same answer, and only the first is taken.
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import type * as bullmq from 'bullmq'
import type { Queue, QueueEvents, Worker } from 'bullmq'
import { z } from 'zod'
import { BatchError, OptionError } from '../errors.js'
import type { Model } from '../model.js'
import { check, generateOptions } from '../options.js'
import type { Identity } from './identity.js'
import type { InputLine } from './line.js'
import { answerLine, type Answer, type AnswerSettings } from './record.js'

/** A worker that says nothing for so long is dead, and its lines are given to others. Milliseconds. */
const lockDuration = 10_000
const stalledInterval = 3_000
/** How often lines are looked for whose answer was not heard of: Redis or the connection may have been away. Milliseconds. */
const lookInterval = 2_000
/** Seconds that an answer which nobody fetches stays in Redis. */
const keepAnswers = 86_400

const work = z.object({
  line: z.object({ number: z.int(), length: z.int(), bytes: z.base64().nullable() }),
  repeated: z.boolean(),
  settings: z.object({
    text: z.boolean(),
    raw: z.boolean(),
    sampling: generateOptions.pick({ maxNewTokens: true, temperature: true, topK: true, topP: true, minP: true, repetitionPenalty: true, stop: true }),
    seed: z.string().regex(/^\d{1,20}$/),
    modelName: z.string(),
    created: z.int(),
    inputHash: z.string(),
  }),
})
type Work = z.input<typeof work>

const result = z.object({ json: z.string(), ok: z.boolean() })

interface Pending {
  work: Work
  resolve: (answer: Answer) => void
  reject: (error: unknown) => void
}

export class Farm {
  /** Only models that compute the same bits read from the same queue. */
  readonly queueName: string
  readonly #url: string
  readonly #bullmq: typeof bullmq
  readonly #queue: Queue<Work, Answer>
  #events: QueueEvents<Answer> | undefined
  #worker: Worker<Work, Answer> | undefined
  #ready: Promise<void> | undefined
  #timer: NodeJS.Timeout | undefined
  readonly #pending = new Map<string, Pending>()

  private constructor(url: string, identity: Identity, library: typeof bullmq) {
    this.#url = url
    this.#bullmq = library
    this.queueName = `ewe-batch-${createHash('sha256').update(JSON.stringify(identity)).digest('hex').slice(0, 16)}`
    this.#queue = new library.Queue<Work, Answer>(this.queueName, { connection: this.#connection() })
    this.#queue.on('error', this.#onError)
  }

  /**
   * @param url `redis://host:port`, or `rediss://`.
   * @throws OptionError; BatchError when Redis cannot be reached, or BullMQ is not installed.
   */
  static async open(url: string, identity: Identity): Promise<Farm> {
    const { protocol, hostname, port } = URL.canParse(url) ? new URL(url) : { protocol: '', hostname: '', port: '' }
    if (!['redis:', 'rediss:'].includes(protocol) || hostname === '') throw new OptionError('redis', 'redis://HOST:PORT or rediss://HOST:PORT', protocol)
    await reach(hostname.replace(/^\[|\]$/g, ''), Number(port || 6379))
    const farm = new Farm(url, identity, await loadBullmq())
    try {
      await farm.#greet()
    } catch (cause) {
      await farm.close(true)
      throw new BatchError(`Redis at ${hostname}:${port || 6379}: ${(cause as Error).message}`, { cause })
    }
    return farm
  }

  /** Answers lines of the queue with a model, until {@link close}. */
  work(model: Model, concurrency: number, signal: AbortSignal, onAnswer: () => void = () => {}): void {
    const answer = async ({ data }: { data: Work }): Promise<Answer> => {
      const { line, repeated, settings } = check(work, data, 'work')
      const bytes = line.bytes === null ? undefined : Buffer.from(line.bytes, 'base64')
      const made = await answerLine(model, { ...line, bytes }, repeated, { ...settings, seed: BigInt(settings.seed) }, signal)
      onAnswer()
      return made
    }
    const times = { lockDuration, stalledInterval, maxStalledCount: 1_000_000 } // however many workers die of other causes, the line is not lost
    this.#worker = new this.#bullmq.Worker<Work, Answer>(this.queueName, answer, { connection: this.#connection(), concurrency, ...times })
    // Such as an answer to a line that Redis has lost meanwhile: the job adds the line again.
    this.#worker.on('error', () => {})
  }

  /** Has a line answered by whichever worker takes it. */
  answer = async (line: InputLine, repeated: boolean, settings: AnswerSettings, signal: AbortSignal): Promise<Answer> => {
    signal.throwIfAborted()
    const { text, raw, sampling, seed, modelName, created, inputHash } = settings
    const told = { text, raw, sampling, seed: String(seed), modelName, created, inputHash }
    const given: Work = { line: { number: line.number, length: line.length, bytes: line.bytes?.toString('base64') ?? null }, repeated, settings: told }
    const id = createHash('sha256').update(JSON.stringify([told, line.number])).digest('hex').slice(0, 32)
    const answered = new Promise<Answer>((resolve, reject) => this.#pending.set(id, { work: given, resolve, reject }))
    const abort = (): void => this.#pending.get(id)?.reject(signal.reason)
    signal.addEventListener('abort', abort, { once: true })
    try {
      this.#ready ??= this.#listen()
      const added = this.#ready.then(() => this.#add(id, given))
      return (await Promise.all([answered, added]))[0]
    } finally {
      signal.removeEventListener('abort', abort)
      this.#pending.delete(id)
    }
  }

  /** @param hurry does not wait for the lines that this process is answering: others will. */
  async close(hurry: boolean): Promise<void> {
    clearInterval(this.#timer)
    await this.#worker?.close(hurry)
    await this.#events?.close()
    await this.#queue.close()
  }

  /** A server that wants a password, or another one, refuses each command, and the client would ask for ever. */
  async #greet(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#queue.on('error', (error) => {
        if (!isLostConnection(error)) reject(error)
      })
      this.#queue.waitUntilReady().then(() => resolve(), reject)
    })
  }

  /** After a lost connection the client connects again by itself, and #look finds what was missed. Of other trouble the lines under way tell. */
  readonly #onError = (error: Error): void => {
    if (isLostConnection(error)) return
    for (const { reject } of this.#pending.values()) reject(new BatchError(`Redis: ${error.message}`, { cause: error }))
  }

  async #listen(): Promise<void> {
    const events = (this.#events = new this.#bullmq.QueueEvents<Answer>(this.queueName, { connection: this.#connection() }))
    events.on('error', this.#onError)
    events.on('completed', ({ jobId, returnvalue }) => void this.#finish(jobId, returnvalue))
    events.on('failed', ({ jobId, failedReason }) => void this.#fail(jobId, failedReason))
    this.#timer = setInterval(() => void this.#look(), lookInterval)
    await events.waitUntilReady()
  }

  /** A line that is there already, of this job before it was stopped, is not added again. */
  async #add(id: string, given: Work): Promise<void> {
    await this.#queue.add('line', given, { jobId: id, attempts: 3, removeOnComplete: { age: keepAnswers }, removeOnFail: { age: keepAnswers } })
  }

  /** What events did not tell: a line that was finished before this process began, or one that Redis has lost. */
  async #look(): Promise<void> {
    for (const [id, { work: given }] of this.#pending) {
      const job = await this.#queue.getJob(id).catch(ignoreClosing)
      if (job === null) return
      if (job === undefined) {
        if (this.#pending.has(id)) await this.#add(id, given).catch(ignoreClosing)
      } else if (job.finishedOn !== undefined) {
        if (job.failedReason) await this.#fail(id, job.failedReason)
        else await this.#finish(id, job.returnvalue)
      }
    }
  }

  async #finish(id: string, value: unknown): Promise<void> {
    const pending = this.#pending.get(id)
    if (pending === undefined) return
    try {
      pending.resolve(check(result, value, 'answer'))
      await this.#queue.remove(id)
    } catch (error) {
      pending.reject(error)
    }
  }

  /** It is taken out of the queue, so that the next run of the job tries it again. */
  async #fail(id: string, reason: string): Promise<void> {
    const pending = this.#pending.get(id)
    if (pending === undefined) return
    const line = pending.work.line.number
    pending.reject(new BatchError(`Workers could not answer line ${line}: ${reason}. Mend that and give the same command again to go on`))
    await this.#queue.remove(id).catch(ignoreClosing)
  }

  #connection(): { url: string; maxRetriesPerRequest: null } {
    return { url: this.#url, maxRetriesPerRequest: null } // Redis may restart: what was asked for is asked again
  }
}

async function loadBullmq(): Promise<typeof bullmq> {
  try {
    return await import('bullmq')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw cause
    throw new BatchError('To spread a job over Redis the packages bullmq and ioredis are needed: npm install bullmq ioredis', { cause })
  }
}

/** A wrong address is told at once; the client would try for ever. */
async function reach(host: string, port: number): Promise<void> {
  const socket = connect({ host, port, timeout: 5000 })
  socket.on('timeout', () => socket.destroy(new Error('no answer for 5 s')))
  try {
    await once(socket, 'connect')
  } catch (cause) {
    throw new BatchError(`Redis at ${host}:${port} cannot be reached: ${(cause as Error).message}`, { cause })
  } finally {
    socket.destroy()
  }
}

function isLostConnection(error: Error): boolean {
  return (error as NodeJS.ErrnoException).syscall !== undefined || /^(Connection is closed|Stream isn't writeable)/.test(error.message)
}

function ignoreClosing(error: Error): null {
  if (!isLostConnection(error)) throw error
  return null
}
