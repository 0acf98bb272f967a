import { Tokenizer as Library } from 'tokenizers'
import { OptionError, TokenizerError } from '../errors.js'
import { bytesOf, joinBytes, padTable, textOf, type IdBytes } from './bytes.js'
import { readTokenizerFile, type TokenizerFile } from './file.js'
import { reason, show } from './json.js'
import { readTokenNames, type TokenNames } from './names.js'

export type { IdBytes } from './bytes.js'

/** Longest text that is encoded, in UTF-16 units: far beyond any context, and bounded because the encoder takes over 100 bytes for each. */
const TEXT_LIMIT = 2 ** 21

/** A stretch of a prompt. Special tokens are recognised in trusted stretches only. */
export interface TextPart {
  text: string
  /** Whether ewe wrote it, not a user. */
  trusted: boolean
}

export interface NamedToken {
  content: string
  id: number
}

/**
 * The tokenizer of a model folder: byte-level BPE as GPT-NeoX and GPT-J have it.
 *
 * Special tokens (`### End` and its like) cut a text into pieces, and each piece is encoded on its own. So a prompt is a list of parts, special
 * tokens are sought in the trusted ones alone, and what lies between two of them is joined, whoever wrote it, and encoded by a library that knows no
 * special token. For a benign prompt these are the ids that the reference library gives the whole of it; a special token that a user typed is text.
 */
export class Tokenizer {
  /** Ids by special token, in the order of tokenizer.json. */
  readonly specialTokens: ReadonlyMap<string, number>
  /** Special tokens that the configuration lists beside eos and its like, in its order; all special tokens where it has no such list. */
  readonly additionalSpecialTokens: readonly string[]
  readonly eos: NamedToken | undefined
  readonly bos: NamedToken | undefined
  readonly pad: NamedToken | undefined
  readonly unk: NamedToken | undefined
  /** Longest text it was made for, in tokens, where the folder says so. */
  readonly maxLength: number | undefined
  /** Number of entries, added ones included. */
  readonly vocabSize: number
  /** Largest id. A model whose table has no such row does not belong to this tokenizer. */
  readonly maxId: number

  readonly #file: string
  readonly #library: Library
  readonly #ids: ReadonlyMap<string, number>
  readonly #entries: ReadonlyMap<number, string>
  readonly #table: IdBytes
  /** By first character, longest first: the longest special token at the earliest place is the one that holds. */
  readonly #specialByFirst: ReadonlyMap<string, NamedToken[]>

  private constructor(checked: TokenizerFile, names: TokenNames, library: Library) {
    const { file, vocab, added } = checked
    this.#file = file
    this.#library = library
    this.#ids = new Map([...vocab, ...added.map((token): [string, number] => [token.content, token.id])])
    this.#entries = new Map(Array.from(this.#ids, ([entry, id]) => [id, entry]))
    this.vocabSize = this.#ids.size
    this.maxId = [...this.#entries.keys()].reduce((most, id) => Math.max(most, id), 0)

    const special = added.filter((token) => token.special)
    this.specialTokens = new Map(special.map((token) => [token.content, token.id]))
    const byFirst = new Map<string, NamedToken[]>()
    for (const { content, id } of special.toSorted((a, b) => b.content.length - a.content.length)) {
      const list = byFirst.get(content.charAt(0)) ?? []
      list.push({ content, id })
      byFirst.set(content.charAt(0), list)
    }
    this.#specialByFirst = byFirst
    const bytes = new Array<Uint8Array | undefined>(this.maxId + 1).fill(undefined)
    for (const [entry, id] of vocab) bytes[id] = bytesOf(entry)
    for (const token of added) bytes[token.id] = new TextEncoder().encode(token.content)
    this.#table = joinBytes(bytes, new Set(this.specialTokens.values()))

    const named = (content: string): NamedToken => {
      const id = this.#ids.get(content)
      if (id === undefined) throw new TokenizerError(`${names.files}: names the token ${show(content)}, which ${file} does not have`)
      return { content, id }
    }
    this.eos = names.eos === undefined ? undefined : named(names.eos)
    this.bos = names.bos === undefined ? undefined : named(names.bos)
    this.pad = names.pad === undefined ? undefined : named(names.pad)
    this.unk = names.unk === undefined ? undefined : named(names.unk)
    const listed = names.additional.map((content) => named(content).content)
    this.additionalSpecialTokens = listed.length > 0 ? listed : [...this.specialTokens.keys()]
    this.maxLength = names.maxLength
  }

  /**
   * Loads the tokenizer of a model folder: `tokenizer.json`, and `tokenizer_config.json` and `special_tokens_map.json` where they are.
   *
   * @throws TokenizerError when a file is damaged, or not a byte-level BPE tokenizer.
   */
  static async load(dir: string): Promise<Tokenizer> {
    const names = await readTokenNames(dir)
    const checked = await readTokenizerFile(dir, names.addPrefixSpace)
    let library
    try {
      library = Library.fromString(checked.plain)
    } catch (cause) {
      throw new TokenizerError(`${checked.file}: refused by the tokenizer library: ${reason(cause)}`, { cause })
    }
    return new Tokenizer(checked, names, library)
  }

  /**
   * Ids of a user's text: nothing in it is special, and no beginning or end token is added. A lone surrogate counts as U+FFFD.
   *
   * @throws TokenizerError when the text is too long.
   */
  encode(text: string): Promise<Int32Array> {
    return this.encodeParts([{ text, trusted: false }])
  }

  /** Ids of a text that ewe wrote itself: special tokens in it count. */
  encodeWithSpecial(text: string): Promise<Int32Array> {
    return this.encodeParts([{ text, trusted: true }])
  }

  /**
   * Ids of a prompt made of trusted parts and a user's text.
   *
   * @throws TokenizerError when the text is too long.
   */
  async encodeParts(parts: readonly TextPart[]): Promise<Int32Array> {
    const pieces = this.#cut(parts)
    const texts = pieces.filter((piece) => typeof piece === 'string')
    let encoded
    try {
      encoded = (await this.#library.encodeBatch(texts)).map((encoding) => encoding.getIds())
    } catch (cause) {
      throw new TokenizerError(`${this.#file}: the tokenizer library failed: ${reason(cause)}`, { cause })
    }
    for (const ids of encoded) this.#refuseSpecial(ids)
    let text = 0
    return Int32Array.from(pieces.flatMap((piece) => (typeof piece === 'string' ? (encoded[text++] ?? []) : piece)))
  }

  /**
   * Text of ids. Each invalid UTF-8 sequence becomes U+FFFD; ids that no entry has (a model's table may have more rows) give nothing.
   *
   * @param options.skipSpecial leaves out special tokens; default true.
   * @param options.cleanUp removes the space before punctuation and English contractions, as older versions of transformers do; default false.
   * @throws TokenizerError when an id is no whole number from 0 on.
   */
  decode(ids: ArrayLike<number>, options: { skipSpecial?: boolean; cleanUp?: boolean } = {}): string {
    for (let index = 0; index < ids.length; index++) {
      const id = ids[index]
      if (id === undefined || !Number.isInteger(id) || id < 0) {
        throw new TokenizerError(`ids[${index}] is ${show(id)}: a token id is a whole number from 0 on`)
      }
    }
    const text = textOf(this.#table, ids, options.skipSpecial ?? true)
    return options.cleanUp === true ? cleanUp(text) : text
  }

  /**
   * The bytes of every id, for an engine that makes text of ids by itself.
   *
   * @param rows number of ids in the table, at least `maxId + 1`; those beyond have no bytes. Default `maxId + 1`.
   * @throws TokenizerError when the tokenizer has more ids than that.
   */
  idBytes(rows: number = this.maxId + 1): IdBytes {
    if (rows <= this.maxId) {
      throw new TokenizerError(`${this.#file}: has ids up to ${this.maxId}, but the model has ${rows} rows: they do not belong together`)
    }
    return padTable(this.#table, rows)
  }

  /** Id of an entry: added tokens as their text, the others in the byte alphabet (a space is `Ġ`). */
  tokenToId(token: string): number | undefined {
    return this.#ids.get(token)
  }

  /** The entry of an id, in the same spelling. */
  idToToken(id: number): string | undefined {
    return this.#entries.get(id)
  }

  /** Texts without special tokens, and the ids of the special tokens between them, in order. */
  #cut(parts: readonly TextPart[]): Array<string | number> {
    const pieces: Array<string | number> = []
    let text = ''
    let length = 0
    const close = () => {
      if (text !== '') pieces.push(text)
      text = ''
    }
    for (const part of joinTrusted(parts)) {
      length += part.text.length
      if (length > TEXT_LIMIT) throw new TokenizerError(`A text of more than ${TEXT_LIMIT} characters cannot be encoded: shorten it`)
      if (!part.trusted) {
        text += part.text
        continue
      }
      let from = 0
      for (let at = 0; at < part.text.length; ) {
        const found = this.#specialByFirst.get(part.text.charAt(at))?.find(({ content }) => part.text.startsWith(content, at))
        if (found === undefined) {
          at++
          continue
        }
        text += part.text.slice(from, at)
        close()
        pieces.push(found.id)
        at += found.content.length
        from = at
      }
      text += part.text.slice(from)
    }
    close()
    return pieces
  }

  /** A vocabulary can be built so that plain text merges into an entry that is also a special token. Then its prompts could be forged. */
  #refuseSpecial(ids: readonly number[]): void {
    const id = ids.find((candidate) => this.#table.special[candidate] === 1)
    if (id !== undefined) throw new TokenizerError(`${this.#file}: its merges make the special token ${show(this.#entries.get(id))} of plain text`)
  }
}

/** Parts as well-formed text, with neighbours of one kind joined: a special token may begin in one trusted part and end in the next. */
function joinTrusted(parts: readonly TextPart[]): TextPart[] {
  const joined: TextPart[] = []
  for (const { text, trusted } of parts) {
    if (typeof text !== 'string') throw new OptionError('text', 'a string', text)
    const wellFormed = text.replace(/\p{Surrogate}/gu, '\ufffd')
    const last = joined.at(-1)
    if (last?.trusted === trusted) last.text += wellFormed
    else joined.push({ text: wellFormed, trusted })
  }
  return joined
}

function cleanUp(text: string): string {
  for (const mark of [' .', ' ?', ' !', ' ,']) text = text.replaceAll(mark, mark.trimStart())
  text = text.replaceAll(" ' ", "'")
  for (const ending of [" n't", " 'm", " 's", " 've", " 're"]) text = text.replaceAll(ending, ending.trimStart())
  return text
}
