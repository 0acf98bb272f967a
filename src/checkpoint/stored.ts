import { CheckpointError } from '../errors.js'
import { quote } from './json.js'

/** Bytes per element of every dtype that a file may hold. */
export const DTYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  I64: 8,
  U64: 8,
  F64: 8,
} as const

export type StoredDType = keyof typeof DTYPE_BYTES

/** One tensor of a file, checked to lie inside it. Its data are not read. */
export interface StoredTensor {
  name: string
  dtype: StoredDType
  shape: number[]
  /** Elements from one index to the next, per dimension. */
  strides: number[]
  /** Byte of the first element, counted from the start of the file. */
  offset: number
  /** Bytes of all elements. */
  bytes: number
  /** Path of its file. */
  file: string
}

/** Most tensors of one model; published ones of these families have up to some thousand. */
export const MOST_TENSORS = 1 << 16
/** Most dimensions of one tensor; weights have two, buffers of old files four. */
const MOST_DIMENSIONS = 8
const LONGEST_NAME = 1024

export function checkTensorName(name: string, file: string): void {
  if (name === '' || name.length > LONGEST_NAME)
    throw new CheckpointError(`a tensor name of ${name.length} characters, expected 1 to ${LONGEST_NAME}`, { file })
  // They would garble the messages that names appear in.
  if (/\p{Cc}/u.test(name)) throw new CheckpointError(`a tensor name with control characters: ${quote(name)}`, { file })
}

/** Elements of a shape, or a {@link CheckpointError} where the product leaves the exact integers. */
export function elementCount(shape: readonly number[], where: { file: string; tensor: string }): number {
  if (shape.length > MOST_DIMENSIONS) throw new CheckpointError(`has ${shape.length} dimensions, at most ${MOST_DIMENSIONS} are read`, where)
  let elements = 1
  for (const size of shape) {
    if (size !== 0 && elements > Number.MAX_SAFE_INTEGER / size)
      throw new CheckpointError(`has more than 2^53 elements: [${shape.join(', ')}]`, where)
    elements *= size
  }
  return elements
}

/** Strides of a row-major tensor without gaps. */
export function rowMajor(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length)
  let stride = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride
    stride *= shape[i] ?? 0
  }
  return strides
}
