// Small checkpoints in memory, and what tests read out of a checkpoint.
import { readFileSync } from 'node:fs'
import * as assert from 'uvu/assert'
import type { Checkpoint } from '../../src/checkpoint/checkpoint.js'
import type { Folder, Source } from '../../src/checkpoint/files.js'
import { CheckpointError } from '../../src/errors.js'
import type { NativeTensor, Placement, Slot } from '../../src/native.js'

export type Files = Record<string, Uint8Array | string>

/** A file that lies in memory. */
export function memorySource(path: string, content: Uint8Array | string): Source {
  const bytes = Buffer.from(content)
  return {
    path,
    size: bytes.length,
    read: (offset, length) => {
      // A reader that asks for bytes outside the file has not checked what it read.
      if (!(offset >= 0 && length >= 0 && offset + length <= bytes.length))
        throw new RangeError(`read of ${length} bytes at ${offset} of ${bytes.length}`)
      return Promise.resolve(bytes.subarray(offset, offset + length))
    },
    close: () => Promise.resolve(),
  }
}

export function memoryFolder(files: Files): Folder {
  return {
    path: '/model',
    open: (name) => Promise.resolve(files[name] === undefined ? undefined : memorySource(`/model/${name}`, files[name])),
  }
}

export interface Entry {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

/** A safetensors file of this header text and as many bytes of data. */
export function rawSafetensors(header: string | Uint8Array, dataBytes: number): Buffer {
  const text = Buffer.from(header)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([length, text, Buffer.alloc(dataBytes, 0x3c)])
}

/** Names and shapes -> header entries, F32, one after the other. */
export function layout(shapes: Record<string, number[]>): Record<string, Entry> {
  let at = 0
  return Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => {
      const begin = at
      at += 4 * shape.reduce((a, b) => a * b, 1)
      return [name, { dtype: 'F32', shape, data_offsets: [begin, at] }]
    }),
  )
}

export function safetensors(entries: Record<string, Entry>): Buffer {
  const bytes = Math.max(0, ...Object.values(entries).map((entry) => entry.data_offsets[1]))
  return rawSafetensors(JSON.stringify(entries), bytes)
}

export const neoxConfig = {
  architectures: ['GPTNeoXForCausalLM'],
  model_type: 'gpt_neox',
  vocab_size: 6,
  hidden_size: 8,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 12,
  rotary_pct: 0.5,
  max_position_embeddings: 64,
}

export const gptjConfig = {
  architectures: ['GPTJForCausalLM'],
  model_type: 'gptj',
  vocab_size: 6,
  n_embd: 8,
  n_layer: 1,
  n_head: 2,
  n_positions: 64,
  rotary_dim: 2,
}

/** The tensors of {@link neoxConfig}. */
export function neoxShapes(prefix = 'gpt_neox.', layers = 2): Record<string, number[]> {
  const shapes: Record<string, number[]> = { [`${prefix}embed_in.weight`]: [6, 8] }
  for (let layer = 0; layer < layers; layer++) {
    const at = `${prefix}layers.${layer}.`
    for (const norm of ['input_layernorm', 'post_attention_layernorm']) {
      shapes[`${at}${norm}.weight`] = [8]
      shapes[`${at}${norm}.bias`] = [8]
    }
    shapes[`${at}attention.query_key_value.weight`] = [24, 8]
    shapes[`${at}attention.query_key_value.bias`] = [24]
    shapes[`${at}attention.dense.weight`] = [8, 8]
    shapes[`${at}attention.dense.bias`] = [8]
    shapes[`${at}mlp.dense_h_to_4h.weight`] = [12, 8]
    shapes[`${at}mlp.dense_h_to_4h.bias`] = [12]
    shapes[`${at}mlp.dense_4h_to_h.weight`] = [8, 12]
    shapes[`${at}mlp.dense_4h_to_h.bias`] = [8]
  }
  return { ...shapes, [`${prefix}final_layer_norm.weight`]: [8], [`${prefix}final_layer_norm.bias`]: [8], 'embed_out.weight': [6, 8] }
}

/** The tensors of {@link gptjConfig}. */
export function gptjShapes(): Record<string, number[]> {
  const at = 'transformer.h.0.'
  return {
    'transformer.wte.weight': [6, 8],
    [`${at}ln_1.weight`]: [8],
    [`${at}ln_1.bias`]: [8],
    [`${at}attn.k_proj.weight`]: [8, 8],
    [`${at}attn.v_proj.weight`]: [8, 8],
    [`${at}attn.q_proj.weight`]: [8, 8],
    [`${at}attn.out_proj.weight`]: [8, 8],
    [`${at}mlp.fc_in.weight`]: [32, 8],
    [`${at}mlp.fc_in.bias`]: [32],
    [`${at}mlp.fc_out.weight`]: [8, 32],
    [`${at}mlp.fc_out.bias`]: [8],
    'transformer.ln_f.weight': [8],
    'transformer.ln_f.bias': [8],
    'lm_head.weight': [6, 8],
    'lm_head.bias': [6],
  }
}

/** A folder with these tensors; `config` is changed by `changes`, where undefined removes a key. */
export function model(config: object, shapes: Record<string, number[]>, changes: object = {}): Files {
  return { 'config.json': JSON.stringify({ ...config, ...changes }), 'model.safetensors': safetensors(layout(shapes)) }
}

/** Fails unless the promise is refused with a {@link CheckpointError} about this file (its last part) and tensor or key. */
export async function assertRefused(promise: Promise<unknown>, file: string, says: RegExp, tensor?: string): Promise<void> {
  let error: unknown
  try {
    await promise
  } catch (thrown) {
    error = thrown
  }
  if (!(error instanceof CheckpointError)) throw new Error(`expected a CheckpointError, got ${error instanceof Error ? error.stack : 'a result'}`)
  assert.match(error.message, says)
  assert.is(error.file.split('/').at(-1), file, error.message)
  assert.is(error.tensor, tensor, error.message)
  assert.ok(error.message.length < 1000, `a message of ${error.message.length} characters`)
}

/** A slot of a checkpoint on disk, filled by its row blocks as the native loader does: [rows, columns]. */
export function fill(checkpoint: Checkpoint, slot: Slot, layer = 0): Float32Array {
  const placement = placementOf(checkpoint, slot, layer)
  const { rows, columns, tensors, blocks } = placement
  const values = new Float32Array(rows * columns)
  const named = new Uint8Array(rows)
  const stored = tensors.map((tensor) => elements(checkpoint, tensor))
  for (let i = 0; i < blocks.length; i += 6) {
    const [tensor = 0, source = 0, sourceStep = 0, target = 0, targetStep = 0, count = 0] = blocks.subarray(i, i + 6)
    for (let j = 0; j < count; j++) {
      const row = target + j * targetStep
      const from = (source + j * sourceStep) * columns
      values.set(stored[tensor]?.subarray(from, from + columns) ?? [], row * columns)
      named[row] = (named[row] ?? 0) + 1
    }
  }
  assert.ok(
    named.every((times) => times === 1),
    `${slot} ${layer}: not every row is named exactly once`,
  )
  return values
}

export function placementOf(checkpoint: Checkpoint, slot: Slot, layer = 0): Placement {
  const placement = checkpoint.native.placements.find((one) => one.slot === slot && one.layer === layer)
  assert.ok(placement, `no ${slot} in layer ${layer}`)
  return placement as Placement
}

/** All elements of a stored tensor, row-major. */
export function elements(checkpoint: Checkpoint, tensor: NativeTensor): Float32Array {
  const file = readFileSync(checkpoint.native.files[tensor.file] ?? '')
  const size = tensor.dtype === 'float32' ? 4 : 2
  const values = new Float32Array(tensor.rows * tensor.columns)
  for (let row = 0; row < tensor.rows; row++) {
    for (let column = 0; column < tensor.columns; column++) {
      const at = tensor.offset + size * (row * tensor.rowStride + column * tensor.columnStride)
      values[row * tensor.columns + column] = tensor.dtype === 'float32' ? file.readFloatLE(at) : widen(file.readUInt16LE(at), tensor.dtype)
    }
  }
  return values
}

function widen(bits: number, dtype: 'bfloat16' | 'float16'): number {
  const sign = bits & 0x8000 ? -1 : 1
  const [exponentBits, fractionBits] = dtype === 'bfloat16' ? [8, 7] : [5, 10]
  const exponent = (bits & 0x7fff) >> fractionBits
  const fraction = (bits & (2 ** fractionBits - 1)) / 2 ** fractionBits
  const bias = 2 ** (exponentBits - 1) - 1
  return sign * (exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias))
}
