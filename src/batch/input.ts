// The input of a job as records: the lines that are not blank, by their places in a file.
import { createHash, randomBytes } from 'node:crypto'
import { open, unlink, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { BatchError } from '../errors.js'
import { Column } from './column.js'
import { lineLimit, parseJson, type InputLine } from './line.js'

const chunkSize = 1 << 20

export class Input {
  /** Of all bytes, in hex. */
  readonly hash: string
  readonly bytes: number
  readonly #file: FileHandle
  readonly #changed: number
  readonly #lines: LineIndex

  private constructor(file: FileHandle, changed: number, hash: string, bytes: number, lines: LineIndex) {
    this.#file = file
    this.#changed = changed
    this.hash = hash
    this.bytes = bytes
    this.#lines = lines
  }

  /**
   * Reads all of it once. What is no regular file is first copied to one in `folder` that has no name any more, so nothing of it is left behind.
   *
   * @throws the errors of the file system; the signal's reason.
   */
  static async open(source: string | AsyncIterable<Uint8Array>, folder: string, signal?: AbortSignal): Promise<Input> {
    const file = await openRegular(source, folder, signal)
    try {
      const { mtimeMs } = await file.stat()
      const hash = createHash('sha256')
      const lines = new LineIndex()
      let bytes = 0
      for await (const chunk of chunks(file, signal)) {
        hash.update(chunk)
        lines.add(chunk)
        bytes += chunk.length
      }
      lines.end()
      return new Input(file, mtimeMs, hash.digest('hex'), bytes, lines)
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /** Number of records. */
  get size(): number {
    return this.#lines.starts.length
  }

  /** Bytes of a record's line. */
  lengthOf(record: number): number {
    return this.#lines.lengths.at(record)
  }

  /** The number of a record's line, from 1 on. */
  lineOf(record: number): number {
    return this.#lines.numbers.at(record)
  }

  /** Whether a record has the custom_id of an earlier one. */
  repeats(record: number): boolean {
    return this.#lines.repeated.has(record)
  }

  async read(record: number): Promise<InputLine> {
    const length = this.lengthOf(record)
    const line = { number: this.lineOf(record), length }
    if (length > lineLimit) return { ...line, bytes: undefined }
    const bytes = Buffer.alloc(length)
    const { bytesRead } = await this.#file.read(bytes, 0, length, this.#lines.starts.at(record))
    if (bytesRead !== length) throw new BatchError(`The input became shorter while the job ran: line ${line.number} is not there any more`)
    return { ...line, bytes }
  }

  /** @throws BatchError when somebody wrote to the file since {@link open}: answers may belong to neither text. */
  async checkUnchanged(): Promise<void> {
    const { mtimeMs, size } = await this.#file.stat()
    if (mtimeMs !== this.#changed || size !== this.bytes) throw new BatchError('The input was changed while the job ran: begin anew with an input that stays as it is')
  }

  async close(): Promise<void> {
    await this.#file.close()
  }
}

/** Finds lines in chunks of bytes. */
class LineIndex {
  readonly starts = new Column()
  readonly lengths = new Column()
  readonly numbers = new Column()
  readonly repeated = new Set<number>()
  readonly #ids = new Set<string>()
  #number = 0
  /** Where the line under way begins, and what of it came in earlier chunks. */
  #start = 0
  #before: Buffer[] = []
  #length = 0

  add(chunk: Buffer): void {
    let from = 0
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      this.#line(chunk.subarray(from, end))
      from = end + 1
    }
    const rest = chunk.subarray(from)
    this.#length += rest.length
    if (this.#length <= lineLimit) this.#before.push(Buffer.from(rest)) // the chunk's memory is used again
  }

  /** A last line needs no newline. */
  end(): void {
    if (this.#length > 0) this.#line(Buffer.alloc(0))
  }

  #line(last: Buffer): void {
    const length = this.#length + last.length
    let start = this.#start
    this.#number++
    const bytes = length > lineLimit ? undefined : this.#before.length === 0 ? last : Buffer.concat([...this.#before, last])
    const mark = this.#number === 1 && bytes?.subarray(0, 3).equals(byteOrderMark) === true ? 3 : 0
    start += mark
    if (bytes === undefined || !isBlank(bytes.subarray(mark))) {
      if (bytes?.includes('"custom_id"') === true && this.#isRepeated(bytes.subarray(mark))) this.repeated.add(this.starts.length)
      this.starts.push(start)
      this.lengths.push(length - mark)
      this.numbers.push(this.#number)
    }
    this.#start += length + 1
    this.#before = []
    this.#length = 0
  }

  #isRepeated(bytes: Buffer): boolean {
    const id = (parseJson(bytes) as { custom_id?: unknown } | null | undefined)?.custom_id
    if (typeof id !== 'string') return false
    const known = this.#ids.has(id)
    this.#ids.add(id)
    return known
  }
}

const byteOrderMark = Buffer.from([0xef, 0xbb, 0xbf])

function isBlank(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 32 || byte === 9 || byte === 13)
}

async function openRegular(source: string | AsyncIterable<Uint8Array>, folder: string, signal: AbortSignal | undefined): Promise<FileHandle> {
  if (typeof source === 'string') {
    const file = await open(source, 'r')
    const kind = await file.stat()
    if (kind.isFile()) return file
    if (!kind.isDirectory()) {
      try {
        return await spool(file.createReadStream({ autoClose: false }) as AsyncIterable<Uint8Array>, folder, signal)
      } finally {
        await file.close()
      }
    }
    await file.close()
    throw new BatchError(`${source} is a folder: give a file of lines`)
  }
  return await spool(source, folder, signal)
}

async function spool(source: AsyncIterable<Uint8Array>, folder: string, signal: AbortSignal | undefined): Promise<FileHandle> {
  const file = await namelessFile(folder)
  try {
    for await (const chunk of source) {
      signal?.throwIfAborted()
      await file.writeFile(chunk)
    }
    return file
  } catch (error) {
    await file.close()
    signal?.throwIfAborted()
    throw error
  }
}

/** A file for reading and writing whose space is freed when it is closed, or its process ends in any way. */
export async function namelessFile(folder: string): Promise<FileHandle> {
  const path = join(folder, `.ewe-batch-${randomBytes(8).toString('hex')}`)
  const file = await open(path, 'wx+', 0o600)
  await unlink(path)
  return file
}

/** The bytes of a file, in chunks that are valid until the next one. */
export async function* chunks(file: FileHandle, signal?: AbortSignal, from = 0): AsyncGenerator<Buffer, void, void> {
  const buffer = Buffer.alloc(chunkSize)
  for (let at = from; ; ) {
    signal?.throwIfAborted()
    const { bytesRead } = await file.read(buffer, 0, chunkSize, at)
    if (bytesRead === 0) return
    yield buffer.subarray(0, bytesRead)
    at += bytesRead
  }
}
