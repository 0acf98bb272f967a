// Answers on their way out: into a file all at once at the end, or down a stream as they come.
import { once } from 'node:events'
import { open, realpath, rename, stat, unlink } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import type { Writable } from 'node:stream'
import { BatchError, OptionError } from '../errors.js'
import { syncFolder, type Journal } from './journal.js'

const blockSize = 1 << 20

/** Where an output really lies, so that a link to it stays one and two names of it have one lock. */
export async function outputPath(path: string, input: string | undefined): Promise<string> {
  const found = await stat(path).catch(ignoreMissing)
  if (found !== undefined && !found.isFile()) throw new OptionError('output', 'a regular file, or - for stdout,', path)
  if (found === undefined) return join(await realpath(dirname(resolve(path))), basename(path))
  const asInput = input === undefined ? undefined : await stat(input).catch(ignoreMissing)
  if (asInput !== undefined && asInput.ino === found.ino && asInput.dev === found.dev) throw new OptionError('output', 'another file than the input', path)
  return await realpath(path)
}

/** Writes the answers beside the output and gives the file its name when all is on disk: it is there in full, or as it was before. */
export async function writeOutput(path: string, journal: Journal, records: Iterable<number>): Promise<void> {
  const partial = `${path}.partial`
  const file = await open(partial, 'w')
  try {
    let block: Buffer[] = []
    let size = 0
    const flush = async (): Promise<void> => {
      await file.appendFile(Buffer.concat(block))
      block = []
      size = 0
    }
    for (const record of records) {
      const line = await journal.read(record)
      block.push(line)
      size += line.length
      if (size >= blockSize) await flush()
    }
    await flush()
    await file.sync()
  } catch (error) {
    await unlink(partial)
    throw error
  } finally {
    await file.close()
  }
  await rename(partial, path)
  await syncFolder(dirname(path))
}

/** Writes answers to a stream as soon as it is their turn. */
export class StreamWriter {
  readonly #stream: Writable
  readonly #journal: Journal
  readonly #turns: Iterator<number> | undefined
  #next: number | undefined
  #last: Promise<void> = Promise.resolve()

  /** @param order the records in the order in which they go out; else they go as they finish. */
  constructor(stream: Writable, journal: Journal, order?: Iterable<number>) {
    this.#stream = stream
    this.#journal = journal
    this.#turns = order?.[Symbol.iterator]()
    this.#advance()
  }

  /** Resolves when all that can go out after this record finished has gone. */
  finished(record: number): Promise<void> {
    this.#last = this.#last.then(async () => {
      if (this.#turns === undefined) return await this.#send(record)
      while (this.#next !== undefined && this.#journal.has(this.#next)) {
        await this.#send(this.#next)
        this.#advance()
      }
    })
    return this.#last
  }

  #advance(): void {
    this.#next = this.#turns?.next().value as number | undefined
  }

  async #send(record: number): Promise<void> {
    if (!this.#stream.write(await this.#journal.read(record))) await once(this.#stream, 'drain')
  }
}

/** The error of a disk in the words of a job. */
export function diskError(error: unknown, path: string, journal: string): unknown {
  const { syscall, message } = error as NodeJS.ErrnoException
  if (syscall === undefined) return error
  return new BatchError(`${path} could not be written: ${message}. What is finished stays in ${journal}: mend that and give the same command again to go on`, { cause: error })
}

function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error
}
