import { CheckpointError } from '../errors.js'

/** A JSON value. Objects are maps, so that no key of a file can reach a prototype. */
export type Json = null | boolean | number | string | Json[] | Map<string, Json>

/** Longest name or other string that a checkpoint's JSON may hold: errors quote them. */
const LONGEST_STRING = 1 << 20
/** Digits of the longest number; doubles need at most 770 to be exact, real files have 31. */
const LONGEST_NUMBER = 800
const DEEPEST = 64

const NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

const QUOTE = 0x22
const BACKSLASH = 0x5c

/**
 * Reads JSON by asking for what is expected next, so that a file costs no memory for what nobody wants. Stricter than `JSON.parse`: duplicate keys,
 * broken UTF-8, lone surrogates and deep nesting are refused. Every failure is a {@link CheckpointError} with the byte where it happened.
 */
export class JsonReader {
  private at = 0
  private depth = 0
  private values = 0

  /** @param values most array items and object members together */
  constructor(
    private readonly bytes: Buffer,
    private readonly file: string,
    private readonly limit: number,
  ) {}

  /** Reads an object; `member` must read the value of each key. */
  object(member: (key: string) => void): void {
    this.open('{', 'an object')
    const keys = new Set<string>()
    if (this.peek() === '}') return this.close()
    for (;;) {
      if (this.peek() !== '"') this.fail('expected a key')
      const key = this.string()
      if (keys.has(key)) this.fail(`duplicate key ${quote(key)}`)
      keys.add(key)
      if (this.peek() !== ':') this.fail('expected ":"')
      this.at++
      this.count()
      member(key)
      if (this.peek() === '}') return this.close()
      this.comma('}')
    }
  }

  /** Reads an array; `item` must read each item. */
  array(item: (index: number) => void): void {
    this.open('[', 'an array')
    if (this.peek() === ']') return this.close()
    for (let index = 0; ; index++) {
      this.count()
      item(index)
      if (this.peek() === ']') return this.close()
      this.comma(']')
    }
  }

  string(): string {
    if (this.peek() !== '"') this.fail('expected a string')
    const begin = ++this.at
    let plain = true
    for (; ; this.at++) {
      const byte = this.bytes[this.at]
      if (byte === undefined) this.fail('the text ends inside a string')
      if (byte === QUOTE) break
      if (byte < 0x20) this.fail('a control character inside a string')
      if (byte === BACKSLASH) {
        plain = false
        this.at++
      } else if (byte > 0x7e) plain = false
    }
    const end = this.at++
    if (end - begin > LONGEST_STRING) this.fail(`a string of ${end - begin} bytes, at most ${LONGEST_STRING} are read`)
    return plain ? this.bytes.toString('latin1', begin, end) : this.unescape(begin, end)
  }

  number(): number {
    this.peek()
    const begin = this.at
    while (isNumberByte(this.bytes[this.at])) this.at++
    if (this.at - begin > LONGEST_NUMBER) this.fail(`a number of ${this.at - begin} digits`)
    const text = this.bytes.toString('latin1', begin, this.at)
    if (!NUMBER.test(text)) this.fail('expected a number')
    return Number(text)
  }

  /** A whole number from 0 to 2^53 - 1, written in digits only. */
  integer(): number {
    this.peek()
    const begin = this.at
    let value = 0
    for (; ; this.at++) {
      const byte = this.bytes[this.at]
      if (byte === undefined || byte < 0x30 || byte > 0x39) break
      value = value * 10 + (byte - 0x30)
    }
    const digits = this.at - begin
    if (digits === 0 || isNumberByte(this.bytes[this.at]) || (digits > 1 && this.bytes[begin] === 0x30)) {
      this.at = begin
      this.fail('expected a whole number')
    }
    if (digits > 16 || !Number.isSafeInteger(value))
      this.fail(`${this.bytes.toString('latin1', begin, Math.min(this.at, begin + 40))} is above 2^53 - 1`)
    return value
  }

  /** Any value as a tree. */
  value(): Json {
    switch (this.peek()) {
      case '{': {
        const map = new Map<string, Json>()
        this.object((key) => map.set(key, this.value()))
        return map
      }
      case '[': {
        const items: Json[] = []
        this.array(() => items.push(this.value()))
        return items
      }
      case '"':
        return this.string()
      case 't':
        return this.word('true', true)
      case 'f':
        return this.word('false', false)
      case 'n':
        return this.word('null', null)
      default:
        return this.number()
    }
  }

  /** Fails unless only white space is left. */
  end(): void {
    if (this.peek() !== '') this.fail('more text after the value')
  }

  fail(message: string): never {
    throw new CheckpointError(`is not valid JSON for this file: ${message} (byte ${this.at} of ${this.bytes.length})`, { file: this.file })
  }

  /** The next character that is no white space, or '' at the end. */
  peek(): string {
    for (;;) {
      const byte = this.bytes[this.at]
      if (byte === undefined) return ''
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return String.fromCharCode(byte)
      this.at++
    }
  }

  private open(bracket: string, what: string): void {
    if (this.peek() !== bracket) this.fail(`expected ${what}`)
    if (++this.depth > DEEPEST) this.fail(`nested deeper than ${DEEPEST}`)
    this.at++
  }

  private close(): void {
    this.depth--
    this.at++
  }

  private comma(closing: string): void {
    if (this.peek() !== ',') this.fail(`expected "," or "${closing}"`)
    this.at++
  }

  private count(): void {
    if (++this.values > this.limit) this.fail(`more than ${this.limit} values`)
  }

  private word<T>(text: string, value: T): T {
    if (this.bytes.toString('latin1', this.at, this.at + text.length) !== text) this.fail(`expected ${text}`)
    this.at += text.length
    return value
  }

  /** The string between two quotes that holds escapes or bytes outside ASCII. */
  private unescape(begin: number, end: number): string {
    const slice = this.bytes.subarray(begin, end)
    let text: string
    try {
      text = utf8.decode(slice)
    } catch {
      return this.fail('a string is not UTF-8')
    }
    const plain = text.replaceAll(/\\(u[0-9a-fA-F]{4}|[^]?)/g, (_, escape: string) => this.escaped(escape))
    if (!plain.isWellFormed()) this.fail('a string with half a surrogate pair')
    return plain
  }

  private escaped(escape: string): string {
    if (escape.length === 5) return String.fromCharCode(Number.parseInt(escape.slice(1), 16))
    const plain = ESCAPES.get(escape)
    return plain ?? this.fail(`unknown escape \\${escape}`)
  }
}

const ESCAPES = new Map([
  ['"', '"'],
  ['\\', '\\'],
  ['/', '/'],
  ['b', '\b'],
  ['f', '\f'],
  ['n', '\n'],
  ['r', '\r'],
  ['t', '\t'],
])

function isNumberByte(byte: number | undefined): boolean {
  if (byte === undefined) return false
  return (byte >= 0x30 && byte <= 0x39) || byte === 0x2b || byte === 0x2d || byte === 0x2e || byte === 0x45 || byte === 0x65
}

/** A string from a file, shortened and escaped so that it can stand in a message. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 120 ? `${text.slice(0, 117)}...` : text)
}
