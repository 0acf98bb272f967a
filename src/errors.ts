/** Base of every error that ewe throws. `code` is stable across versions; the message is not. */
export abstract class EweError extends Error {
  abstract readonly code: string

  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
  }
}

/** A parameter that is missing, of the wrong type, or out of its range. Thrown before any work starts. */
export class OptionError extends EweError {
  readonly code = 'EWE_OPTION'
  /** Name of the parameter, dotted for nested ones. */
  readonly parameter: string

  constructor(parameter: string, expected: string, received: unknown) {
    super(`Expected ${expected} for \`${parameter}\` but received ${describe(received)}`)
    this.parameter = parameter
  }
}

/** A model folder or file that is damaged, hostile, or of a kind that ewe does not run. */
export class CheckpointError extends EweError {
  readonly code = 'EWE_CHECKPOINT'
  /** Path of the file it is about. */
  readonly file: string
  /** Name of the tensor, or key of the configuration, it is about. */
  readonly tensor: string | undefined

  constructor(message: string, where: { file: string; tensor?: string | undefined; cause?: unknown }) {
    const place = where.tensor === undefined ? where.file : `${where.file}: ${where.tensor}`
    super(`${place}: ${message}`, where.cause === undefined ? undefined : { cause: where.cause })
    this.file = where.file
    this.tensor = where.tensor
  }
}

/** No such model folder, and no copy of that Hub id in the local cache. */
export class ModelNotFoundError extends EweError {
  readonly code = 'EWE_MODEL_NOT_FOUND'
}

/** A tokenizer file that cannot be used, or text or ids that it cannot encode or decode. */
export class TokenizerError extends EweError {
  readonly code = 'EWE_TOKENIZER'
}

/** A device that does not exist, cannot run this model, or was lost. */
export class DeviceError extends EweError {
  readonly code = 'EWE_DEVICE'
}

/** What was asked for does not fit into the memory there is. */
export class OutOfMemoryError extends EweError {
  readonly code = 'EWE_OUT_OF_MEMORY'
}

/** A prompt, or prompt and answer together, longer than the context that the model was loaded with, or than its cache holds at all. */
export class ContextLengthError extends EweError {
  readonly code = 'EWE_CONTEXT_LENGTH'
}

/** The model's output is not a number: damaged weights, or values beyond the range of their dtype. */
export class NumericError extends EweError {
  readonly code = 'EWE_NUMERIC'
}

/** More requests wait than the queue takes: try again later. */
export class QueueFullError extends EweError {
  readonly code = 'EWE_QUEUE_FULL'
}

/** A request whose deadline passed before its answer was complete. */
export class DeadlineError extends EweError {
  readonly code = 'EWE_DEADLINE'
}

/** Use of a model after `dispose()`. */
export class DisposedError extends EweError {
  readonly code = 'EWE_DISPOSED'
}

/** A server's port that could not be opened. */
export class ListenError extends EweError {
  readonly code = 'EWE_LISTEN'
}

/** The native addon is missing or could not be loaded. */
export class NativeError extends EweError {
  readonly code = 'EWE_NATIVE'
}

/** A batch job that cannot go on: its files, its input, or another job on the same output. What is finished stays in the journal. */
export class BatchError extends EweError {
  readonly code = 'EWE_BATCH'
}

/** A journal of another job, or of the same one with other options, stands where this one's would be. */
export class BatchMismatchError extends EweError {
  readonly code = 'EWE_BATCH_MISMATCH'
}

/** A broken promise of ewe's own code: please report it. */
export class InternalError extends EweError {
  readonly code = 'EWE_INTERNAL'
}

/** What native code throws: the kind of `native/base/error.h` by name, and where a checkpoint failed. */
interface NativeFailure {
  kind: string
  message: string
  file?: string
  tensor?: string
}

/**
 * Makes the typed error of a failure that native code reported. `caller` is an error made when the user called, so that the stack names the user's line
 * even where the failure comes from another thread.
 */
export function fromNative(thrown: unknown, caller?: Error): Error {
  if (!isNativeFailure(thrown)) return thrown instanceof Error ? thrown : new InternalError(String(thrown))
  const error = build(thrown)
  const stack = (caller ?? thrown).stack
  if (stack !== undefined) error.stack = `${error.name}: ${error.message}\n${stack.split('\n').slice(1).join('\n')}`
  return error
}

function build(failure: NativeFailure): EweError {
  switch (failure.kind) {
    case 'option':
      return new OptionError('native', failure.message, undefined)
    case 'checkpoint':
      return new CheckpointError(failure.message, { file: failure.file ?? '', tensor: failure.tensor || undefined })
    case 'device':
      return new DeviceError(failure.message)
    case 'memory':
      return new OutOfMemoryError(failure.message)
    case 'context':
      return new ContextLengthError(failure.message)
    case 'numeric':
      return new NumericError(failure.message)
    case 'queue':
      return new QueueFullError(failure.message)
    case 'deadline':
      return new DeadlineError(failure.message)
    case 'disposed':
      return new DisposedError(failure.message)
    default:
      return new InternalError(failure.message)
  }
}

function isNativeFailure(value: unknown): value is NativeFailure & Error {
  return value instanceof Error && typeof (value as { kind?: unknown }).kind === 'string'
}

function describe(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 77)}...` : value)
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint' || value === null) return String(value)
  if (Array.isArray(value)) return `an array of ${value.length}`
  return `a ${typeof value}`
}
