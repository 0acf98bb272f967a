import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readFolder } from '../../src/checkpoint/checkpoint.js'
import { readSafetensors } from '../../src/checkpoint/safetensors.js'
import { CheckpointError } from '../../src/errors.js'
import {
  assertRefused,
  gptjConfig,
  gptjShapes,
  layout,
  memoryFolder,
  memorySource,
  model,
  neoxConfig,
  neoxShapes,
  rawSafetensors,
  safetensors,
} from './build.js'
import type { Entry, Files } from './build.js'

const read = async (bytes: Uint8Array) => readSafetensors(memorySource('/model/model.safetensors', bytes))

/** The tensor `a` of two F32, changed. */
const one = (changes: object) => `{"a":${JSON.stringify({ dtype: 'F32', shape: [2], data_offsets: [0, 8], ...changes })}}`
/** The same with a field as literal text. */
const literal = (dtype: string, shape: string, offsets: string) => `{"a":{"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}}}`

function stated(length: bigint, rest = 100): Buffer {
  const bytes = Buffer.alloc(8 + rest, 0x20)
  bytes.writeBigUInt64LE(length)
  return bytes
}

test('a header is read: dtypes, shapes, strides and absolute offsets, in the order of the file', async () => {
  const entries: Record<string, Entry> = {
    scalar: { dtype: 'I64', shape: [], data_offsets: [0, 8] },
    empty: { dtype: 'F16', shape: [0, 5], data_offsets: [8, 8] },
    matrix: { dtype: 'BF16', shape: [2, 3], data_offsets: [8, 20] },
  }
  const header = `${JSON.stringify({ __metadata__: { format: 'pt' }, ...entries })}   `
  const at = 8 + header.length
  assert.equal(await read(rawSafetensors(header, 20)), [
    { name: 'scalar', dtype: 'I64', shape: [], strides: [], offset: at, bytes: 8, file: '/model/model.safetensors' },
    { name: 'empty', dtype: 'F16', shape: [0, 5], strides: [5, 1], offset: at + 8, bytes: 0, file: '/model/model.safetensors' },
    { name: 'matrix', dtype: 'BF16', shape: [2, 3], strides: [3, 1], offset: at + 8, bytes: 12, file: '/model/model.safetensors' },
  ])
})

test('a file without tensors is read', async () => assert.equal(await read(rawSafetensors('{}', 0)), []))

const damaged: [name: string, bytes: Uint8Array, says: RegExp, tensor?: string][] = [
  ['an empty file', Buffer.alloc(0), /has 0 bytes, too few/],
  ['seven bytes', Buffer.alloc(7), /has 7 bytes, too few/],
  ['no header', stated(0n, 0), /does not begin with "{"/],
  ['random bytes', Buffer.from('k3Jx91mQpZ0aLw72vNc8Tb5yRs4dFg6hUo', 'latin1'), /states a header of \d{19} bytes, but at most 26 are possible/],
  ['a length of 2^63 - 1', stated(2n ** 63n - 1n), /header of 9223372036854775807 bytes/],
  ['a length of 2^63', stated(2n ** 63n), /header of 9223372036854775808 bytes/],
  ['a length of 2^64 - 1', stated(2n ** 64n - 1n), /header of 18446744073709551615 bytes/],
  ['a length that overflows with its own eight bytes', stated(2n ** 64n - 8n), /header of/],
  ['a length one beyond the file', stated(101n), /at most 100 are possible in a file of 108 bytes/],
  ['white space before the header', rawSafetensors(' {}', 0), /does not begin with "{"/],
  ['a byte order mark', rawSafetensors('\ufeff{}', 0), /does not begin with "{"/],
  ['a header that is a list', rawSafetensors('[]', 0), /does not begin with "{"/],
  ['a header cut off', rawSafetensors(one({}).slice(0, -3), 8), /not valid JSON/],
  ['text after the header', rawSafetensors(`${one({})}x`, 8), /more text/],
  ['data cut off', rawSafetensors(one({}), 7), /lies at bytes 0 to 8 of 7/, 'a'],
  ['data too long', rawSafetensors(one({}), 9), /has 1 bytes after its last tensor/],
  ['data without tensors', rawSafetensors('{}', 4), /has 4 bytes after its last tensor/],
  ['a gap', rawSafetensors(one({ data_offsets: [4, 12] }), 12), /expected \d+: it leaves a gap/, 'a'],
  ['an end before its begin', rawSafetensors(one({ data_offsets: [8, 0] }), 8), /bytes 8 to 0/, 'a'],
  ['an offset of 2^53', rawSafetensors(literal('"F32"', '[2]', '[0,9007199254740992]'), 8), /9007199254740992 is above 2\^53 - 1/],
  ['an offset of 2^63', rawSafetensors(literal('"F32"', '[2]', '[9223372036854775808,9223372036854775816]'), 8), /above 2\^53 - 1/],
  ['an offset of a thousand digits', rawSafetensors(literal('"F32"', '[2]', `[0,${'9'.repeat(1000)}]`), 8), /above 2\^53 - 1/],
  ['a negative offset', rawSafetensors(literal('"F32"', '[2]', '[-8,0]'), 8), /expected a whole number/],
  ['an offset with a point', rawSafetensors(literal('"F32"', '[2]', '[0.0,8.0]'), 8), /expected a whole number/],
  ['an offset with an exponent', rawSafetensors(literal('"F32"', '[2]', '[0,8e0]'), 8), /expected a whole number/],
  ['an offset with a leading zero', rawSafetensors(literal('"F32"', '[2]', '[00,8]'), 8), /expected a whole number/],
  ['one offset', rawSafetensors(one({ data_offsets: [0] }), 8), /has 1 data_offsets/, 'a'],
  ['three offsets', rawSafetensors(one({ data_offsets: [0, 8, 8] }), 8), /has 3 data_offsets/, 'a'],
  ['no offsets', rawSafetensors('{"a":{"dtype":"F32","shape":[2]}}', 8), /has 0 data_offsets/, 'a'],
  ['no dtype', rawSafetensors('{"a":{"shape":[2],"data_offsets":[0,8]}}', 8), /no dtype/, 'a'],
  ['no shape', rawSafetensors('{"a":{"dtype":"F32","data_offsets":[0,4]}}', 4), /no shape/, 'a'],
  ['a wrong size for its dtype', rawSafetensors(one({ dtype: 'F16' }), 8), /has 8 bytes, but F16 \[2\] needs 4/, 'a'],
  ['an unknown dtype', rawSafetensors(one({ dtype: 'F4' }), 8), /unknown dtype "F4"/, 'a'],
  ['a dtype from the prototype', rawSafetensors(one({ dtype: 'constructor' }), 8), /unknown dtype "constructor"/, 'a'],
  ['a dtype that is a number', rawSafetensors(literal('4', '[2]', '[0,8]'), 8), /expected a string/],
  ['a shape whose product is 2^64', rawSafetensors(one({ shape: [2 ** 32, 2 ** 32] }), 8), /more than 2\^53 elements/, 'a'],
  ['a shape whose product wraps to the right size', rawSafetensors(one({ shape: [2 ** 33, 2 ** 31, 2] }), 8), /more than 2\^53 elements/, 'a'],
  ['a shape of 2^53 - 1', rawSafetensors(one({ shape: [2 ** 53 - 1] }), 8), /needs 36028797018963964/, 'a'],
  ['a negative size', rawSafetensors(one({ shape: [-2] }), 8), /expected a whole number/],
  ['NaN as size', rawSafetensors(literal('"F32"', '[NaN]', '[0,8]'), 8), /expected a whole number/],
  ['null as shape', rawSafetensors(literal('"F32"', 'null', '[0,8]'), 8), /expected an array/],
  ['a nested shape', rawSafetensors(literal('"F32"', '[[2]]', '[0,8]'), 8), /expected a whole number/],
  ['forty dimensions', rawSafetensors(one({ shape: new Array(40).fill(1) }), 8), /has 40 dimensions/, 'a'],
  ['a tensor that is null', rawSafetensors('{"a":null}', 0), /expected an object/],
  ['an unknown field', rawSafetensors(one({ sparse: true }), 8), /unknown field "sparse"/, 'a'],
  ['two tensors of one name', rawSafetensors(`${one({}).slice(0, -1)},${one({ data_offsets: [8, 16] }).slice(1)}`, 16), /duplicate key "a"/],
  ['a field twice', rawSafetensors('{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8), /duplicate key "dtype"/],
  ['an empty name', rawSafetensors('{"":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', 1), /name of 0 characters/],
  ['a name of 2000 characters', rawSafetensors(`{"${'n'.repeat(2000)}":{}}`, 0), /name of 2000 characters/],
  ['a name with a zero', rawSafetensors('{"a\\u0000b":{}}', 0), /control characters/],
  ['a name that is no UTF-8', rawSafetensors(Buffer.concat([Buffer.from('{"'), Buffer.from([0xc3, 0x28]), Buffer.from('":{}}')]), 0), /not UTF-8/],
  ['metadata that are no text', rawSafetensors('{"__metadata__":{"format":1}}', 0), /expected a string/],
  ['metadata twice', rawSafetensors('{"__metadata__":{},"__metadata__":{}}', 0), /duplicate key/],
  ['deep nesting', rawSafetensors(`{"a":${'{"a":'.repeat(100_000)}`, 0), /unknown field "a"/, 'a'],
]
for (const [name, bytes, says, tensor] of damaged) {
  test(`a safetensors file is refused: ${name}`, () => assertRefused(read(bytes), 'model.safetensors', says, tensor))
}

test('a safetensors file is refused: two tensors that overlap, by one byte or wholly', async () => {
  const entries = layout({ a: [2], b: [2] })
  for (const [begin, end] of [
    [7, 15],
    [0, 8],
    [4, 12],
  ] as const) {
    const header = JSON.stringify({ ...entries, b: { dtype: 'F32', shape: [2], data_offsets: [begin, end] } })
    await assertRefused(read(rawSafetensors(header, end)), 'model.safetensors', /it overlaps the tensor before it/, 'b')
  }
})

test('a safetensors file is refused: every truncation of a real one', async () => {
  const bytes = safetensors(layout(neoxShapes()))
  for (let length = 0; length < bytes.length; length += 13) {
    const result = await read(bytes.subarray(0, length)).catch((error: unknown) => error)
    assert.instance(result, CheckpointError, `${length} of ${bytes.length} bytes`)
  }
})

test('a header names at most 65536 tensors', async () => {
  const many = Array.from({ length: 65_537 }, (_, i) => `"${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`)
  assert.is((await read(rawSafetensors(`{${many.slice(1).join(',')}}`, 0))).length, 65_536)
  await assertRefused(read(rawSafetensors(`{${many.join(',')}}`, 0)), 'model.safetensors', /more than 65536 tensors/)
})

const shapes = neoxShapes()
const without = (name: string) => Object.fromEntries(Object.entries(shapes).filter(([key]) => key !== name))
const qkv = 'gpt_neox.layers.1.attention.query_key_value.weight'
const withDtype = (name: string, dtype: string): Files => {
  const entries = layout(shapes)
  for (const entry of Object.values(entries)) entry.dtype = 'F32'
  const entry = entries[name]
  if (entry !== undefined) entry.dtype = dtype
  return { 'config.json': JSON.stringify(neoxConfig), 'model.safetensors': safetensors(entries) }
}

const unfit: [name: string, files: Files, says: RegExp, tensor?: string][] = [
  ['a missing tensor', model(neoxConfig, without(qkv)), /is missing/, qkv],
  ['a missing bias', model(neoxConfig, without('gpt_neox.final_layer_norm.bias')), /is missing/, 'gpt_neox.final_layer_norm.bias'],
  [
    'a missing input table',
    model(neoxConfig, without('gpt_neox.embed_in.weight')),
    /holds? \d+ tensors, but not the input table of GPT-NeoX/,
    'gpt_neox.embed_in.weight',
  ],
  ['a missing head', model(neoxConfig, without('embed_out.weight')), /without its head/, 'embed_out.weight or lm_head.weight'],
  ['an extra tensor', model(neoxConfig, { ...shapes, extra: [3] }), /\[3\] belongs to nothing in a GPT-NeoX model of 2 layers/, 'extra'],
  ['two heads', model(neoxConfig, { ...shapes, 'lm_head.weight': [6, 8] }), /belongs to nothing/, 'lm_head.weight'],
  [
    'a layer more than config.json says',
    model(neoxConfig, neoxShapes('gpt_neox.', 3)),
    /belongs to nothing/,
    'gpt_neox.layers.2.input_layernorm.weight',
  ],
  ['a layer less than config.json says', model(neoxConfig, neoxShapes('gpt_neox.', 1)), /is missing/, 'gpt_neox.layers.1.input_layernorm.weight'],
  [
    'biases where config.json says none',
    model(neoxConfig, shapes, { attention_bias: false }),
    /belongs to nothing/,
    'gpt_neox.layers.0.attention.query_key_value.bias',
  ],
  ['a head beside a tied table', model(neoxConfig, shapes, { tie_word_embeddings: true }), /set that to false/, 'embed_out.weight'],
  ['a projection of another shape', model(neoxConfig, { ...shapes, [qkv]: [24, 9] }), /shape \[24, 9\], expected \[24, 8\] from config.json/, qkv],
  ['a projection transposed', model(neoxConfig, { ...shapes, [qkv]: [8, 24] }), /shape \[8, 24\], expected \[24, 8\]/, qkv],
  [
    'a norm with two dimensions',
    model(neoxConfig, { ...shapes, 'gpt_neox.final_layer_norm.bias': [8, 1] }),
    /\[8, 1\], expected \[8\]/,
    'gpt_neox.final_layer_norm.bias',
  ],
  ['an integer weight', withDtype(qkv, 'I32'), /has the dtype I32, expected F32, F16 or BF16/, qkv],
  [
    'a GPT-J projection of another shape',
    model(gptjConfig, { ...gptjShapes(), 'transformer.h.0.attn.k_proj.weight': [4, 8] }),
    /\[4, 8\], expected \[8, 8\]/,
    'transformer.h.0.attn.k_proj.weight',
  ],
  [
    'a GPT-J model without its head bias',
    model(gptjConfig, Object.fromEntries(Object.entries(gptjShapes()).slice(0, -1))),
    /is missing/,
    'lm_head.bias',
  ],
  ['a vector as head', model(neoxConfig, { ...shapes, 'embed_out.weight': [48] }), /\[48\], expected \[6, 8\]/, 'embed_out.weight'],
]
for (const [name, files, says, tensor] of unfit) {
  test(`tensors that do not fit the model are refused: ${name}`, () =>
    assertRefused(readFolder(memoryFolder(files)), 'model.safetensors', says, tensor))
}

test('no hostile header makes the process grow by more than a few megabytes', async () => {
  const before = process.resourceUsage().maxRSS
  for (let round = 0; round < 20; round++) {
    for (const [, bytes] of damaged) await read(bytes).catch(() => undefined)
    for (const [, files] of unfit) await readFolder(memoryFolder(files)).catch(() => undefined)
  }
  const grown = (process.resourceUsage().maxRSS - before) / 1024
  assert.ok(grown < 64, `${grown} MB`)
})

test.run()
