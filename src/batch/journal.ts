// What a job has finished, on disk: a header line that says which job it is, then one line for each finished record, in order of finishing:
//
//     RECORD TAB 1 (or 0, an error record) TAB CHECK TAB ANSWER NEWLINE
//
// CHECK is the beginning of a hash of the rest. A process killed at any moment leaves whole lines and at most one torn one behind them, which is cut off.
import { createHash } from 'node:crypto'
import { open, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import { BatchError, BatchMismatchError } from '../errors.js'
import { Column } from './column.js'
import { chunks, namelessFile } from './input.js'
import type { Answer } from './record.js'

/** What must be the same for answers to fit together. */
export type JobHeader = Record<string, unknown>

/** Most bytes that are read as one line: far more than an answer takes. */
const longest = 1 << 30

export class Journal {
  /** Bytes of a torn or damaged end that were cut off. */
  cut = 0
  /** Records in order of finishing. */
  readonly finished = new Column()
  failed = 0
  readonly #file: FileHandle
  readonly #durable: boolean
  /** By order of finishing: where the answers lie. */
  readonly #starts = new Column()
  readonly #lengths = new Column()
  /** By record: its place in the order of finishing, or -1. */
  readonly #orders: Int32Array
  #end: number
  #waiting: Waiting[] = []
  #writing: Promise<void> | undefined
  #broken: { error: unknown } | undefined

  private constructor(file: FileHandle, durable: boolean, end: number, records: number) {
    this.#file = file
    this.#durable = durable
    this.#end = end
    this.#orders = new Int32Array(records).fill(-1)
  }

  /** A journal of a job that cannot be gone on with, such as one that writes to a pipe; nothing of it stays. */
  static async temporary(folder: string, records: number): Promise<Journal> {
    return new Journal(await namelessFile(folder), false, 0, records)
  }

  /**
   * Opens the journal of a job, or begins it.
   *
   * @throws BatchMismatchError when it is that of another job.
   */
  static async open(path: string, header: JobHeader, records: number): Promise<Journal> {
    const first = Buffer.from(`${JSON.stringify({ journal: 'ewe batch', ...header })}\n`)
    const file = await open(path, 'a+', 0o600)
    try {
      const { size } = await file.stat()
      const found = await readHeader(file, path)
      const journal = new Journal(file, true, first.length, records)
      if (found.equals(first)) {
        await journal.#load(size)
        return journal
      }
      // A process killed while it began the journal leaves a part of the header and nothing else.
      if (size >= first.length || !first.subarray(0, size).equals(found)) throw mismatch(path, found, header)
      await file.truncate(0)
      await file.appendFile(first)
      await file.datasync()
      await syncFolder(dirname(path))
      journal.cut = size
      return journal
    } catch (error) {
      await file.close()
      throw error
    }
  }

  get size(): number {
    return this.finished.length
  }

  has(record: number): boolean {
    return this.#orders[record]! >= 0
  }

  /** Resolves when the answer is on disk: with all that came while the write before was under way, in one write and one sync. */
  append(record: number, answer: Answer): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ record, answer, resolve, reject })
      this.#writing ??= this.#write()
    })
  }

  /** The answer to a record as a line, newline included. */
  async read(record: number): Promise<Buffer> {
    const order = this.#orders[record] ?? -1
    if (order < 0) throw new RangeError(`record ${record} is not in the journal`)
    const bytes = Buffer.alloc(this.#lengths.at(order))
    const { bytesRead } = await this.#file.read(bytes, 0, bytes.length, this.#starts.at(order))
    if (bytesRead !== bytes.length) throw new BatchError('The journal became shorter while the job ran')
    return bytes
  }

  async close(): Promise<void> {
    await this.#writing
    await this.#file.close()
  }

  /** Takes the whole lines that are as they were written, and cuts the file at the first that is not. */
  async #load(size: number): Promise<void> {
    let before: Buffer[] = []
    reading: for await (const chunk of chunks(this.#file, undefined, this.#end)) {
      let at = 0
      for (let newline = chunk.indexOf(10); newline >= 0; newline = chunk.indexOf(10, at)) {
        const line = Buffer.concat([...before, chunk.subarray(at, newline + 1)])
        const entry = entryOf(line, this.#end)
        if (entry === undefined || this.#orders[entry.record] !== -1) break reading
        this.#note(entry)
        this.#end += line.length
        before = []
        at = newline + 1
      }
      before.push(Buffer.from(chunk.subarray(at)))
    }
    this.cut = size - this.#end
    if (this.cut > 0) await this.#file.truncate(this.#end)
  }

  async #write(): Promise<void> {
    while (this.#waiting.length > 0) {
      const group = this.#waiting.splice(0)
      const lines = group.map(({ record, answer }) => lineOf(record, answer))
      try {
        // After a write that failed there may be half a line at the end: nothing may follow it.
        if (this.#broken !== undefined) throw this.#broken.error
        await this.#file.appendFile(Buffer.concat(lines.map(({ bytes }) => bytes)))
        if (this.#durable) await this.#file.datasync()
      } catch (error) {
        this.#broken = { error }
        for (const { reject } of group) reject(error)
        continue
      }
      group.forEach(({ record, answer, resolve }, i) => {
        const { bytes, prefix } = lines[i]!
        this.#note({ record, ok: answer.ok, start: this.#end + prefix, length: bytes.length - prefix })
        this.#end += bytes.length
        resolve()
      })
    }
    this.#writing = undefined
  }

  #note({ record, ok, start, length }: Entry): void {
    this.#orders[record] = this.finished.length
    this.finished.push(record)
    this.#starts.push(start)
    this.#lengths.push(length)
    if (!ok) this.failed++
  }
}

interface Waiting {
  record: number
  answer: Answer
  resolve: () => void
  reject: (error: unknown) => void
}

/** Where an answer and its newline lie in the file. */
interface Entry {
  record: number
  ok: boolean
  start: number
  length: number
}

function checkOf(head: string, answer: string): string {
  return createHash('sha256').update(`${head}\t${answer}`).digest('hex').slice(0, 16)
}

function lineOf(record: number, { ok, json }: Answer): { bytes: Buffer; prefix: number } {
  const head = `${record}\t${ok ? 1 : 0}`
  const prefix = `${head}\t${checkOf(head, json)}\t`
  return { bytes: Buffer.from(`${prefix}${json}\n`), prefix: prefix.length }
}

/** What stands before the first newline, that one included; all of it where there is none. */
async function readHeader(file: FileHandle, path: string): Promise<Buffer> {
  const parts: Buffer[] = []
  let length = 0
  for await (const chunk of chunks(file)) {
    const newline = chunk.indexOf(10)
    parts.push(Buffer.from(newline < 0 ? chunk : chunk.subarray(0, newline + 1)))
    length += chunk.length
    if (newline >= 0) break
    if (length > longest) throw new BatchMismatchError(`${path} is no journal of a batch job: delete it, or write to another file`)
  }
  return Buffer.concat(parts)
}

function entryOf(line: Buffer, at: number): Entry | undefined {
  const [all, head = '', record, ok, check] = /^((\d{1,15})\t([01]))\t([0-9a-f]{16})\t/.exec(line.toString('latin1', 0, 64)) ?? []
  if (all === undefined || checkOf(head, line.toString('utf8', all.length, line.length - 1)) !== check) return undefined
  return { record: Number(record), ok: ok === '1', start: at + all.length, length: line.length - all.length }
}

function mismatch(path: string, found: Buffer, header: JobHeader): BatchMismatchError {
  let old: Record<string, unknown> | undefined
  try {
    old = JSON.parse(found.toString()) as Record<string, unknown>
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
  }
  if (old?.['journal'] !== 'ewe batch') return new BatchMismatchError(`${path} is no journal of a batch job: delete it, or write to another file`)
  const before = old
  const show = (value: unknown): string => JSON.stringify(value) ?? 'nothing'
  const differ = [...new Set([...Object.keys(before), ...Object.keys(header)])].filter((key) => key !== 'journal' && show(before[key]) !== show(header[key]))
  const list = differ.map((key) => `  ${key}: ${show(before[key])} then, ${show(header[key])} now`).join('\n')
  return new BatchMismatchError(
    `${path} belongs to a job that is not this one:\n${list}\nGive that job's command to finish it, write to another file, or delete the journal to begin anew`,
  )
}

/** Makes the names in a folder last. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
