// OpenAI's batches over the batch job: one runs at a time, all are on disk, and one that was under way goes on after a restart.
import { existsSync } from 'node:fs'
import { mkdir, open, readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Lock } from '../batch/lock.js'
import { runBatch, writeFinished, type BatchOptions } from '../batch/job.js'
import { identityOf, type Identity } from '../batch/identity.js'
import type { Model } from '../model.js'
import { isDiskFull, RequestError, systemCode } from './failures.js'
import { Files, newId, removeUnfinished, writeSafely } from './files.js'

/** As OpenAI shows a batch. */
export interface BatchCard {
  id: string
  object: 'batch'
  endpoint: string
  input_file_id: string
  completion_window: string
  status: 'validating' | 'failed' | 'in_progress' | 'finalizing' | 'completed' | 'cancelling' | 'cancelled'
  created_at: number
  in_progress_at?: number
  finalizing_at?: number
  completed_at?: number
  failed_at?: number
  cancelling_at?: number
  cancelled_at?: number
  output_file_id?: string
  error_file_id?: string
  errors?: { object: 'list'; data: Problem[] }
  request_counts: { total: number; completed: number; failed: number }
  metadata: Record<string, string> | null
}

/** What kept a batch or a line of it from being run. */
export interface Problem {
  code: string
  message: string
  line: number | null
  param: string | null
}

export interface JobsOptions {
  /** Where files and batches are kept. */
  folder: string
  /** Folder of the model: a batch goes on only with the same one. */
  modelFolder: string
  /** That the model was loaded with. Default `auto`. */
  instructionSet?: string | undefined
  /** As in the server's options: the names that lines may call the model by. Default: that of the model. */
  names?: readonly string[] | undefined
}

const endStates: readonly BatchCard['status'][] = ['failed', 'completed', 'cancelled']
const mostErrors = 100

/** Files and batch jobs of a server, in a folder. Open it once, and give it to {@link createServer}. */
export class Jobs {
  readonly files: Files
  readonly #model: Model
  readonly #identity: Identity
  readonly #names: readonly string[]
  readonly #dir: string
  readonly #lock: Lock
  readonly #cards = new Map<string, BatchCard>()
  readonly #stopping = new AbortController()
  #running: { id: string; controller: AbortController } | undefined
  #worker: Promise<void> | undefined
  #saving: Promise<void> = Promise.resolve()

  private constructor(model: Model, files: Files, identity: Identity, names: readonly string[], dir: string, lock: Lock) {
    this.files = files
    this.#model = model
    this.#identity = identity
    this.#names = names
    this.#dir = dir
    this.#lock = lock
  }

  /**
   * Reads what is there, and goes on with what was under way. Until {@link close}, which is part of a server's own, nobody else may have the folder.
   *
   * @throws BatchError when somebody else has it.
   */
  static async open(model: Model, { folder, modelFolder, instructionSet, names }: JobsOptions): Promise<Jobs> {
    const dir = join(folder, 'batches')
    await mkdir(dir, { recursive: true })
    const lock = await Lock.take(join(folder, 'server'), (pid) => `Another server, process ${pid}, keeps its files and batches in ${folder}: give each a folder of its own`)
    try {
      await removeUnfinished(dir)
      const jobs = new Jobs(model, await Files.open(join(folder, 'files')), await identityOf(model, modelFolder, instructionSet), names ?? [model.name], dir, lock)
      for (const name of (await readdir(dir)).filter((each) => each.endsWith('.json'))) {
        const card = JSON.parse(await readFile(join(dir, name), 'utf8')) as BatchCard
        jobs.#cards.set(card.id, card)
      }
      jobs.#wake()
      return jobs
    } catch (error) {
      await lock.release()
      throw error
    }
  }

  async create(asked: { input_file_id: string; endpoint: string; completion_window: string; metadata: Record<string, string> | null }): Promise<BatchCard> {
    this.files.card(asked.input_file_id, 'input_file_id')
    const counts = { total: 0, completed: 0, failed: 0 }
    const card: BatchCard = { id: newId('batch'), object: 'batch', ...asked, status: 'validating', created_at: now(), request_counts: counts }
    await this.#save(card)
    this.#wake()
    return card
  }

  /** Newest first. */
  list(): BatchCard[] {
    return [...this.#cards.values()].sort((a, b) => b.created_at - a.created_at || (a.id < b.id ? 1 : -1))
  }

  /** @throws RequestError with status 404. */
  card(id: string): BatchCard {
    const card = this.#cards.get(id)
    if (card === undefined) throw new RequestError(404, 'batch_not_found', 'There is no batch of that id')
    return card
  }

  async cancel(id: string): Promise<BatchCard> {
    const card = this.card(id)
    if (endStates.includes(card.status)) throw new RequestError(409, 'batch_ended', `This batch is ${card.status} already`)
    Object.assign(card, { status: 'cancelling', cancelling_at: now() })
    const answer = { ...card }
    // At once: what runs may be about to give it another status.
    if (this.#running?.id === id) this.#running.controller.abort(new Error('The batch was cancelled'))
    await this.#save(card)
    this.#wake()
    return answer
  }

  /** Ends what runs; it goes on when the folder is opened again. Idempotent. */
  async stop(): Promise<void> {
    this.#stopping.abort(new Error('The server stops'))
    this.#running?.controller.abort(this.#stopping.signal.reason)
    await this.#worker
  }

  /** Ends what runs, and leaves the folder to others. Idempotent. */
  async close(): Promise<void> {
    await this.stop()
    await this.#saving
    await this.#lock.release()
  }

  #wake(): void {
    this.#worker ??= this.#work().finally(() => {
      this.#worker = undefined
      if (this.#next() !== undefined) this.#wake()
    })
  }

  #next(): BatchCard | undefined {
    return this.#stopping.signal.aborted ? undefined : this.list().findLast(({ status }) => !endStates.includes(status))
  }

  /** The oldest first, until none is left. */
  async #work(): Promise<void> {
    for (let card = this.#next(); card !== undefined; card = this.#next()) {
      const controller = new AbortController()
      this.#running = { id: card.id, controller }
      try {
        if (card.status !== 'cancelling') await this.#run(card, controller.signal)
      } catch (error) {
        if (this.#stopping.signal.aborted) return
        if (!isCancelling(card)) await this.#cutShort(card, 'failed', [problemOf(error)])
      } finally {
        this.#running = undefined
      }
      if (isCancelling(card)) await this.#cutShort(card, 'cancelled', [])
    }
  }

  async #run(card: BatchCard, signal: AbortSignal): Promise<void> {
    const job = this.#jobOf(card)
    if (card.status === 'validating') {
      const errors = await problemsIn(job.input, card.endpoint, this.#names)
      signal.throwIfAborted()
      if (errors.length > 0) return await this.#cutShort(card, 'failed', errors)
      Object.assign(card, { status: 'in_progress', in_progress_at: now() })
      await this.#save(card)
    }
    if (card.status === 'in_progress') {
      await runBatch(this.#model, {
        ...job,
        concurrency: this.#model.plan.maxBatch,
        signal,
        onProgress: ({ total, finished, failed }) => (card.request_counts = { total, completed: finished - failed, failed }),
      })
      signal.throwIfAborted()
      Object.assign(card, { status: 'finalizing', finalizing_at: now() })
      await this.#save(card)
    }
    await this.#publish(card, job.output)
    signal.throwIfAborted()
    Object.assign(card, { status: 'completed', completed_at: now() })
    await this.#save(card)
    await rm(job.output)
  }

  /** What a batch is to the batch job, now and after a restart. */
  #jobOf(card: BatchCard): BatchOptions & { input: string; output: string } {
    return {
      input: this.files.pathOf(card.input_file_id),
      output: join(this.#dir, `${card.id}.out`),
      identity: this.#identity,
      modelName: this.#names[0] ?? this.#model.name,
      text: false,
      raw: false,
      order: 'input',
      shard: { index: 1, count: 1 },
      seed: 0n,
      sampling: {},
      created: card.created_at,
    }
  }

  /** Lines with an answer go to one file, the others to another one. Their ids are those of the batch: done twice, it is done once. */
  async #publish(card: BatchCard, output: string): Promise<void> {
    const counts = { good: 0, bad: 0 }
    for await (const line of await linesIn(output)) counts[kindOf(line)]++
    const add = async (kind: 'good' | 'bad', name: string): Promise<string> => {
      const stored = await this.files.store(linesOf(output, kind), `${card.id.replace('batch_', 'file-')}-${name}`)
      return (await this.files.keep(stored, `${card.id}_${name}.jsonl`, 'batch_output')).id
    }
    if (counts.good > 0) card.output_file_id = await add('good', 'output')
    if (counts.bad > 0) card.error_file_id = await add('bad', 'error')
    card.request_counts = { total: Math.max(card.request_counts.total, counts.good + counts.bad), completed: counts.good, failed: counts.bad }
  }

  /** The end of a batch that did not come to its last line. The lines that it finished stay, unless the disk has no room for them. */
  async #cutShort(card: BatchCard, status: 'failed' | 'cancelled', problems: Problem[]): Promise<void> {
    const { output, ...job } = this.#jobOf(card)
    try {
      if (existsSync(`${output}.journal`)) await writeFinished({ ...job, output })
      if (existsSync(output)) await this.#publish(card, output)
    } catch (error) {
      problems.push(problemOf(error))
    }
    for (const path of [output, `${output}.journal`]) await rm(path, { force: true })
    Object.assign(card, { status, [`${status}_at`]: now() }, problems.length > 0 ? { errors: { object: 'list', data: problems } } : {})
    await this.#saveEnd(card)
  }

  /** A full disk may be why it ended: what clients are told stays true, and a restart tries again. */
  async #saveEnd(card: BatchCard): Promise<void> {
    try {
      await this.#save(card)
    } catch (error) {
      process.emitWarning(`The end of ${card.id} could not be written: ${String(error)}`)
    }
  }

  /** One after the other: the client that cancels and the job that ends may both want to write a card, and the last one has all of it. */
  async #save(card: BatchCard): Promise<void> {
    const saved = this.#saving.then(() => writeSafely(join(this.#dir, `${card.id}.json`), JSON.stringify(card)))
    this.#saving = saved.then(
      () => {},
      () => {}, // it is told to whoever wanted this one written
    )
    await saved
    this.#cards.set(card.id, card)
  }
}

function problemOf(error: unknown): Problem {
  const place = { line: null, param: null }
  if (isDiskFull(error)) return { code: 'disk_full', message: 'The disk of this server is full: begin the rest of this batch again when it has room', ...place }
  const system = systemCode(error)
  // The system's own message would tell paths.
  if (system !== undefined) return { code: 'batch_failed', message: `A file of this batch could not be read or written: ${system}`, ...place }
  return { code: 'batch_failed', message: error instanceof Error ? error.message : String(error), ...place }
}

function kindOf(line: string): 'good' | 'bad' {
  const { response } = JSON.parse(line) as { response: { status_code: number } | null }
  return response?.status_code === 200 ? 'good' : 'bad'
}

/** Opened first: a stream of a file that is not there has nobody to tell it to. */
async function linesIn(path: string): Promise<AsyncIterable<string>> {
  return (await open(path)).readLines()
}

async function* linesOf(output: string, kind: 'good' | 'bad'): AsyncGenerator<string> {
  for await (const line of await linesIn(output)) if (kindOf(line) === kind) yield `${line}\n`
}

function isCancelling({ status }: BatchCard): boolean {
  return status === 'cancelling'
}

function now(): number {
  return Math.floor(Date.now() / 1000)
}

/** What keeps a file from being run at all, line by line. */
async function problemsIn(path: string, endpoint: string, names: readonly string[]): Promise<Problem[]> {
  const found: Problem[] = []
  const ids = new Set<string>()
  let number = 0
  for await (const text of await linesIn(path)) {
    number++
    if (text.trim() === '') continue
    const problem = problemOfLine(text, endpoint, names, ids)
    if (problem !== undefined) found.push({ ...problem, line: number })
    if (found.length === mostErrors) return found
  }
  if (ids.size === 0 && found.length === 0) found.push({ code: 'empty_file', message: 'The file has no lines', line: null, param: null })
  return found
}

function problemOfLine(text: string, endpoint: string, names: readonly string[], ids: Set<string>): Omit<Problem, 'line'> | undefined {
  let line: { custom_id?: unknown; method?: unknown; url?: unknown; body?: { model?: unknown } | null } | null
  try {
    line = JSON.parse(text) as typeof line
  } catch {
    return { code: 'invalid_json_line', message: 'This line is not JSON', param: null }
  }
  if (typeof line !== 'object' || line === null) return { code: 'invalid_json_line', message: 'This line is not a JSON object', param: null }
  const { custom_id: id, method, url, body } = line
  if (typeof id !== 'string' || id === '') return { code: 'invalid_request', message: 'Expected a text as custom_id', param: 'custom_id' }
  if (ids.has(id)) return { code: 'duplicate_custom_id', message: 'An earlier line has this custom_id', param: 'custom_id' }
  ids.add(id)
  if (method !== 'POST') return { code: 'invalid_request', message: 'Expected the method POST', param: 'method' }
  if (url !== endpoint) return { code: 'mismatched_endpoint', message: `Expected the url ${endpoint}, that of the batch`, param: 'url' }
  if (typeof body?.model !== 'string' || !names.includes(body.model)) return { code: 'model_not_found', message: `Expected one of the models ${names.join(', ')}`, param: 'body.model' }
  return undefined
}
