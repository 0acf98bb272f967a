import type { IdBytes, Tokenizer } from '../tokenizer/tokenizer.js'

const tables = new WeakMap<Tokenizer, IdBytes>()

/** Where each token of a sequence begins in its text, in code points. A token that goes on with a character begun before it begins before that one. */
export class TextOffsets {
  readonly #table: IdBytes
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  #characters = 0

  constructor(tokenizer: Tokenizer) {
    this.#table = tableOf(tokenizer)
  }

  /** The place of the next token; the sequence goes on with it. */
  before(token: number): number {
    const place = this.#characters
    for (const _ of this.#decoder.decode(bytes(this.#table, token), { stream: true })) this.#characters++
    return place
  }

  static bytesOf(tokenizer: Tokenizer, token: number): number[] {
    return [...bytes(tableOf(tokenizer), token)]
  }
}

function bytes({ bytes: all, ends }: IdBytes, token: number): Uint8Array {
  // A model's table may have more rows than its tokenizer has ids.
  return all.subarray(token === 0 ? 0 : (ends[token - 1] ?? all.length), ends[token] ?? all.length)
}

function tableOf(tokenizer: Tokenizer): IdBytes {
  const table = tables.get(tokenizer) ?? tokenizer.idBytes()
  tables.set(tokenizer, table)
  return table
}
