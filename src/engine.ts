import { DisposedError, fromNative } from './errors.js'
import type { Watcher } from './answers.js'
import { loadNative, type NativeCheckpoint, type NativeEngine, type NativeEvent, type NativeLoadOptions, type NativeRequest, type NativeStats, type Numbered } from './native.js'

/** Bytes of every id for the text of generated tokens: {@link NativeEngine.setText}. */
export interface TextTable {
  bytes: Uint8Array
  ends: Uint32Array
  special: Uint8Array
}

// Engines with work under way. They must not be collected while a promise waits for them, and V8 cannot see that: what will settle the promise is a
// native thread.
const busy = new Set<Engine>()

const disposedMeanwhile = 'The model was disposed of while this request was under way'

/** A native engine with the requests that wait for it. */
export class Engine {
  readonly #native: NativeEngine
  readonly #runs = new Map<number, Run>()
  readonly #watchers = new Set<Watcher>()
  #pending = 0
  #disposed: Promise<void> | undefined

  private constructor(native: NativeEngine) {
    this.#native = native
  }

  /** Loads the weights. Throws CheckpointError, DeviceError, OutOfMemoryError, the signal's reason, or what `onProgress` threw. */
  static async load(
    checkpoint: NativeCheckpoint,
    options: NativeLoadOptions,
    text: TextTable | undefined,
    { signal, onProgress }: { signal?: AbortSignal | undefined; onProgress?: ((progress: { done: number; total: number }) => void) | undefined },
  ): Promise<Engine> {
    signal?.throwIfAborted()
    const caller = new Error()
    const native = new (loadNative().Engine)()
    const engine = new Engine(native)
    const abort = (): void => native.abortLoad()
    let failure: { reason: unknown } | undefined
    const tell = (done: number, total: number): void => {
      try {
        if (failure === undefined) onProgress?.({ done, total })
      } catch (reason) {
        failure = { reason }
        abort()
      }
    }
    signal?.addEventListener('abort', abort, { once: true })
    native.onEvents(Engine.#listen(engine))
    try {
      await engine.#track(native.load(checkpoint, options, tell))
      if (failure !== undefined) throw failure.reason
      if (text !== undefined) native.setText(text.bytes, text.ends, text.special)
    } catch (thrown) {
      await engine.#track(native.dispose())
      signal?.throwIfAborted()
      if (failure !== undefined) throw failure.reason
      throw fromNative(thrown, caller)
    } finally {
      signal?.removeEventListener('abort', abort)
    }
    return engine
  }

  /** Queues a request. Its events come in order; leaving the iteration cancels it. */
  submit(request: NativeRequest, signal?: AbortSignal): AsyncIterableIterator<NativeEvent> {
    this.#check()
    signal?.throwIfAborted()
    const caller = new Error()
    const started = performance.now()
    let id: number
    try {
      id = this.#native.submit(request)
    } catch (thrown) {
      throw fromNative(thrown, caller)
    }
    const run = new Run(request, caller, started, signal, () => this.#native.cancel(id))
    this.#runs.set(id, run)
    this.#busy(1)
    return run
  }

  score(tokens: Int32Array, top: number, signal?: AbortSignal): Promise<{ logprobs: Float32Array; topTokens: Int32Array; topLogprobs: Float32Array }> {
    return this.#evaluate(() => this.#native.score(tokens, top), signal)
  }

  logits(tokens: Int32Array, signal?: AbortSignal): Promise<Float32Array> {
    return this.#evaluate(() => this.#native.logits(tokens), signal)
  }

  async #evaluate<T>(begin: () => Numbered<T>, signal: AbortSignal | undefined): Promise<T> {
    this.#check()
    signal?.throwIfAborted()
    const caller = new Error()
    const { request, result } = begin()
    const cancel = (): void => this.#native.cancel(request)
    signal?.addEventListener('abort', cancel, { once: true })
    try {
      return await this.#track(result)
    } catch (thrown) {
      signal?.throwIfAborted()
      throw fromNative(thrown, caller)
    } finally {
      signal?.removeEventListener('abort', cancel)
    }
  }

  stats(): NativeStats {
    this.#check()
    return this.#native.stats()
  }

  /** Tells of every request's tokens and end. Returns what ends that. */
  watch(watcher: Watcher): () => void {
    this.#watchers.add(watcher)
    return () => this.#watchers.delete(watcher)
  }

  /** Ends requests under way as cancelled and frees the memory. Idempotent. */
  dispose(): Promise<void> {
    this.#disposed ??= this.#track(
      this.#native.dispose().then(() => {
        for (const [id, run] of this.#runs) {
          run.fail(new DisposedError(disposedMeanwhile))
          this.#runs.delete(id)
          this.#busy(-1)
        }
      }),
    )
    return this.#disposed
  }

  /**
   * The native engine keeps this callback for life: it must not keep the engine, nor the native one, from being collected. So it is made here, where its
   * scope holds nothing else.
   */
  static #listen(engine: Engine): (events: NativeEvent[]) => void {
    const weak = new WeakRef(engine)
    return (events) => {
      const alive = weak.deref()
      if (alive !== undefined) alive.#dispatch(events)
    }
  }

  #check(): void {
    if (this.#disposed !== undefined) throw new DisposedError('This model was disposed of; load it again')
  }

  #dispatch(events: NativeEvent[]): void {
    const now = performance.now()
    for (const event of events) {
      const run = this.#runs.get(event.request)
      if (run === undefined) continue
      const last = run.push(event)
      if (this.#watchers.size > 0) run.tell(this.#watchers, event, now, last)
      if (!last) continue
      this.#runs.delete(event.request)
      this.#busy(-1)
    }
  }

  async #track<T>(work: Promise<T>): Promise<T> {
    this.#busy(1)
    try {
      return await work
    } finally {
      this.#busy(-1)
    }
  }

  #busy(by: 1 | -1): void {
    this.#pending += by
    if (this.#pending === (by === 1 ? 1 : 0)) {
      if (by === 1) busy.add(this)
      else busy.delete(this)
      this.#native.setActive(by === 1)
    }
  }
}

/** The events of one request: what native code produced and nobody has taken yet, or who waits for more. */
class Run implements AsyncIterableIterator<NativeEvent> {
  readonly #ready: NativeEvent[] = []
  readonly #waiting: { resolve: (result: IteratorResult<NativeEvent>) => void; reject: (error: unknown) => void }[] = []
  readonly #cancel: () => void
  readonly #caller: Error
  readonly #signal: AbortSignal | undefined
  readonly #onAbort = (): void => this.fail(this.#signal?.reason)
  #unfinished: number
  #ended = false
  readonly #promptTokens: number
  readonly #started: number
  readonly #lastToken: number[] = [] // of each sample
  #firstToken: number | undefined
  #generatedTokens = 0
  #error: { reason: unknown } | undefined

  constructor({ n, tokens }: NativeRequest, caller: Error, started: number, signal: AbortSignal | undefined, cancel: () => void) {
    this.#unfinished = n
    this.#promptTokens = tokens.length
    this.#caller = caller
    this.#started = started
    this.#signal = signal
    this.#cancel = cancel
    signal?.addEventListener('abort', this.#onAbort, { once: true })
  }

  /** True when this was the request's last event. */
  push(event: NativeEvent): boolean {
    if (event.finish !== undefined) this.#unfinished--
    const last = this.#unfinished === 0
    if (event.error !== undefined) this.fail(fromNative(event.error, this.#caller))
    // Cancelled by the user it has ended already; otherwise the engine was stopped under it.
    if (event.finish === 'cancelled') this.fail(new DisposedError(disposedMeanwhile))
    if (!this.#ended) {
      const next = this.#waiting.shift()
      if (next === undefined) this.#ready.push(event)
      else next.resolve({ done: false, value: event })
    }
    if (last) this.#end()
    return last
  }

  /** What watchers want to know of an event that came at `now`, which may be the request's last. */
  tell(watchers: Iterable<Watcher>, event: NativeEvent, now: number, last: boolean): void {
    const before = this.#lastToken[event.sample]
    if (event.token !== undefined) {
      this.#generatedTokens++
      this.#firstToken ??= now - this.#started
      this.#lastToken[event.sample] = now
    }
    for (const watcher of watchers) {
      if (event.token !== undefined && before !== undefined) watcher.token(now - before)
      if (!last || event.finish === undefined) continue
      watcher.finished({
        promptTokens: this.#promptTokens,
        generatedTokens: this.#generatedTokens,
        firstToken: this.#firstToken,
        reason: event.finish,
        total: now - this.#started,
        queue: event.queueTime,
        prefill: event.prefillTime,
        decode: event.decodeTime,
      })
    }
  }

  fail(reason: unknown): void {
    if (this.#ended) return
    if (this.#unfinished > 0) this.#cancel()
    this.#error = { reason }
    const waiter = this.#waiting.shift()
    if (waiter !== undefined) {
      this.#error = undefined
      waiter.reject(reason)
    }
    this.#end()
  }

  next(): Promise<IteratorResult<NativeEvent>> {
    if (this.#error !== undefined) {
      const { reason } = this.#error
      this.#error = undefined
      this.#ready.length = 0
      return Promise.reject(reason)
    }
    const event = this.#ready.shift()
    if (event !== undefined) return Promise.resolve({ done: false, value: event })
    if (this.#ended) return Promise.resolve({ done: true, value: undefined })
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
  }

  return(): Promise<IteratorResult<NativeEvent>> {
    if (this.#unfinished > 0) this.#cancel()
    this.#ready.length = 0
    this.#error = undefined
    this.#end()
    return Promise.resolve({ done: true, value: undefined })
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  #end(): void {
    this.#ended = true
    this.#signal?.removeEventListener('abort', this.#onAbort)
    for (const { resolve } of this.#waiting.splice(0)) resolve({ done: true, value: undefined })
  }
}
