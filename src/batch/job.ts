// A batch job from its input to its output:
//
//     input.ts (lines by their places) -> record.ts (a line's answer) -> journal.ts (on disk as it finishes) -> output.ts (all of it, in order)
//
// A job that was killed goes on where its journal ends, and its output is the same to the byte.
import { setMaxListeners } from 'node:events'
import { unlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname } from 'node:path'
import type { Writable } from 'node:stream'
import { setTimeout } from 'node:timers/promises'
import { QueueFullError } from '../errors.js'
import type { Model } from '../model.js'
import type { Identity } from './identity.js'
import { Input } from './input.js'
import { Journal } from './journal.js'
import type { InputLine } from './line.js'
import { Lock } from './lock.js'
import { diskError, outputPath, StreamWriter, writeOutput } from './output.js'
import { answerLine, type Answer, type AnswerSettings } from './record.js'

/** How long a line waits that the model's queue had no room for. Milliseconds. */
const queueWait = 50

export interface BatchOptions extends Omit<AnswerSettings, 'inputHash'> {
  /** Path of a file, or what its bytes come from. */
  input: string | AsyncIterable<Uint8Array>
  /** Path of a file, which makes the job resumable, or a stream. */
  output: string | Writable
  identity: Identity
  /** Answers in the order of the lines, or as they finished. */
  order: 'input' | 'finished'
  /** This job does the `index`-th of `count` parts, from 1 on, cut at lines: the parts' outputs joined are the whole's. */
  shard: { index: number; count: number }
  /** What answers a line. Default: the model of this process. */
  answerer?: Answerer | undefined
  /** Most lines under way at once. Default: twice what the model runs at once, so that it need not wait. */
  concurrency?: number | undefined
  onProgress?: ((progress: Progress) => void) | undefined
  signal?: AbortSignal | undefined
}

export type Answerer = (line: InputLine, repeated: boolean, settings: AnswerSettings, signal: AbortSignal) => Promise<Answer>

/** Counts of lines. */
export interface Progress {
  total: number
  finished: number
  /** Of those finished: how many are error records. */
  failed: number
  /** Of those finished: how many were so before this run. */
  resumed: number
  /** Bytes of a torn or damaged end that were cut off the journal. */
  cut: number
}

/**
 * Runs a job to its end, and from its journal on where there is one.
 *
 * @throws OptionError, BatchError, BatchMismatchError; what the model throws that is not about one line; the signal's reason. What is finished stays.
 */
export async function runBatch(model: Model, options: BatchOptions): Promise<Progress> {
  const { output } = options
  if (typeof output !== 'string') return await withInput(options, tmpdir(), (input) => toStream(model, options, input, output))
  const path = await outputPath(output, typeof options.input === 'string' ? options.input : undefined)
  const lock = await Lock.take(path)
  try {
    return await withInput(options, dirname(path), (input) => toFile(model, options, input, path))
  } finally {
    await lock.release()
  }
}

/**
 * Makes an output of what a job had finished that ended early: its finished lines, in the order of the input. Its journal is gone afterwards.
 *
 * @throws as {@link runBatch}.
 */
export async function writeFinished(options: Omit<BatchOptions, 'answerer' | 'concurrency' | 'onProgress' | 'output'> & { output: string }): Promise<void> {
  const path = await outputPath(options.output, undefined)
  const lock = await Lock.take(path)
  try {
    await withInput(options, dirname(path), async (input) => {
      const journalPath = `${path}.journal`
      const journal = await Journal.open(journalPath, headerOf(options, input), input.size)
      try {
        await writeOutput(path, journal, shardOf(input.size, options.shard).filter((record) => journal.has(record)))
        await unlink(journalPath)
      } finally {
        await journal.close()
      }
    })
  } finally {
    await lock.release()
  }
}

async function withInput<T>(options: Pick<BatchOptions, 'input' | 'signal'>, folder: string, work: (input: Input) => Promise<T>): Promise<T> {
  const input = await Input.open(options.input, folder, options.signal)
  try {
    return await work(input)
  } finally {
    await input.close()
  }
}

async function toFile(model: Model, options: BatchOptions, input: Input, path: string): Promise<Progress> {
  const journalPath = `${path}.journal`
  const journal = await Journal.open(journalPath, headerOf(options, input), input.size)
  try {
    const records = shardOf(input.size, options.shard)
    const progress = progressOf(journal, records)
    // In order of the lines: the longest prompts first took as many steps of the model, because they do not have the longest answers.
    const todo = records.filter((record) => !journal.has(record))
    try {
      await answerAll(model, options, input, todo, journal, progress)
    } catch (error) {
      throw diskError(error, journalPath, journalPath)
    }
    await input.checkUnchanged()
    const order = options.order === 'input' ? records : Array.from({ length: journal.size }, (_, i) => journal.finished.at(i))
    try {
      await writeOutput(path, journal, order)
    } catch (error) {
      throw diskError(error, path, journalPath)
    }
    await unlink(journalPath)
    return progress()
  } finally {
    await journal.close()
  }
}

async function toStream(model: Model, options: BatchOptions, input: Input, stream: Writable): Promise<Progress> {
  const journal = await Journal.temporary(tmpdir(), input.size)
  try {
    const records = shardOf(input.size, options.shard)
    const progress = progressOf(journal, records)
    const writer = new StreamWriter(stream, journal, options.order === 'input' ? records : undefined)
    await answerAll(model, options, input, records, journal, progress, (record) => writer.finished(record))
    return progress()
  } finally {
    await journal.close()
  }
}

/** Answers records, several at a time, each of which is in the journal before the next one of its row begins. The first error ends all. */
async function answerAll(
  model: Model,
  options: BatchOptions,
  input: Input,
  todo: readonly number[],
  journal: Journal,
  progress: () => Progress,
  onFinished?: (record: number) => Promise<void>,
): Promise<void> {
  const { signal: outer, concurrency = 2 * model.plan.maxBatch, onProgress } = options
  const answer: Answerer = options.answerer ?? ((...asked) => answerLine(model, ...asked))
  const settings: AnswerSettings = { ...options, inputHash: input.hash }
  const controller = new AbortController()
  const { signal } = controller
  setMaxListeners(0, signal) // each request listens
  const follow = (): void => controller.abort(outer?.reason)
  if (outer?.aborted === true) follow()
  outer?.addEventListener('abort', follow, { once: true })
  onProgress?.(progress())
  const left = todo.values()
  const row = async (): Promise<void> => {
    try {
      for (const record of left) {
        signal.throwIfAborted()
        const line = await input.read(record)
        await journal.append(record, await whenRoom(() => answer(line, input.repeats(record), settings, signal), signal))
        await onFinished?.(record)
        onProgress?.(progress())
      }
    } catch (error) {
      controller.abort(error)
    }
  }
  await Promise.all(Array.from({ length: Math.min(concurrency, todo.length) }, row))
  outer?.removeEventListener('abort', follow)
  signal.throwIfAborted()
}

/** Others may fill the model's queue, or lines of many prompts: a line then waits for its turn. */
async function whenRoom(answer: () => Promise<Answer>, signal: AbortSignal): Promise<Answer> {
  for (;;) {
    try {
      return await answer()
    } catch (error) {
      if (!(error instanceof QueueFullError)) throw error
      await setTimeout(queueWait)
      signal.throwIfAborted()
    }
  }
}

/** All that the answers depend on, so that a journal is never gone on with by another job. */
function headerOf({ identity, text, raw, sampling, seed, modelName, created, shard }: Omit<BatchOptions, 'output'>, input: Input): Record<string, unknown> {
  return {
    version: identity.version,
    input: { sha256: input.hash, bytes: input.bytes },
    model: identity.model,
    device: identity.device,
    maxContext: identity.maxContext,
    shard: `${shard.index}/${shard.count}`,
    seed: String(seed),
    sampling,
    text,
    raw,
    modelName,
    created,
  }
}

function shardOf(size: number, { index, count }: BatchOptions['shard']): number[] {
  const begin = (part: number): number => Math.floor((size * part) / count)
  return Array.from({ length: begin(index) - begin(index - 1) }, (_, i) => begin(index - 1) + i)
}

function progressOf(journal: Journal, records: readonly number[]): () => Progress {
  const { size: resumed, cut } = journal
  return () => ({ total: records.length, finished: journal.size, failed: journal.failed, resumed, cut })
}
