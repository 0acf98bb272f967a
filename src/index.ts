export { Model } from './model.js'
export type { Asked, Generation, Plan, Sample, StreamPiece, TokenLogprob } from './answers.js'
export type { CompleteOptions, GenerateOptions, LoadOptions, ScoreOptions } from './options.js'
export type { ChatTurn } from './prompts.js'
export type { Tokenizer } from './tokenizer/tokenizer.js'
export type { NativeDevice as Device, NativeStats as Stats } from './native.js'
export { devices } from './devices.js'
export { shippedModel } from './package.js'
export {
  BatchError,
  BatchMismatchError,
  CheckpointError,
  ContextLengthError,
  DeadlineError,
  DeviceError,
  DisposedError,
  EweError,
  InternalError,
  ListenError,
  ModelNotFoundError,
  NativeError,
  NumericError,
  OptionError,
  OutOfMemoryError,
  QueueFullError,
  TokenizerError,
} from './errors.js'
