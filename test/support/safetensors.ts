// Reference tensors, read plainly: the product's own reader is under test elsewhere.
import { readFileSync } from 'node:fs'

export interface Reference {
  shape: number[]
  data: Float32Array | Float64Array | number[]
}

export function readReference(path: string): Record<string, Reference> {
  const bytes = readFileSync(path)
  const length = Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>
  const out: Record<string, Reference> = {}
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const [begin, end] = entry.data_offsets
    const buffer = new Uint8Array(bytes.subarray(8 + length + begin, 8 + length + end)).buffer
    out[name] = { shape: entry.shape, data: numbers(entry.dtype, buffer) }
  }
  return out
}

function numbers(dtype: string, buffer: ArrayBuffer): Reference['data'] {
  if (dtype === 'F32') return new Float32Array(buffer)
  if (dtype === 'F64') return new Float64Array(buffer)
  if (dtype === 'BF16') return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (half) => half << 16).buffer)
  return Array.from(new BigInt64Array(buffer), Number)
}

export function readJson(path: string): unknown {
  return JSON.parse(readFileSync(path, 'utf8'))
}

export function readLines<T>(path: string): T[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as T)
}
