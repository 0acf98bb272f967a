import { setMaxListeners } from 'node:events'
import { basename } from 'node:path'
import type { SingleBar } from 'cli-progress'
import { resolveModel } from '../checkpoint/hub.js'
import { Farm } from '../batch/farm.js'
import { runBatch, type Progress } from '../batch/job.js'
import { identityOf } from '../batch/identity.js'
import { OptionError } from '../errors.js'
import type { Model } from '../model.js'
import type { CacheFlags, ModelFlags, SamplingFlags } from './flags.js'
import { chosenModel, given, loadOptionsOf, openModel, samplingOf } from './open.js'
import { exitCodes, interruptible, note, writeJson } from './output.js'

export interface BatchFlags extends ModelFlags, CacheFlags, SamplingFlags {
  output?: string
  redis?: string
  worker?: boolean
  text?: boolean
  raw?: boolean
  order: 'input' | 'finished'
  shard?: string
  concurrency?: number
  created?: number
}

/** Milliseconds between lines of progress where stderr is no terminal. */
const lineInterval = 5000
const barInterval = 250
/** A line of the input may have thousands of prompts. */
const maxQueue = 1 << 20

/** Lines that a job keeps in Redis at a time. */
const spread = 256

/** `ewe batch`: answers the lines of a file. Returns the exit code. */
export async function batch(input: string | undefined, flags: BatchFlags): Promise<number> {
  const { output, text = false, raw = false, order, concurrency, created = 0, json, redis, worker } = flags
  const shard = shardOf(flags.shard ?? '1/1')
  if (concurrency !== undefined && (concurrency < 1 || concurrency > 4096)) throw new OptionError('--concurrency', 'a number from 1 to 4096', concurrency)
  if (worker === true && redis === undefined) throw new OptionError('--redis', 'the URL of Redis beside --worker', redis)
  if (worker === true && (input !== undefined || output !== undefined)) throw new OptionError('--worker', 'no input and no --output beside it', input ?? output)
  if (worker !== true && input === undefined) throw new OptionError('input', 'a file, or - for stdin,', input)
  if (worker !== true && output === undefined) throw new OptionError('--output', 'a file, or - for stdout,', output)
  const load = { ...loadOptionsOf(flags), maxQueue, ...given({ maxBatch: concurrency }) }
  const { seed = 0n, ...sampling } = samplingOf(flags)
  return await interruptible(async (signal) => {
    if (input === '-') signal.addEventListener('abort', () => process.stdin.destroy(), { once: true })
    const chosen = chosenModel(flags.model, '--model FOLDER or --model org/name')
    const dir = await resolveModel(chosen)
    const model = await openModel({ ...flags, model: chosen }, load, signal)
    const identity = await identityOf(model, dir, load.instructionSet)
    let farm: Farm | undefined
    let answered = 0
    const meter = await Meter.start(model)
    try {
      if (redis !== undefined) {
        setMaxListeners(0, signal) // each line listens
        farm = await Farm.open(redis, identity)
        farm.work(model, 2 * model.plan.maxBatch, signal, () => answered++)
      }
      if (input === undefined || output === undefined) {
        note(`answering lines of the queue ${farm?.queueName} until Ctrl-C`)
        return await new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
      }
      const result = await runBatch(model, {
        input: input === '-' ? (process.stdin as AsyncIterable<Uint8Array>) : input,
        output: output === '-' ? process.stdout : output,
        identity,
        modelName: basename(dir),
        text,
        raw,
        order,
        shard,
        seed,
        sampling,
        created,
        signal,
        ...(farm === undefined ? {} : { answerer: farm.answer, concurrency: spread }),
        onProgress: (progress) => meter.show(progress),
      })
      meter.stop()
      const { tokens, seconds, rate } = meter
      note(`${countOf(result)}; ${tokens} tokens in ${seconds.toFixed(1)} s, ${rate.toFixed(0)} tokens/s`)
      if (json === true && output !== '-') {
        const { total, failed, resumed } = result
        writeJson({ lines: total, failed, resumed, generatedTokens: tokens, seconds, tokensPerSecond: rate, output })
      }
      return result.failed > 0 ? exitCodes.partly : exitCodes.ok
    } finally {
      meter.stop()
      if (worker === true) note(`answered ${answered} lines`)
      await farm?.close(signal.aborted)
      await model.dispose()
    }
  })
}

/** `2/4`: the second of four parts. */
function shardOf(text: string): { index: number; count: number } {
  const [, index, count] = (/^(\d{1,6})\/(\d{1,6})$/.exec(text) ?? []).map(Number)
  if (index === undefined || count === undefined || index < 1 || index > count) throw new OptionError('--shard', 'I/N, the I-th of N parts, from 1/N to N/N', text)
  return { index, count }
}

function countOf({ finished, total, failed, resumed }: Progress): string {
  const lines = finished === total ? `${total} lines` : `${finished} of ${total} lines`
  return `${lines}${failed > 0 ? `, ${failed} failed` : ''}${finished === total && resumed > 0 ? `, ${resumed} of them from an earlier run` : ''}`
}

/** Progress on stderr: a bar on a terminal, else a line every few seconds. */
class Meter {
  readonly #model: Model
  readonly #bar: Bar | undefined
  readonly #started = performance.now()
  readonly #before: number
  #latest: Progress | undefined
  #timer: NodeJS.Timeout | undefined
  #ended: { tokens: number; seconds: number } | undefined

  private constructor(model: Model, bar: Bar | undefined) {
    this.#model = model
    this.#bar = bar
    this.#before = model.stats().generatedTokens
  }

  static async start(model: Model): Promise<Meter> {
    const meter = new Meter(model, process.stderr.isTTY ? await newBar() : undefined)
    meter.#timer = setInterval(() => meter.#draw(), meter.#bar === undefined ? lineInterval : barInterval)
    return meter
  }

  get tokens(): number {
    return this.#ended?.tokens ?? this.#model.stats().generatedTokens - this.#before
  }

  get seconds(): number {
    return this.#ended?.seconds ?? (performance.now() - this.#started) / 1000
  }

  get rate(): number {
    return this.tokens / this.seconds
  }

  show(progress: Progress): void {
    if (this.#latest === undefined) {
      if (progress.cut > 0) note(`the journal's last ${progress.cut} bytes were torn and are cut off`)
      if (progress.resumed > 0) note(`going on with a job of which ${progress.resumed} of ${progress.total} lines are finished`)
      this.#bar?.start(progress.total, progress.finished, this.#figures(progress))
    }
    this.#latest = progress
  }

  stop(): void {
    if (this.#ended !== undefined) return
    clearInterval(this.#timer)
    this.#bar?.stop()
    this.#ended = { tokens: this.tokens, seconds: this.seconds }
  }

  #draw(): void {
    if (this.#latest === undefined) return
    const { rate, eta } = this.#figures(this.#latest)
    if (this.#bar === undefined) note(`${countOf(this.#latest)}, ${rate} tokens/s, ETA ${eta}`)
    else this.#bar.update(this.#latest.finished, { rate, eta })
  }

  #figures({ finished, resumed, total }: Progress): { rate: string; eta: string } {
    const done = finished - resumed
    return { rate: this.rate.toFixed(0), eta: done === 0 ? '?' : duration(((total - finished) / done) * this.seconds) }
  }
}

type Bar = Pick<SingleBar, 'start' | 'update' | 'stop'>

async function newBar(): Promise<Bar> {
  const { default: progress } = await import('cli-progress')
  const manners = { stream: process.stderr, clearOnComplete: true, hideCursor: true, gracefulExit: false } // Ctrl-C is dealt with elsewhere
  return new progress.SingleBar({ format: 'batch [{bar}] {value}/{total} lines, {rate} tokens/s, ETA {eta}', ...manners }, progress.Presets.legacy)
}

function duration(seconds: number): string {
  const whole = Math.ceil(seconds)
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)]
  if (hours > 0) return `${hours} h ${minutes} min`
  return minutes > 0 ? `${minutes} min ${whole % 60} s` : `${whole} s`
}
