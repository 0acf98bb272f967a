import { randomUUID } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { DeadlineError } from '../errors.js'
import { after, RequestError } from './failures.js'

/** Why a request's work was given up: nobody waits for it. */
export class ClientLeft extends Error {
  constructor() {
    super('The client left')
  }
}

/** One request under way: its id, what cancels it, and what its line in the log will say. */
export class Call {
  readonly id: string
  readonly signal: AbortSignal
  readonly started = performance.now()
  /** For the log. Never text of a prompt or an answer. */
  readonly fields: Record<string, string | number | boolean> = {}
  readonly #controller = new AbortController()
  readonly #client: AbortSignal
  readonly #onLeft = (): void => this.abort(new ClientLeft())
  #timer: NodeJS.Timeout | undefined

  constructor(request: Request, deadline?: number) {
    const named = request.headers.get('x-request-id') ?? ''
    this.id = /^[\w.:-]{1,128}$/.test(named) ? named : `req_${randomUUID().replaceAll('-', '')}`
    this.signal = this.#controller.signal
    setMaxListeners(0, this.signal) // each prompt of a request listens
    this.#client = request.signal
    if (this.#client.aborted) this.#onLeft()
    this.#client.addEventListener('abort', this.#onLeft, { once: true })
    if (deadline !== undefined) {
      this.#timer = setTimeout(() => this.abort(new DeadlineError(`The answer took longer than the ${deadline} ms that this server allows`)), deadline)
    }
  }

  get left(): boolean {
    return this.signal.reason instanceof ClientLeft
  }

  abort(reason: Error): void {
    this.#controller.abort(reason)
  }

  /** @param failed ends what else was begun for it; of what ended well nothing is left. */
  end(failed: boolean): void {
    clearTimeout(this.#timer)
    this.#client.removeEventListener('abort', this.#onLeft)
    if (failed) this.#controller.abort(new Error('The request is over'))
  }
}

/** The calls that make the model work, and the door that closes behind them. */
export class Work {
  readonly #calls = new Set<Call>()
  #draining = false
  #whenIdle: (() => void)[] = []

  /** @throws RequestError with status 503 when the server is about to stop. */
  check(): void {
    if (this.#draining) throw new RequestError(503, 'draining', 'This server is about to stop and takes no new work', { headers: after(5) })
  }

  begin(call: Call): void {
    this.check()
    this.#calls.add(call)
  }

  end(call: Call): void {
    this.#calls.delete(call)
    if (this.#calls.size === 0) for (const tell of this.#whenIdle.splice(0)) tell()
  }

  /** Takes no new work. Resolves when what runs is done, which is given up after `timeout` milliseconds. */
  async drain(timeout: number): Promise<void> {
    this.#draining = true
    if (this.#calls.size === 0) return
    const timer = setTimeout(() => this.abort(), timeout)
    await new Promise<void>((resolve) => this.#whenIdle.push(resolve))
    clearTimeout(timer)
  }

  /** Takes no new work and gives up what runs. */
  abort(): void {
    this.#draining = true
    for (const call of this.#calls) call.abort(new RequestError(503, 'draining', 'This server stopped before the answer was complete', { headers: after(5) }))
  }
}
