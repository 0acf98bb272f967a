// Errors as clients of OpenAI's interface read them: {error: {message, type, param, code}} and a status.
import { DeadlineError, DisposedError, EweError, OutOfMemoryError, QueueFullError } from '../errors.js'
import { refusalOf, type ErrorBody } from '../openai/refusals.js'

/** What goes wrong between the client and the model. */
export class RequestError extends EweError {
  readonly code = 'EWE_REQUEST'
  readonly status: number
  readonly reason: string
  readonly param: string | null
  readonly headers: Record<string, string>

  constructor(status: number, reason: string, message: string, more: { param?: string; headers?: Record<string, string> } = {}) {
    super(message)
    this.status = status
    this.reason = reason
    this.param = more.param ?? null
    this.headers = more.headers ?? {}
  }
}

export interface Failure {
  status: number
  body: ErrorBody
  headers: Record<string, string>
}

/** nginx's number for a client that left before its answer; nobody receives it, the log and the metrics show it. */
export const clientLeft = 499

/** The answer to what was thrown. What is not the client's doing says no more than that: the log has the rest. */
export function failureOf(thrown: unknown): Failure {
  if (thrown instanceof RequestError) return make(thrown.status, thrown.message, thrown.reason, thrown.param, thrown.headers)
  const refusal = refusalOf(thrown)
  if (refusal !== undefined) return { status: 400, body: refusal, headers: {} }
  if (thrown instanceof QueueFullError) return make(429, thrown.message, 'queue_full', null, after(1))
  if (thrown instanceof DeadlineError) return make(504, thrown.message, 'deadline_exceeded')
  if (thrown instanceof OutOfMemoryError) return make(503, 'The memory of this server does not hold this request', 'out_of_memory', null, after(5))
  if (thrown instanceof DisposedError) return make(503, 'The model is not loaded any more', 'model_gone')
  if (isDiskFull(thrown)) return make(507, 'The disk of this server is full', 'disk_full')
  return make(500, 'An error inside the server: its log tells more under the id of this request', 'internal_error')
}

/** The code of the system's error that is behind what was thrown. */
export function systemCode(thrown: unknown): string | undefined {
  if (!(thrown instanceof Error)) return undefined
  const { syscall, code, cause } = thrown as NodeJS.ErrnoException
  return syscall === undefined ? systemCode(cause) : code
}

/** No space, no more of it for this user, or a file larger than this process may write. */
export function isDiskFull(thrown: unknown): boolean {
  return ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(systemCode(thrown) ?? '')
}

function make(status: number, message: string, code: string | null, param: string | null = null, headers: Record<string, string> = {}): Failure {
  return { status, body: { error: { message, type: typeOf(status), param, code } }, headers }
}

function typeOf(status: number): string {
  if (status === 401) return 'authentication_error'
  if (status === 429) return 'rate_limit_error'
  if (status === 503) return 'service_unavailable_error'
  if (status === 504) return 'timeout_error'
  return status < 500 ? 'invalid_request_error' : 'server_error'
}

/** Seconds to wait before the next try. */
export function after(seconds: number): Record<string, string> {
  return { 'retry-after': String(seconds) }
}

export function errorResponse({ status, body, headers }: Failure): Response {
  return Response.json(body, { status, headers })
}
