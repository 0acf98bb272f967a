import { OptionError } from '../errors.js'

/** Longest line that is read, in bytes: more than any context holds. */
export const lineLimit = 4 << 20

/** A line of input that is not blank. */
export interface InputLine {
  /** From 1 on, blank lines counted. */
  number: number
  length: number
  /** Absent where there are more than {@link lineLimit}. */
  bytes: Buffer | undefined
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** The value of a line, or nothing where it is no JSON in UTF-8. */
export function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(utf8.decode(bytes)) as unknown
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError) return undefined
    throw error
  }
}

/** The text of a line. Throws OptionError where it is not UTF-8. */
export function decode(bytes: Buffer): string {
  try {
    return utf8.decode(bytes).replace(/\r$/, '')
  } catch (error) {
    if (error instanceof TypeError) throw new OptionError('line', 'text in UTF-8', bytes)
    throw error
  }
}
