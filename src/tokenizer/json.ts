import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { TokenizerError } from '../errors.js'

export type JsonObject = Record<string, unknown>

/**
 * Reads a JSON object from a file of at most `limit` bytes. Parsed JSON can take dozens of times the file's size, so the limit bounds what a hostile
 * file can make this process allocate.
 *
 * @returns nothing when there is no such file.
 * @throws TokenizerError when it is no regular file, too large, not UTF-8, not JSON, or not an object.
 */
export async function readJson(file: string, limit: number): Promise<JsonObject | undefined> {
  const bytes = await readBounded(file, limit)
  if (bytes === undefined) return undefined
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    throw new TokenizerError(`${file}: not valid JSON in UTF-8 (${bytes.length} bytes): ${reason(cause)}`, { cause })
  }
  if (!isObject(value)) throw new TokenizerError(`${file}: expected a JSON object`)
  return value
}

async function readBounded(file: string, limit: number): Promise<Uint8Array | undefined> {
  let handle
  try {
    // Without O_NONBLOCK the opening of a named pipe would wait for its writer.
    handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new TokenizerError(`${file}: cannot be opened: ${reason(cause)}`, { cause })
  }
  try {
    const status = await handle.stat()
    if (!status.isFile()) throw new TokenizerError(`${file}: not a regular file`)
    if (status.size > limit) throw new TokenizerError(`${file}: ${status.size} bytes, more than the ${limit} that such a file may have`)
    const bytes = new Uint8Array(status.size)
    let done = 0
    while (done < bytes.length) {
      const { bytesRead } = await handle.read(bytes, done, bytes.length - done, done)
      if (bytesRead === 0) throw new TokenizerError(`${file}: ended after ${done} of ${bytes.length} bytes while it was read`)
      done += bytesRead
    }
    return bytes
  } catch (cause) {
    throw cause instanceof TokenizerError ? cause : new TokenizerError(`${file}: cannot be read: ${reason(cause)}`, { cause })
  } finally {
    await handle.close()
  }
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A value as it appears in an error: short, whatever it is. */
export function show(value: unknown): string {
  if (Array.isArray(value)) return `an array of ${value.length}`
  if (isObject(value)) return 'an object'
  const text = value === undefined ? 'nothing' : JSON.stringify(value)
  return text.length > 80 ? `${text.slice(0, 77)}...` : text
}

export function reason(cause: unknown): string {
  const text = cause instanceof Error ? cause.message : String(cause)
  return text.length > 200 ? `${text.slice(0, 197)}...` : text
}
