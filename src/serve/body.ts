import { RequestError } from './failures.js'

const utf8 = new TextDecoder('utf-8', { fatal: true })

/**
 * The JSON of a request's body, read no further than the limit.
 *
 * @throws RequestError with status 413, 415 or 400.
 */
export async function readJson(request: Request, limit: number): Promise<unknown> {
  const type = request.headers.get('content-type') ?? ''
  // Pages of other origins cannot send this type without asking first (CORS), which they can with those of forms.
  if (!/^application\/json *(;|$)/i.test(type)) throw new RequestError(415, 'unsupported_media_type', 'Expected a body with `content-type: application/json`')
  const encoding = request.headers.get('content-encoding') ?? 'identity'
  if (encoding.toLowerCase() !== 'identity') throw new RequestError(415, 'unsupported_encoding', 'Expected a body without compression')
  const bytes = await limitedBody(request, limit)
  let value: unknown
  try {
    value = JSON.parse(utf8.decode(bytes))
  } catch {
    // The parser's own message would quote the text.
    throw new RequestError(400, 'invalid_json', 'The body is not JSON in UTF-8')
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new RequestError(400, 'invalid_json', 'Expected a JSON object as body')
  return value
}

/** The bytes of a body, at most `limit` of them. */
async function limitedBody(request: Request, limit: number): Promise<Uint8Array> {
  const length = request.headers.get('content-length')
  if (length === null) return await unmeasuredBody(request, limit)
  if (Number(length) > limit) throw tooLarge(limit)
  // HTTP has made sure of the length; a stream would cost more than all else here.
  return new Uint8Array(await request.arrayBuffer())
}

async function unmeasuredBody(request: Request, limit: number): Promise<Uint8Array> {
  if (request.body === null) return new Uint8Array()
  const chunks: Uint8Array[] = []
  let length = 0
  const reader = (request.body as ReadableStream<Uint8Array>).getReader()
  for (;;) {
    const { done, value } = await reader.read()
    if (done && length > limit) throw tooLarge(limit)
    if (done) return Buffer.concat(chunks)
    length += value.length
    if (length <= limit) chunks.push(value)
    // The rest is read away, so that the connection can go on; a client that sends far too much loses it.
    if (length > 8 * limit) {
      await reader.cancel()
      throw tooLarge(limit)
    }
  }
}

export function tooLarge(limit: number): RequestError {
  return new RequestError(413, 'body_too_large', `The body is larger than ${limit} bytes: send less in one request`)
}
