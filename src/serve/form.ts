// A form with a file, as uploads send it: the file goes to the disk as it comes, whatever its size.
import type { Readable } from 'node:stream'
import { Busboy, type BusboyInstance } from '@fastify/busboy'
import { tooLarge } from './body.js'
import { RequestError } from './failures.js'

export interface Form<File> {
  fields: Map<string, string>
  /** What `receive` made of the file, and the name that it came with. */
  file: { name: string; kept: File } | undefined
}

const limits = { files: 1, fields: 16, fieldSize: 1000, parts: 32, headerPairs: 32, headerSize: 8192 }

/**
 * Reads a form, whose part `field` is the file.
 *
 * @param receive takes the file's bytes; when the form fails, so does what it reads from.
 * @param discard undoes what it did, when the form fails after the file.
 * @throws RequestError with status 400, 413 or 415; what `receive` throws.
 */
export async function readForm<File>(
  request: Request,
  { field, limit, receive, discard }: { field: string; limit: number; receive: (bytes: AsyncIterable<Uint8Array>) => Promise<File>; discard: (file: File) => Promise<void> },
): Promise<Form<File>> {
  const type = request.headers.get('content-type') ?? ''
  if (!/^multipart\/form-data *;/i.test(type)) throw new RequestError(415, 'unsupported_media_type', 'Expected a body with `content-type: multipart/form-data`')
  if (Number(request.headers.get('content-length') ?? 0) > limit) throw tooLarge(limit)
  const fields = new Map<string, string>()
  let file: { name: string; stream: Readable; kept: Promise<File> } | undefined
  const stopped = new AbortController()
  const fail = (reason: unknown): void => stopped.abort(reason)
  const parser = parserOf(type)
  parser.on('error', () => fail(invalid()))
  parser.on('field', (name, value) => fields.set(name, value))
  parser.on('file', (name, stream, fileName) => {
    stream.on('error', () => fail(invalid()))
    if (name !== field) {
      stream.resume()
      return
    }
    // Whoever stops reading must not break the form: that would be told instead of the reason.
    file = { name: fileName, stream, kept: receive(stream.iterator({ destroyOnReturn: false })) }
    file.kept.catch(fail)
  })
  try {
    await feed(request, parser, limit, stopped.signal)
    return { fields, file: file === undefined ? undefined : { name: file.name, kept: await file.kept } }
  } catch (error) {
    // Whoever reads the file must not take its end for the whole.
    file?.stream.destroy(error as Error)
    const kept = await file?.kept.catch(() => undefined)
    if (kept !== undefined) await discard(kept)
    throw error
  }
}

function parserOf(type: string): BusboyInstance {
  try {
    return new Busboy({ headers: { 'content-type': type }, limits })
  } catch {
    throw invalid()
  }
}

/** Hands the body to the parser, no faster than the disk takes it. After a failure the rest is read away, so that the client comes to read the answer. */
async function feed(request: Request, parser: BusboyInstance, limit: number, failed: AbortSignal): Promise<void> {
  const reader = (request.body as ReadableStream<Uint8Array> | null)?.getReader()
  // A parser whose file nobody reads any more neither drains nor finishes.
  const over = new Promise<void>((resolve) => failed.addEventListener('abort', () => resolve(), { once: true }))
  const untilEvent = (name: 'drain' | 'finish'): Promise<void> => Promise.race([over, new Promise<void>((resolve) => parser.once(name, () => resolve()))])
  let length = 0
  for (;;) {
    const { done, value } = (await reader?.read()) ?? { done: true }
    if (done) break
    length += value.length
    if (length > 8 * limit) {
      await reader?.cancel()
      break
    }
    if (length > limit || failed.aborted || parser.write(value)) continue
    await untilEvent('drain')
  }
  if (length > limit) throw tooLarge(limit)
  failed.throwIfAborted()
  const finished = untilEvent('finish')
  parser.end()
  await finished
  failed.throwIfAborted()
}

function invalid(): RequestError {
  return new RequestError(400, 'invalid_form', 'The body is not multipart/form-data')
}
