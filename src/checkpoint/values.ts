import { CheckpointError } from '../errors.js'
import type { Source } from './files.js'
import { readWhole } from './files.js'
import { JsonReader, quote } from './json.js'
import type { Json } from './json.js'

/** Configuration files have a few kilobytes. */
const MOST_BYTES = 4 * 1024 * 1024
const MOST_VALUES = 100_000
const LARGEST_ID = 2 ** 31 - 1
const MOST_IDS = 1024

export async function readValues(source: Source): Promise<Values> {
  return Values.parse(await readWhole(source, MOST_BYTES), source.path)
}

/** The members of a JSON configuration file, read by dotted names with checks. A null counts as absent. All methods throw {@link CheckpointError}. */
export class Values {
  private constructor(
    private readonly root: ReadonlyMap<string, Json>,
    readonly file: string,
  ) {}

  static parse(bytes: Buffer, file: string): Values {
    const reader = new JsonReader(bytes, file, MOST_VALUES)
    const root = reader.value()
    reader.end()
    if (!(root instanceof Map)) throw new CheckpointError('holds no JSON object', { file })
    return new Values(root, file)
  }

  /** The first of these names that is stated, and its value. */
  find(names: readonly string[]): { name: string; value: Exclude<Json, null> } | undefined {
    for (const name of names) {
      const value = this.raw(name)
      if (value !== undefined && value !== null) return { name, value }
    }
    return undefined
  }

  /** As the file has it; undefined where it is not stated. */
  raw(name: string): Json | undefined {
    let at: Json | undefined = this.root as Map<string, Json>
    const parts = name.split('.')
    for (const [i, part] of parts.entries()) {
      if (at === undefined || at === null) return undefined
      if (!(at instanceof Map)) this.fail(parts.slice(0, i).join('.'), 'an object', at)
      at = at.get(part)
    }
    return at
  }

  /** A whole number from `least` to `most`; 32 and 32.0 are the same. */
  whole(names: readonly string[], least: number, most: number): number | undefined {
    const found = this.find(names)
    if (found === undefined) return undefined
    const { name, value } = found
    if (!isWhole(value, least, most)) this.fail(name, `a whole number from ${least} to ${most}`, value)
    return value
  }

  /** A number from `least` to `most`. */
  number(names: readonly string[], least: number, most: number): number | undefined {
    const found = this.find(names)
    if (found === undefined) return undefined
    const { name, value } = found
    if (typeof value !== 'number' || !(value >= least && value <= most)) this.fail(name, `a number from ${least} to ${most}`, value)
    return value
  }

  flag(names: readonly string[]): boolean | undefined {
    const found = this.find(names)
    if (found === undefined) return undefined
    const { name, value } = found
    if (typeof value !== 'boolean') this.fail(name, 'true or false', value)
    return value
  }

  text(names: readonly string[]): string | undefined {
    const found = this.find(names)
    if (found === undefined) return undefined
    const { name, value } = found
    if (typeof value !== 'string') this.fail(name, 'a text', value)
    return value
  }

  /** Token ids: one, or a list of them. */
  ids(names: readonly string[]): number[] | undefined {
    const found = this.find(names)
    if (found === undefined) return undefined
    const ids = Array.isArray(found.value) ? found.value : [found.value]
    if (ids.length > MOST_IDS || !ids.every(isId)) this.fail(found.name, `a token id or a list of up to ${MOST_IDS} of them`, found.value)
    return ids
  }

  id(names: readonly string[]): number | undefined {
    return this.whole(names, 0, LARGEST_ID)
  }

  fail(name: string, expected: string, value: Json): never {
    throw new CheckpointError(`expected ${expected} but it is ${describe(value)}`, { file: this.file, tensor: name })
  }
}

function isWhole(value: Json, least: number, most: number): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most
}

function isId(value: Json): value is number {
  return isWhole(value, 0, LARGEST_ID)
}

/** A value of a file, for a message. */
export function describe(value: Json): string {
  if (typeof value === 'string') return quote(value)
  if (value === null || typeof value !== 'object') return String(value)
  if (value instanceof Map) return 'an object'
  return value.length <= 8 && value.every((item) => item === null || typeof item !== 'object')
    ? `[${value.map(describe).join(', ')}]`
    : `a list of ${value.length}`
}
