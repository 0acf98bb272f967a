import { closeSync, existsSync, openSync, readSync, fstatSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { arch, platform } from 'node:process'
import { NativeError } from './errors.js'
import { packageFolder, packageVersion } from './package.js'

/** The architecture of a model as plain numbers; `native/model/spec.h` is its twin. */
export interface NativeSpec {
  layers: number
  hidden: number
  heads: number
  kvHeads: number
  headSize: number
  inner: number
  vocab: number
  maxPositions: number
  rotarySize: number
  rotaryBase: number
  parallel: boolean
  sharedNorm: boolean
  activation: 'gelu' | 'geluTanh' | 'quickGelu' | 'silu' | 'relu' | 'geluClipped'
  normEps: number
  clipQkv: number
}

export type DTypeName = 'float32' | 'bfloat16' | 'float16'
/** What weights are held in. */
export type WeightsName = DTypeName | 'int8'

/** Where the native code puts a tensor. Matrices are `[outputs, inputs]`; vectors (`…Bias`, `norm…`, `final…`) have one column. */
export type Slot =
  | 'embed'
  | 'norm1Weight'
  | 'norm1Bias'
  | 'norm2Weight'
  | 'norm2Bias'
  | 'qkv' // [(heads + 2 kvHeads) headSize, hidden]: queries, keys, values; rotary pairs adjacent
  | 'qkvBias'
  | 'out' // [hidden, heads headSize]
  | 'outBias'
  | 'up' // [inner, hidden]
  | 'upBias'
  | 'down' // [hidden, inner]
  | 'downBias'
  | 'finalWeight'
  | 'finalBias'
  | 'head' // [vocab, hidden]
  | 'headBias'

/** One stored tensor, as `[rows, columns]` with strides in elements. */
export interface NativeTensor {
  /** Index into {@link NativeCheckpoint.files}. */
  file: number
  /** Byte offset of element (0, 0) in the file. */
  offset: number
  dtype: DTypeName
  rows: number
  columns: number
  rowStride: number
  columnStride: number
  /** Name in the checkpoint, for errors. */
  name: string
}

/** How one slot of the model is filled from stored tensors. */
export interface Placement {
  slot: Slot
  /** Layer, or 0 where a slot has none. */
  layer: number
  rows: number
  columns: number
  tensors: NativeTensor[]
  /**
   * Groups of six: [tensor, first source row, source step, first target row, target step, count]. Together they name every target row exactly once.
   */
  blocks: Int32Array
}

export interface NativeCheckpoint {
  spec: NativeSpec
  /** Absolute paths. */
  files: string[]
  placements: Placement[]
}

export type InstructionSet = 'auto' | 'plain' | 'avx2' | 'avx512' | 'avx512bf16'

export interface NativeLoadOptions {
  device: string
  weights: WeightsName
  instructionSet: InstructionSet
  threads: number
  maxContext: number
  maxBatch: number
  /** Tokens of a cache page. */
  pageSize: number
  /** Cache pages in all. */
  pages: number
  /** Rows of a step that prompts fill up. */
  stepRows: number
  /** Most requests that wait. */
  maxQueue: number
  /** Requests share the pages of common beginnings. */
  prefixCache: boolean
  /** A request starts only when pages for its longest answer are left. */
  reserve: boolean
}

/** What {@link NativeEngine.submit} takes: everything already checked. */
export interface NativeRequest {
  tokens: Int32Array
  maxNewTokens: number
  n: number
  temperature: number
  topK: number
  topP: number
  minP: number
  repetitionPenalty: number
  presencePenalty: number
  frequencyPenalty: number
  /** Rising ids, and what is added to their logits. */
  biasedIds: Int32Array
  biases: Float32Array
  /** 64 bits. */
  seed: bigint
  /** Ids that end a sample. */
  endIds: Int32Array
  /** Texts that end a sample and are cut from it. */
  stop: string[]
  /** How many best log-probabilities to report per token; -1 for none, 0 for those of the chosen tokens only. */
  logprobs: number
  /** Whether special tokens appear in the text. */
  keepSpecial: boolean
  /** More goes first. */
  priority: number
  /** Milliseconds after which it is given up, or 0. */
  timeout: number
}

/** One token of one sample, or a rest of text without a token. */
export interface NativeEvent {
  request: number
  sample: number
  token?: number
  /** Whole characters only; a tail that could still become a stop string or a character is held back. */
  text: string
  /** Of the token, when asked for, with the best ones beside it. */
  logprob?: number
  topTokens?: Int32Array
  topLogprobs?: Float32Array
  /** Set on the last event of a sample. */
  finish?: 'stop' | 'length' | 'cancelled' | 'error'
  /** The end id that ended it. */
  stopToken?: number
  /** Index of the stop string that ended it. */
  stopString?: number
  error?: Error
  /** Milliseconds, on the last event of a request, as far as it came: until its first step, from there to its first token, and from there to its end. */
  queueTime?: number
  prefillTime?: number
  decodeTime?: number
  /** Tokens of the prompt that were in the cache when it began; there with `queueTime`. */
  reusedTokens?: number
}

export interface NativeStats {
  /** Bytes by part, as planned and allocated. */
  memory: Record<string, number>
  /** Cache pages that requests hold, those that are kept for their prompts only, and all. */
  pagesUsed: number
  pagesCached: number
  pages: number
  steps: number
  /** Tokens of prompts that were computed, and those found in the cache instead. */
  promptTokens: number
  reusedTokens: number
  generatedTokens: number
  /** Sequences that gave up their pages for others and were computed again. */
  preempted: number
  /** What the steps took, with all that was done around them, and what of that was the device's. */
  busySeconds: number
  deviceSeconds: number
  /** Requests by how they ended. */
  finished: number
  cancelled: number
  failed: number
  /** Sequences that wait, and that run. */
  queued: number
  running: number
  /** Tokens that were computed, of prompts and answers, in all steps. */
  rows: number
  /** Steps by their rows: entry i counts those with more than 2^(i-1) and at most 2^i. */
  stepsByRows: number[]
}

/** A result to come, and the number that {@link NativeEngine.cancel} takes. */
export interface Numbered<T> {
  request: number
  result: Promise<T>
}

/** One loaded model with its loop thread. */
export interface NativeEngine {
  /** Loads the weights and starts the loop. Progress is bytes done and bytes in all, at most 50 times a second. */
  load(checkpoint: NativeCheckpoint, options: NativeLoadOptions, progress: (done: number, total: number) => void): Promise<void>
  /** Stops a load that is under way; its promise rejects. */
  abortLoad(): void
  /** Bytes of every id, joined, with ends[i] the end of id i; and which ids are special. For the text of generated ids. */
  setText(bytes: Uint8Array, ends: Uint32Array, special: Uint8Array): void
  /** Called once a step, with what all requests produced. */
  onEvents(callback: (events: NativeEvent[]) => void): void
  /** Queues a request and returns its number. */
  submit(request: NativeRequest): number
  cancel(request: number): void
  /** Log-probabilities of tokens[1..] given those before, and the best `top` beside them. Prompt class. */
  score(tokens: Int32Array, top: number): Numbered<{ logprobs: Float32Array; topTokens: Int32Array; topLogprobs: Float32Array }>
  /** [length, vocab]. */
  logits(tokens: Int32Array): Numbered<Float32Array>
  stats(): NativeStats
  /** Ends the loop and frees everything; requests under way end as cancelled. */
  dispose(): Promise<void>
  /** Whether the events callback keeps the process alive. */
  setActive(active: boolean): void
}

export interface NativeDevice {
  /** What {@link NativeLoadOptions.device} takes. */
  id: string
  kind: 'cpu' | 'cuda' | 'emulator'
  name: string
  /** Bytes. */
  memory: number
  /** Dtypes of weights that it multiplies. */
  weights: WeightsName[]
  /** CUDA compute capability times ten, or 0. */
  computeCapability: number
  /** Cards: `h200`, `a100` and so on where the name tells, else the generation (`hopper`). */
  family?: string
  multiprocessors?: number
  /** CPU: instruction sets that can be forced here, best first. */
  instructionSets?: string[]
  threads?: number
  /** Why it cannot run a model here. */
  problem?: string
}

/** The addon's whole face. */
export interface Native {
  version(): string
  devices(): { devices: NativeDevice[]; /** Why there is no CUDA device, or empty. */ cudaReason: string }
  /** Bytes by part that a load with these options would allocate (native/engine/layout). */
  layout(spec: NativeSpec, options: NativeLoadOptions): Record<string, number>
  Engine: new () => NativeEngine
}

/** One place where the addon was looked for, and why it could not be used. */
export interface LoadAttempt {
  path: string
  cause: string
}

let loaded: Native | undefined

/**
 * The addon, loaded on the first call and kept. It is `EWE_NATIVE` (a path) where that is set, and nothing else then; else the one of this platform in the
 * package's `prebuilds` folder, which comes with the package or from `ewe build`.
 *
 * @throws {@link NativeError} when it cannot be used: the place looked at with the cause, then the commands that help.
 */
export function loadNative(): Native {
  if (loaded !== undefined) return loaded
  const result = tryLoad(addonPath())
  if ('cause' in result) throw new NativeError(explain(result))
  return (loaded = result.native)
}

/** Where {@link loadNative} looks: what `EWE_NATIVE` names, else the package's own. */
export function addonPath(chosen = process.env['EWE_NATIVE']): string {
  return chosen ? resolve(chosen) : join(packageFolder(), 'prebuilds', platformKey(), 'ewe.node')
}

/** `linux-x64`; with `-musl` behind it where the C library is not glibc. */
export function platformKey(): string {
  return `${platform}-${arch}${platform === 'linux' && glibcVersion() === undefined ? '-musl' : ''}`
}

/** Version of the C library as `2.36`, or nothing where it is not glibc. */
export function glibcVersion(): string | undefined {
  const report = process.report.getReport() as { header: { glibcVersionRuntime?: string } }
  return report.header.glibcVersionRuntime
}

/** Loads the addon at one path; never throws. */
export function tryLoad(path: string): { native: Native } | LoadAttempt {
  const holder: { exports: Partial<Native> } = { exports: {} }
  try {
    const broken = fileProblem(path)
    if (broken !== undefined) return { path, cause: broken }
    process.dlopen(holder, path)
  } catch (error) {
    return { path, cause: linkProblem((error instanceof Error ? error.message : String(error)).replace(`${path}: `, '')) }
  }
  const native = holder.exports
  if (typeof native.version !== 'function') return { path, cause: 'it is an addon of Node, but not that of ewe' }
  const version = native.version()
  if (version !== packageVersion()) return { path, cause: `it is of version ${version}, the package of version ${packageVersion()}` }
  return { native: native as Native }
}

const machines: Partial<Record<string, number>> = { x64: 62, arm64: 183, ia32: 3, arm: 40, riscv64: 243, ppc64: 21, s390x: 22 }

/** What keeps a file from being a library for this machine, seen from its header. The dynamic linker would die of a file that is cut off. */
function fileProblem(path: string): string | undefined {
  if (!existsSync(path)) return 'no such file'
  if (platform !== 'linux') return undefined
  const header = Buffer.alloc(64)
  const file = openSync(path, 'r')
  try {
    const { size } = fstatSync(file)
    if (!fstatSync(file).isFile()) return 'it is not a file'
    if (readSync(file, header) < 64 || header.readUInt32BE(0) !== 0x7f454c46) return `it is not a shared library (${size} bytes without an ELF header)`
    const machine = header.readUInt16LE(18)
    const found = Object.keys(machines).find((name) => machines[name] === machine) ?? `machine ${machine}`
    if (machine !== machines[arch]) return `it is built for ${found}, this Node for ${arch}`
    // The table of sections ends the file.
    const needed = Number(header.readBigUInt64LE(40)) + header.readUInt16LE(58) * header.readUInt16LE(60)
    return size < needed ? `it is cut off: ${size} of at least ${needed} bytes` : undefined
  } finally {
    closeSync(file)
  }
}

/** The dynamic linker's message, with the usual reasons in words. */
function linkProblem(message: string): string {
  const glibc = /version [`']GLIBC_([\d.]+)' not found/.exec(message)
  if (glibc) return `it needs glibc ${glibc[1]} or newer, this system has ${glibcVersion() ?? 'another C library'}`
  if (message.includes('did not self-register')) return 'it is a shared library, but not an addon of Node'
  return message
}

function explain(attempt: LoadAttempt): string {
  const lines = [`The native addon of ewe could not be loaded on ${platformKey()}, Node ${process.version}.`, `  tried ${attempt.path}: ${attempt.cause}`]
  const inClone = existsSync(join(packageFolder(), 'src'))
  lines.push('What helps:')
  if (process.env['EWE_NATIVE']) lines.push('  unset EWE_NATIVE     to use the addon of the package')
  if (platform !== 'linux' || (arch !== 'x64' && arch !== 'arm64')) lines.push('  ewe runs on Linux, on x64 and arm64 processors')
  else if (inClone) lines.push('  npm run build        builds it (needs g++, make, and cmake or python3)')
  else lines.push('  npx ewe build        builds it from the sources in the package (needs g++, make, and cmake or python3)', '  npm install ewe      brings a damaged package back')
  lines.push('  npx ewe doctor       tells what was found on this machine and what is missing')
  return lines.join('\n')
}
