// Byte-level BPE writes each byte of a text as one printable character. Bytes that print well stand for themselves; the other 68 are the characters
// from U+0100 on, in rising order (a space is U+0120, a newline U+010A).

const CHARACTERS = alphabet()
const BYTES = new Map(CHARACTERS.map((character, byte) => [character, byte]))

/** Bytes that occur in UTF-8 text, as characters of the byte alphabet: all but 0xC0, 0xC1 and 0xF5 to 0xFF. */
export const TEXT_BYTES: readonly string[] = CHARACTERS.filter((_, byte) => byte < 0xc0 || (byte > 0xc1 && byte < 0xf5))

function alphabet(): string[] {
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => {
    const prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
    return String.fromCodePoint(prints ? byte : next++)
  })
}

/** The bytes that a vocabulary entry stands for, or nothing when it holds a character outside the byte alphabet. */
export function bytesOf(entry: string): Uint8Array | undefined {
  const bytes = new Uint8Array(entry.length) // the whole alphabet lies in the first plane
  for (let index = 0; index < entry.length; index++) {
    const byte = BYTES.get(entry.charAt(index))
    if (byte === undefined) return undefined
    bytes[index] = byte
  }
  return bytes
}

/** Bytes of every id, joined: those of id `i` end at `ends[i]` and begin where those of the id before end. */
export interface IdBytes {
  bytes: Uint8Array
  /** One entry for each id. */
  ends: Uint32Array
  /** 1 for a special token, else 0; one entry for each id. */
  special: Uint8Array
}

/** Joins the bytes of all ids into one table. An id without an entry has no bytes. */
export function joinBytes(entries: ReadonlyArray<Uint8Array | undefined>, special: ReadonlySet<number>): IdBytes {
  const table: IdBytes = {
    bytes: new Uint8Array(entries.reduce((sum, entry) => sum + (entry?.length ?? 0), 0)),
    ends: new Uint32Array(entries.length),
    special: new Uint8Array(entries.length)
  }
  let end = 0
  for (const [id, entry] of entries.entries()) {
    if (entry !== undefined) {
      table.bytes.set(entry, end)
      end += entry.length
    }
    table.ends[id] = end
    table.special[id] = special.has(id) ? 1 : 0
  }
  return table
}

/** The same table for `rows` ids: those beyond the last have no bytes. */
export function padTable(table: IdBytes, rows: number): IdBytes {
  const ends = new Uint32Array(rows).fill(table.bytes.length)
  ends.set(table.ends)
  const special = new Uint8Array(rows)
  special.set(table.special)
  return { bytes: table.bytes, ends, special }
}

/** Text of ids below the table's length (others have no bytes). Each invalid UTF-8 sequence becomes one U+FFFD. */
export function textOf({ bytes, ends, special }: IdBytes, ids: ArrayLike<number>, skipSpecial: boolean): string {
  // Twice over the ids and byte by byte: a server decodes a million of them in one request, and an object for each would cost ten times as much.
  const shown = (id: number): boolean => id < ends.length && !(skipSpecial && special[id] === 1)
  const startOf = (id: number): number => (id === 0 ? 0 : ends[id - 1]!)
  let length = 0
  for (let index = 0; index < ids.length; index++) {
    const id = ids[index]!
    if (shown(id)) length += ends[id]! - startOf(id)
  }
  const text = new Uint8Array(length)
  let at = 0
  for (let index = 0; index < ids.length; index++) {
    const id = ids[index]!
    if (!shown(id)) continue
    const end = ends[id]!
    for (let from = startOf(id); from < end; from++) text[at++] = bytes[from]!
  }
  return UTF8.decode(text)
}

// A byte order mark is text like any other here.
const UTF8 = new TextDecoder('utf-8', { ignoreBOM: true })
