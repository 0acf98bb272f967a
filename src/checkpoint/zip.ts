import { CheckpointError } from '../errors.js'
import type { Source } from './files.js'
import { quote } from './json.js'

/** One stored record of a zip file. */
export interface ZipRecord {
  name: string
  /** Byte of its data in the file. */
  offset: number
  /** Bytes of its data. */
  bytes: number
}

const END_BYTES = 22
const END64_LOCATOR_BYTES = 20
const END64_BYTES = 56
const ENTRY_BYTES = 46
const LOCAL_BYTES = 30
const LONGEST_COMMENT = 0xffff
const MOST_RECORDS = 1 << 17
const MOST_DIRECTORY_BYTES = 64 * 1024 * 1024

const ENCRYPTED = 1
const FULL_32 = 0xffffffff

interface Directory {
  offset: number
  bytes: number
  records: number
}

interface Entry {
  name: string
  bytes: number
  headerOffset: number
}

/**
 * Lists the records of a zip file by its central directory. Only what torch writes is read: records stored without compression, 64-bit
 * sizes where needed. Records must not overlap or repeat. Throws {@link CheckpointError}.
 */
export async function readZip(source: Source): Promise<Map<string, ZipRecord>> {
  const directory = await findDirectory(source)
  const entries = parseDirectory(await source.read(directory.offset, directory.bytes), directory.records, source.path)
  entries.sort((a, b) => a.headerOffset - b.headerOffset)
  const records = new Map<string, ZipRecord>()
  for (const [i, entry] of entries.entries()) {
    const end = Math.min(entries[i + 1]?.headerOffset ?? directory.offset, directory.offset)
    if (records.has(entry.name)) throw new CheckpointError(`holds the record ${quote(entry.name)} twice`, { file: source.path })
    records.set(entry.name, await locate(source, entry, end))
  }
  return records
}

async function findDirectory(source: Source): Promise<Directory> {
  const file = source.path
  const tailBytes = Math.min(source.size, END_BYTES + LONGEST_COMMENT + END64_LOCATOR_BYTES)
  const tail = await source.read(source.size - tailBytes, tailBytes)
  const at = findEnd(tail, file)
  const end = source.size - tailBytes + at
  const locator = at - END64_LOCATOR_BYTES
  if (locator >= 0 && tail.readUInt32LE(locator) === 0x07064b50) return readEnd64(source, tail.subarray(locator), end - END64_LOCATOR_BYTES)
  const directory = { records: tail.readUInt16LE(at + 10), bytes: tail.readUInt32LE(at + 12), offset: tail.readUInt32LE(at + 16) }
  return checkDirectory(directory, end, file)
}

/** Where the end record begins: the last one whose comment ends with the file. */
function findEnd(tail: Buffer, file: string): number {
  for (let at = tail.length - END_BYTES; at >= 0; at--) {
    if (tail.readUInt32LE(at) === 0x06054b50 && at + END_BYTES + tail.readUInt16LE(at + 20) === tail.length) return at
  }
  throw new CheckpointError('has no end of a zip directory: the file is cut off, or no zip file', { file })
}

async function readEnd64(source: Source, locator: Buffer, locatorAt: number): Promise<Directory> {
  const file = source.path
  const at = exact(locator.readBigUInt64LE(8), 'the offset of its zip64 end record', file)
  if (at > locatorAt - END64_BYTES)
    throw new CheckpointError(`states a zip64 end record at byte ${at}, but it must end before byte ${locatorAt}`, { file })
  const end = await source.read(at, END64_BYTES)
  if (end.readUInt32LE(0) !== 0x06064b50) throw new CheckpointError(`has no zip64 end record at byte ${at}`, { file })
  const directory = {
    records: exact(end.readBigUInt64LE(32), 'the number of its records', file),
    bytes: exact(end.readBigUInt64LE(40), 'the size of its directory', file),
    offset: exact(end.readBigUInt64LE(48), 'the offset of its directory', file),
  }
  return checkDirectory(directory, at, file)
}

function checkDirectory(directory: Directory, end: number, file: string): Directory {
  const { records, bytes, offset } = directory
  if (records > MOST_RECORDS) throw new CheckpointError(`states ${records} zip records, at most ${MOST_RECORDS} are read`, { file })
  if (bytes > MOST_DIRECTORY_BYTES || offset > end || bytes > end - offset) {
    throw new CheckpointError(`states a zip directory of ${bytes} bytes at byte ${offset}, but it must end before byte ${end}`, { file })
  }
  return directory
}

function parseDirectory(directory: Buffer, records: number, file: string): Entry[] {
  const entries: Entry[] = []
  let at = 0
  while (at < directory.length) {
    const left = directory.length - at
    if (left < ENTRY_BYTES || directory.readUInt32LE(at) !== 0x02014b50)
      throw new CheckpointError(`has a broken zip directory at its byte ${at}`, { file })
    const nameBytes = directory.readUInt16LE(at + 28)
    const extraBytes = directory.readUInt16LE(at + 30)
    const bytes = ENTRY_BYTES + nameBytes + extraBytes + directory.readUInt16LE(at + 32)
    if (bytes > left) throw new CheckpointError(`has a zip directory that is cut off at its byte ${at}`, { file })
    entries.push(parseEntry(directory.subarray(at, at + bytes), nameBytes, extraBytes, file))
    at += bytes
  }
  if (entries.length !== records) throw new CheckpointError(`states ${records} zip records, but its directory has ${entries.length}`, { file })
  return entries
}

function parseEntry(entry: Buffer, nameBytes: number, extraBytes: number, file: string): Entry {
  const name = entry.toString('utf8', ENTRY_BYTES, ENTRY_BYTES + nameBytes)
  const method = entry.readUInt16LE(10)
  if (method !== 0) throw new CheckpointError(`compresses the record ${quote(name)} (method ${method}): only stored records are read`, { file })
  if ((entry.readUInt16LE(8) & ENCRYPTED) !== 0) throw new CheckpointError(`encrypts the record ${quote(name)}`, { file })
  const wide = new Wide(entry.subarray(ENTRY_BYTES + nameBytes, ENTRY_BYTES + nameBytes + extraBytes), name, file)
  const bytes = wide.value(entry.readUInt32LE(24))
  const stored = wide.value(entry.readUInt32LE(20))
  const headerOffset = wide.value(entry.readUInt32LE(42))
  if (bytes !== stored) throw new CheckpointError(`states ${stored} and ${bytes} bytes for the stored record ${quote(name)}`, { file })
  return { name, bytes, headerOffset }
}

/** The 64-bit values of an entry's extra field: present, in this order, for each 32-bit value that is all ones. */
class Wide {
  private values: Buffer = Buffer.alloc(0)

  constructor(
    extra: Buffer,
    private readonly name: string,
    private readonly file: string,
  ) {
    for (let at = 0; at + 4 <= extra.length;) {
      const bytes = extra.readUInt16LE(at + 2)
      if (extra.readUInt16LE(at) === 1) this.values = extra.subarray(at + 4, at + 4 + bytes)
      at += 4 + bytes
    }
  }

  value(narrow: number): number {
    if (narrow !== FULL_32) return narrow
    if (this.values.length < 8) throw new CheckpointError(`has no 64-bit size for the record ${quote(this.name)}`, { file: this.file })
    const value = exact(this.values.readBigUInt64LE(0), `a size of the record ${quote(this.name)}`, this.file)
    this.values = this.values.subarray(8)
    return value
  }
}

/** Finds where a record's data begin. They must end before `end`, where the next record or the directory begins. */
async function locate(source: Source, entry: Entry, end: number): Promise<ZipRecord> {
  const file = source.path
  const nameBytes = Buffer.byteLength(entry.name)
  if (entry.headerOffset + LOCAL_BYTES + nameBytes > end) {
    throw new CheckpointError(`has the zip record ${quote(entry.name)} at byte ${entry.headerOffset}, but what follows begins at byte ${end}`, {
      file,
    })
  }
  const header = await source.read(entry.headerOffset, LOCAL_BYTES + nameBytes)
  const matches =
    header.readUInt32LE(0) === 0x04034b50 && header.readUInt16LE(26) === nameBytes && header.toString('utf8', LOCAL_BYTES) === entry.name
  if (!matches) throw new CheckpointError(`has no zip record ${quote(entry.name)} at byte ${entry.headerOffset}`, { file })
  const offset = entry.headerOffset + LOCAL_BYTES + nameBytes + header.readUInt16LE(28)
  if (offset > end || entry.bytes > end - offset) {
    throw new CheckpointError(
      `has the zip record ${quote(entry.name)} at bytes ${offset} to ${offset + entry.bytes}, but what follows begins at byte ${end}`,
      { file },
    )
  }
  return { name: entry.name, offset, bytes: entry.bytes }
}

function exact(value: bigint, what: string, file: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new CheckpointError(`states ${value} as ${what}`, { file })
  return Number(value)
}
