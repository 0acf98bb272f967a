import { CheckpointError, InternalError } from '../errors.js'
import type { DTypeName, NativeTensor, Placement, Slot } from '../native.js'
import type { ModelSpec } from './config.js'
import { familyOf } from './families.js'
import type { Family } from './family.js'
import { DTYPE_BYTES } from './stored.js'
import type { StoredDType, StoredTensor } from './stored.js'

/** The shape of every slot: [rows, columns], or [rows] for vectors. */
const SHAPES: Readonly<Record<Slot, (spec: ModelSpec) => [rows: number, columns?: number]>> = {
  embed: (s) => [s.vocab, s.hidden],
  norm1Weight: (s) => [s.hidden],
  norm1Bias: (s) => [s.hidden],
  norm2Weight: (s) => [s.hidden],
  norm2Bias: (s) => [s.hidden],
  qkv: (s) => [qkvRows(s), s.hidden],
  qkvBias: (s) => [qkvRows(s)],
  out: (s) => [s.hidden, s.heads * s.headSize],
  outBias: (s) => [s.hidden],
  up: (s) => [s.inner, s.hidden],
  upBias: (s) => [s.inner],
  down: (s) => [s.hidden, s.inner],
  downBias: (s) => [s.hidden],
  finalWeight: (s) => [s.hidden],
  finalBias: (s) => [s.hidden],
  head: (s) => [s.vocab, s.hidden],
  headBias: (s) => [s.vocab],
}

const DTYPES: Readonly<Partial<Record<StoredDType, DTypeName>>> = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' }

/** A slot of one layer, and the names of the tensors that fill it. */
interface Need {
  slot: Slot
  layer: number
  names: readonly string[]
}

/** The tensors of a checkpoint's files, by name. */
export interface Stored {
  tensors: ReadonlyMap<string, StoredTensor>
  /** Absolute paths; placements name files by their index here. */
  files: string[]
  /** Bytes of all files. */
  bytes: number
  /** The file to name where a tensor is missing: the one that lists them. */
  list: string
}

export interface Placed {
  placements: Placement[]
  /** Weights, a shared table counted once. */
  parameters: number
  /** Bytes of them in the files. */
  tensorsBytes: number
  /** The dtype that most of these bytes have. */
  dtype: DTypeName
}

/** Says where every slot of the model comes from. Throws {@link CheckpointError} for tensors that are missing, unknown, or of another shape. */
export function place(spec: ModelSpec, stored: Stored): Placed {
  const family = familyOf(spec.modelType)
  const prefix = findPrefix(family, stored)
  const slots = needs(spec, family, prefix, findHead(spec, family, stored, prefix))
  checkSize(spec, slots, stored)
  const fileIndex = new Map(stored.files.map((file, index) => [file, index]))
  const used = new Map<string, StoredTensor>()
  // Made when the first projection has been found to fit, because its length follows from numbers of config.json.
  let qkv: Int32Array | undefined
  const placements = slots.map(({ slot, layer, names }): Placement => {
    const shape = SHAPES[slot](spec)
    const [rows, columns = 1] = shape
    const tensors = names.map((name, part) => {
      const tensor = find(stored, name, names.length === 1 ? shape : [(part === 0 ? spec.heads : spec.kvHeads) * spec.headSize, columns])
      used.set(name, tensor)
      return native(tensor, fileIndex)
    })
    const blocks = slot === 'qkv' || slot === 'qkvBias' ? (qkv ??= qkvBlocks(spec, family)) : Int32Array.of(0, 0, 1, 0, 1, rows)
    return { slot, layer, rows, columns, tensors, blocks }
  })
  checkRest(spec, family, stored, used)
  return { placements, ...summary([...used.values()]) }
}

/** Everything the model needs, in the order of the forward pass. */
function needs(spec: ModelSpec, family: Family, prefix: string, head: string): Need[] {
  const { tensors, layerTensors, headBias } = family
  const list: Need[] = []
  const outer = (slot: Slot): void => {
    if (tensors[slot] !== undefined) list.push({ slot, layer: 0, names: [prefix + tensors[slot]] })
  }
  outer('embed')
  for (let layer = 0; layer < spec.layers; layer++) {
    for (const [slot, names] of Object.entries(layerTensors) as [Slot, string | readonly string[]][]) {
      if ((slot === 'qkvBias' || slot === 'outBias') && !spec.attentionBias) continue
      list.push({ slot, layer, names: [names].flat().map((name) => prefix + name.replace('N', String(layer))) })
    }
  }
  outer('finalWeight')
  outer('finalBias')
  list.push({ slot: 'head', layer: 0, names: [head] })
  if (headBias !== undefined) list.push({ slot: 'headBias', layer: 0, names: [headBias] })
  return list
}

/** Files saved from the bare model lack the prefix. */
function findPrefix(family: Family, stored: Stored): string {
  const { prefix, tensors } = family
  const embed = tensors.embed ?? ''
  if (stored.tensors.has(prefix + embed)) return prefix
  if (stored.tensors.has(embed)) return ''
  const why = `is missing: the files hold ${stored.tensors.size} tensors, but not the input table of ${family.name}`
  throw new CheckpointError(why, { file: stored.list, tensor: prefix + embed })
}

function findHead(spec: ModelSpec, family: Family, stored: Stored, prefix: string): string {
  if (spec.tied) return prefix + (family.tensors.embed ?? '')
  const name = family.head.find((one) => stored.tensors.has(one))
  if (name !== undefined) return name
  const why = 'is missing, and tie_word_embeddings is not true: files saved from a model without its head give no text'
  throw new CheckpointError(why, { file: stored.list, tensor: family.head.join(' or ') })
}

/**
 * Refuses sizes that the files cannot hold, before anything of such a size is made: 16 bits per weight at least. The head does not count, because
 * it may share its storage with the input table.
 */
function checkSize(spec: ModelSpec, slots: readonly Need[], stored: Stored): void {
  const elements = slots.reduce((sum, { slot }) => sum + (slot === 'head' ? 0 : area(spec, slot)), 0)
  if (2 * elements > stored.bytes) {
    const sizes = `${spec.layers} layers of width ${spec.hidden} and ${spec.inner}, ${spec.vocab} tokens`
    throw new CheckpointError(`the sizes in config.json (${sizes}) need at least ${2 * elements} bytes, but the files have ${stored.bytes}`, {
      file: stored.list,
    })
  }
}

function area(spec: ModelSpec, slot: Slot): number {
  const [rows, columns = 1] = SHAPES[slot](spec)
  return rows * columns
}

function find(stored: Stored, name: string, expected: readonly (number | undefined)[]): StoredTensor {
  const tensor = stored.tensors.get(name)
  if (tensor === undefined) throw new CheckpointError('is missing', { file: stored.list, tensor: name })
  const where = { file: tensor.file, tensor: name }
  if (tensor.shape.length !== expected.length || expected.some((size, i) => size !== tensor.shape[i])) {
    throw new CheckpointError(`has the shape [${tensor.shape.join(', ')}], expected [${expected.join(', ')}] from config.json`, where)
  }
  if (DTYPES[tensor.dtype] === undefined) throw new CheckpointError(`has the dtype ${tensor.dtype}, expected F32, F16 or BF16`, where)
  return tensor
}

function native(tensor: StoredTensor, fileIndex: ReadonlyMap<string, number>): NativeTensor {
  const dtype = DTYPES[tensor.dtype]
  const file = fileIndex.get(tensor.file)
  const [rows, columns = 1] = tensor.shape
  const [rowStride, columnStride = 1] = tensor.strides
  if (dtype === undefined || file === undefined || rows === undefined || rowStride === undefined)
    throw new InternalError(`${tensor.name} was not checked`)
  return { file, offset: tensor.offset, dtype, rows, columns, rowStride, columnStride, name: tensor.name }
}

/** Every tensor must have a use, or be known to have none. */
function checkRest(spec: ModelSpec, family: Family, stored: Stored, used: ReadonlyMap<string, StoredTensor>): void {
  for (const tensor of stored.tensors.values()) {
    const { name, file, offset } = tensor
    if (used.has(name) || family.ignored.some((ending) => name === ending || name.endsWith(`.${ending}`))) continue
    if (spec.tied && family.head.includes(name)) {
      // Old files hold a tied head too, as a second name of the input table.
      if ([...used.values()].some((table) => table.file === file && table.offset === offset)) continue
      throw new CheckpointError('is a head of its own, but config.json says tie_word_embeddings: set that to false to use it', { file, tensor: name })
    }
    const what = `[${tensor.shape.join(', ')}] belongs to nothing in a ${family.name} model of ${spec.layers} layers`
    throw new CheckpointError(what, { file, tensor: name })
  }
}

function summary(used: readonly StoredTensor[]): Omit<Placed, 'placements'> {
  const bytes: Record<DTypeName, number> = { float32: 0, bfloat16: 0, float16: 0 }
  let parameters = 0
  let tensorsBytes = 0
  for (const tensor of used) {
    const dtype = DTYPES[tensor.dtype]
    if (dtype !== undefined) bytes[dtype] += tensor.bytes
    parameters += tensor.bytes / DTYPE_BYTES[tensor.dtype]
    tensorsBytes += tensor.bytes
  }
  const [dtype] = (Object.keys(bytes) as DTypeName[]).toSorted((a, b) => bytes[b] - bytes[a])
  return { parameters, tensorsBytes, dtype: dtype ?? 'float32' }
}

/**
 * The row blocks of the fused projection: queries of all heads, then keys, then values, and in each query and key head the components that are
 * rotated together side by side.
 */
export function qkvBlocks(spec: ModelSpec, family: Family): Int32Array {
  const { heads, kvHeads, headSize, rotarySize } = spec
  const blocks = new Blocks()
  let first = 0
  for (const [part, count] of [heads, kvHeads, kvHeads].entries()) {
    for (let head = 0; head < count; head++) {
      const target = (first + head) * headSize
      const [tensor, source] = sourceOf(family.qkvLayout, part, head, headSize, target)
      const half = family.rotaryStyle === 'half' && part < 2 ? rotarySize / 2 : 0
      if (half > 0) {
        blocks.add(tensor, source, target, 2, half)
        blocks.add(tensor, source + half, target + 1, 2, half)
      }
      if (2 * half < headSize) blocks.add(tensor, source + 2 * half, target + 2 * half, 1, headSize - 2 * half)
    }
    first += count
  }
  return Int32Array.from(blocks.values)
}

/** The tensor and row where a head of the queries (part 0), keys (1) or values (2) begins. */
function sourceOf(layout: Family['qkvLayout'], part: number, head: number, headSize: number, target: number): [tensor: number, row: number] {
  switch (layout) {
    case 'perHead':
      return [0, (head * 3 + part) * headSize]
    case 'separate':
      return [part, head * headSize]
    case 'stacked':
      return [0, target]
  }
}

/** Groups of six for a placement; a block that continues the one before it is joined to it. */
class Blocks {
  readonly values: number[] = []

  add(tensor: number, source: number, target: number, targetStep: number, count: number): void {
    const { values } = this
    const at = values.length - 6
    const [lastTensor, lastSource = 0, , lastTarget = 0, lastStep, lastCount = 0] = values.slice(Math.max(at, 0))
    const continues =
      targetStep === 1 && lastStep === 1 && lastTensor === tensor && lastSource + lastCount === source && lastTarget + lastCount === target
    if (continues) values[at + 5] = lastCount + count
    else values.push(tensor, source, 1, target, targetStep, count)
  }
}

function qkvRows(spec: ModelSpec): number {
  return (spec.heads + 2 * spec.kvHeads) * spec.headSize
}
