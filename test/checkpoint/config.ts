import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readFolder } from '../../src/checkpoint/checkpoint.js'
import { readConfig } from '../../src/checkpoint/config.js'
import { readGeneration } from '../../src/checkpoint/generation.js'
import { readValues, Values } from '../../src/checkpoint/values.js'
import { assertRefused, gptjConfig, gptjShapes, memoryFolder, memorySource, model, neoxConfig, neoxShapes } from './build.js'

const read = (config: object) => readConfig(Values.parse(Buffer.from(JSON.stringify(config)), '/model/config.json'))
const reading = async (config: object | string | Buffer) => {
  const bytes = Buffer.isBuffer(config) ? config : Buffer.from(typeof config === 'string' ? config : JSON.stringify(config))
  return readConfig(await readValues(memorySource('/model/config.json', bytes)))
}

test('defaults of GPT-NeoX where config.json says nothing', () => {
  const spec = read({ model_type: 'gpt_neox' })
  const { family, vocab, hidden, layers, heads, kvHeads, headSize, inner, rotarySize, rotaryBase, maxPositions, normEps } = spec
  assert.equal(
    { family, vocab, hidden, layers, heads, kvHeads, headSize, inner, rotarySize, rotaryBase, maxPositions, normEps },
    {
      family: 'GPT-NeoX',
      vocab: 50432,
      hidden: 6144,
      layers: 44,
      heads: 64,
      kvHeads: 64,
      headSize: 96,
      inner: 24576,
      rotarySize: 24,
      rotaryBase: 10000,
      maxPositions: 2048,
      normEps: 1e-5,
    },
  )
  const { parallel, sharedNorm, activation, tied, attentionBias, hasHeadBias, initializerRange, bosTokenId, eosTokenIds, padTokenId } = spec
  assert.equal(
    { parallel, sharedNorm, activation, tied, attentionBias, hasHeadBias, initializerRange, bosTokenId, eosTokenIds, padTokenId },
    {
      parallel: true,
      sharedNorm: false,
      activation: 'gelu',
      tied: false,
      attentionBias: true,
      hasHeadBias: false,
      initializerRange: 0.02,
      bosTokenId: 0,
      eosTokenIds: [2],
      padTokenId: undefined,
    },
  )
})

test('defaults of GPT-J where config.json says nothing', () => {
  const spec = read({ model_type: 'gptj' })
  const {
    family,
    vocab,
    hidden,
    layers,
    heads,
    headSize,
    inner,
    rotarySize,
    rotaryBase,
    parallel,
    sharedNorm,
    activation,
    hasHeadBias,
    eosTokenIds,
  } = spec
  assert.equal(
    { family, vocab, hidden, layers, heads, headSize, inner, rotarySize, rotaryBase, parallel, sharedNorm, activation, hasHeadBias, eosTokenIds },
    {
      family: 'GPT-J',
      vocab: 50400,
      hidden: 4096,
      layers: 28,
      heads: 16,
      headSize: 256,
      inner: 16384,
      rotarySize: 64,
      rotaryBase: 10000,
      parallel: true,
      sharedNorm: true,
      activation: 'geluTanh',
      hasHeadBias: true,
      eosTokenIds: [50256],
    },
  )
})

test('old and new spelling of the rotation mean the same, and the new one wins', () => {
  const old = read({ ...neoxConfig, rotary_pct: 1.0, rotary_emb_base: 5000 })
  const { rotary_pct: _, ...rest } = neoxConfig
  const fresh = read({ ...rest, rope_parameters: { rope_type: 'default', rope_theta: 5000.0, partial_rotary_factor: 1 } })
  assert.equal([old.rotarySize, old.rotaryBase], [4, 5000])
  assert.equal([fresh.rotarySize, fresh.rotaryBase], [4, 5000])
  assert.is(read({ ...neoxConfig, rotary_emb_base: 7, rope_parameters: { rope_theta: 5000 } }).rotaryBase, 5000)
})

test('flat rope_theta and partial_rotary_factor mean nothing to GPT-NeoX', () => {
  const spec = read({ ...neoxConfig, rope_theta: 7, partial_rotary_factor: 1 })
  assert.equal([spec.rotarySize, spec.rotaryBase], [2, 10000])
})

test('the rotated size is cut toward zero: 25 % of 80 and of 96', () => {
  const rotated = (hidden: number, heads: number) => read({ model_type: 'gpt_neox', hidden_size: hidden, num_attention_heads: heads }).rotarySize
  assert.equal([rotated(2560, 32), rotated(6144, 64), rotated(88 * 2, 2)], [20, 24, 22])
})

test('numbers may be floats, null counts as absent, and unknown keys are passed over', () => {
  const spec = read({
    ...neoxConfig,
    hidden_size: 8.0,
    tie_word_embeddings: null,
    rope_scaling: null,
    custom_pipelines: { a: [1] },
    is_decoder: false,
  })
  assert.equal([spec.hidden, spec.tied], [8, false])
  assert.is(read({ ...gptjConfig, n_inner: null }).inner, 32)
  assert.is(read({ ...gptjConfig, n_inner: 20 }).inner, 20)
})

test('GPT-J keys are read under their general names too', () => {
  const spec = read({
    model_type: 'gptj',
    hidden_size: 512,
    num_hidden_layers: 2,
    num_attention_heads: 8,
    max_position_embeddings: 99,
    rotary_dim: 64,
  })
  assert.equal([spec.hidden, spec.layers, spec.heads, spec.maxPositions], [512, 2, 8, 99])
})

test('token ids: one, several, or none by null', () => {
  assert.equal(read({ ...neoxConfig, eos_token_id: [3, 1] }).eosTokenIds, [3, 1])
  assert.equal(read({ ...neoxConfig, eos_token_id: 0 }).eosTokenIds, [0])
  assert.equal(read({ ...neoxConfig, eos_token_id: null }).eosTokenIds, [])
  assert.is(read({ ...neoxConfig, pad_token_id: 1 }).padTokenId, 1)
})

test('every activation of the families has its class', () => {
  const classes = {
    gelu: 'gelu',
    gelu_python: 'gelu',
    gelu_new: 'geluTanh',
    gelu_pytorch_tanh: 'geluTanh',
    gelu_python_tanh: 'geluTanh',
    gelu_accurate: 'geluTanh',
    gelu_fast: 'geluTanh',
    gelu_10: 'geluClipped',
    quick_gelu: 'quickGelu',
    silu: 'silu',
    swish: 'silu',
    relu: 'relu',
  }
  for (const [name, activation] of Object.entries(classes)) assert.is(read({ ...neoxConfig, hidden_act: name }).activation, activation)
})

test('the dtype that config.json states is kept under both spellings', () => {
  assert.is(read({ ...neoxConfig, torch_dtype: 'float16' }).statedDtype, 'float16')
  assert.is(read({ ...neoxConfig, dtype: 'bfloat16' }).statedDtype, 'bfloat16')
  assert.is(read(neoxConfig).statedDtype, undefined)
})

const refused: [name: string, changes: object, key: string, says: RegExp][] = [
  ['an unknown model_type', { model_type: 'gpt_neox_japanese' }, 'model_type', /one of the families .* but it is "gpt_neox_japanese"/],
  ['another family in architectures', { architectures: ['GPTJForCausalLM'] }, 'architectures', /GPTNeoXForCausalLM/],
  ['a classifier', { architectures: ['GPTNeoXForSequenceClassification'] }, 'architectures', /list with GPTNeoXForCausalLM/],
  ['architectures of another type', { architectures: 'GPTNeoXForCausalLM' }, 'architectures', /list with/],
  ['neither model_type nor architectures', { model_type: undefined, architectures: undefined }, 'architectures', /one that ewe runs/],
  ['a width that heads do not divide', { num_attention_heads: 3 }, 'num_attention_heads', /a width of 8 cannot be divided into 3 heads/],
  ['an odd rotation', { hidden_size: 24, num_attention_heads: 2, rotary_pct: 0.25 }, 'rotary_pct', /rotates 3 of 12 components/],
  ['no rotation', { rotary_pct: 0.1 }, 'rotary_pct', /rotates 0 of 4/],
  ['a rotation beyond the head', { rotary_pct: 1.5 }, 'rotary_pct', /from 0 to 1 but it is 1.5/],
  ['a linear rotation', { rope_scaling: { type: 'linear', factor: 2 } }, 'rope_scaling.type', /scaled rotations are not run, but it is "linear"/],
  ['a dynamic rotation', { rope_parameters: { rope_type: 'dynamic', factor: 2 } }, 'rope_parameters.rope_type', /"dynamic"/],
  ['a factor without a type', { rope_scaling: { factor: 2 } }, 'rope_scaling.factor', /it is 2/],
  ['a rotation that is no object', { rope_parameters: 3 }, 'rope_parameters', /an object but it is 3/],
  ['a base of zero', { rotary_emb_base: 0 }, 'rotary_emb_base', /from 1 to/],
  ['an unknown activation', { hidden_act: 'gelu_twice' }, 'hidden_act', /one of gelu, .* but it is "gelu_twice"/],
  ['an activation from the prototype', { hidden_act: 'constructor' }, 'hidden_act', /one of gelu/],
  ['quantised weights', { quantization_config: { bits: 4 } }, 'quantization_config', /quantised/],
  ['no layers', { num_hidden_layers: 0 }, 'num_hidden_layers', /from 1 to 16384 but it is 0/],
  ['a negative width', { hidden_size: -8 }, 'hidden_size', /it is -8/],
  ['half a width', { hidden_size: 8.5 }, 'hidden_size', /it is 8.5/],
  ['a width as text', { hidden_size: '8' }, 'hidden_size', /it is "8"/],
  ['a width as object', { hidden_size: {} }, 'hidden_size', /it is an object/],
  ['an activation as number', { hidden_act: 3 }, 'hidden_act', /a text but it is 3/],
  ['a width as flag', { hidden_size: true }, 'hidden_size', /it is true/],
  ['a width as list', { hidden_size: [8] }, 'hidden_size', /it is \[8\]/],
  ['a width beyond all models', { hidden_size: 2 ** 40, num_attention_heads: 2 }, 'hidden_size', /to 1048576/],
  ['more heads than native numbers hold', { num_attention_heads: 2 ** 32 }, 'num_attention_heads', /to 65536/],
  ['a vocabulary of 2^53', { vocab_size: 2 ** 53 }, 'vocab_size', /to 67108864/],
  ['positions of 1e300', { max_position_embeddings: 1e300 }, 'max_position_embeddings', /1e\+300/],
  ['an eps of zero', { layer_norm_eps: 0 }, 'layer_norm_eps', /it is 0/],
  ['a negative eps', { layer_norm_eps: -1e-5 }, 'layer_norm_eps', /-0.00001/],
  ['a flag as number', { use_parallel_residual: 1 }, 'use_parallel_residual', /true or false but it is 1/],
  ['a negative end id', { eos_token_id: -1 }, 'eos_token_id', /token id/],
  ['an end id in a list in a list', { eos_token_id: [[1]] }, 'eos_token_id', /list of 1/],
  ['too many end ids', { eos_token_id: new Array(2000).fill(1) }, 'eos_token_id', /list of 2000/],
]
for (const [name, changes, key, says] of refused) {
  test(`config.json is refused with its key and number: ${name}`, () =>
    assertRefused(reading({ ...neoxConfig, ...changes }), 'config.json', says, key))
}

test('config.json is refused with its key and number: a rotary_dim of GPT-J that is null, odd or beyond the head', async () => {
  await assertRefused(reading({ ...gptjConfig, rotary_dim: null }), 'config.json', /null asks for a frequency table/, 'rotary_dim')
  await assertRefused(reading({ ...gptjConfig, rotary_dim: 3 }), 'config.json', /rotates 3 of 4/, 'rotary_dim')
  await assertRefused(reading({ ...gptjConfig, rotary_dim: 6 }), 'config.json', /rotates 6 of 4/, 'rotary_dim')
  await assertRefused(reading({ model_type: 'gptj', n_embd: 64, n_head: 4 }), 'config.json', /rotates 64 of 16/, 'rotary_dim')
})

const broken: [name: string, text: string, says: RegExp][] = [
  ['nothing', '', /expected a number/],
  ['a list', '[]', /no JSON object/],
  ['NaN', '{"hidden_size": NaN}', /expected a number/],
  ['Infinity', '{"hidden_size": -Infinity}', /expected a number/],
  ['a duplicate key', '{"hidden_size": 8, "hidden_size": 16}', /duplicate key "hidden_size"/],
  ['a duplicate key by escape', '{"hidden_size": 8, "hidden\\u005fsize": 16}', /duplicate key "hidden_size"/],
  ['a number of a thousand digits', `{"hidden_size": 1${'0'.repeat(1000)}}`, /a number of 1001 digits/],
  ['nesting of 100,000', `{"a": ${'['.repeat(100_000)}`, /nested deeper than 64/],
  ['a text of two megabytes', `{"a": "${'a'.repeat(2 ** 21)}"}`, /a string of 2097152 bytes, at most 1048576/],
  ['200,000 values', `{"a": [${'1,'.repeat(200_000)}1]}`, /more than 100000 values/],
  ['a comment', '{/* */}', /expected a key/],
  ['a comma too many', '{"a": 1,}', /expected a key/],
  ['no comma', '{"a": 1 "b": 2}', /expected ","/],
  ['no colon', '{"a" 1}', /expected ":"/],
  ['text behind', '{} {}', /more text/],
  ['a text without an end', '{"a', /ends inside a string/],
  ['an end inside an escape', '{"a\\', /ends inside a string/],
  ['an unknown escape', '{"\\x41": 1}', /unknown escape/],
  ['a short escape', '{"\\u12": 1}', /unknown escape/],
  ['half a surrogate pair', '{"\\ud800": 1}', /half a surrogate pair/],
  ['a control character', '{"a\nb": 1}', /control character/],
  ['a leading zero', '{"a": 01}', /expected a number/],
  ['a byte order mark', '\ufeff{}', /expected a number/],
  ['a word cut off', '{"a": tru}', /expected true/],
]
for (const [name, text, says] of broken) {
  test(`config.json is refused: ${name}`, () => assertRefused(reading(text), 'config.json', says))
}

test('config.json is refused: bytes that are no UTF-8', () =>
  assertRefused(reading(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])), 'config.json', /not UTF-8/))

test('config.json may hold any JSON that is not wanted', () => {
  const text = '{"model_type":"gpt_neox","a":[1e999,-0.5e-3,"\\ud83d\\ude00\\n\\"",{"__proto__":{"x":[]},"":null}],"constructor":1,"é":"é"}'
  assert.is(readConfig(Values.parse(Buffer.from(text), '/model/config.json')).hidden, 6144)
})

test('sizes that the files cannot hold are refused before the tensors are looked at', async () => {
  const grown = { vocab_size: 2 ** 26, hidden_size: 2 ** 20, num_attention_heads: 2 ** 16, num_hidden_layers: 2 ** 14, rotary_pct: 1 }
  const files = memoryFolder(model(neoxConfig, neoxShapes(), grown))
  await assertRefused(
    readFolder(files),
    'model.safetensors',
    /16384 layers of width 1048576 and 12, 67108864 tokens\) need at least \d+ bytes, but the files have \d+/,
  )
})

test('a table that does not have the rows of vocab_size is refused', () =>
  assertRefused(
    readFolder(memoryFolder(model(neoxConfig, neoxShapes(), { vocab_size: 5 }))),
    'model.safetensors',
    /shape \[6, 8\], expected \[5, 8\]/,
    'gpt_neox.embed_in.weight',
  ))

test('generation_config.json: what it says, typed, and nothing more', () => {
  const parse = (value: object) => readGeneration(Values.parse(Buffer.from(JSON.stringify(value)), '/model/generation_config.json'))
  assert.equal(parse({ _from_model_config: true, transformers_version: '5.23.0' }), {})
  const full = { bos_token_id: 1, eos_token_id: [2, 3], pad_token_id: 4, do_sample: true, temperature: 0.7, top_k: 0, top_p: 0.92 }
  assert.equal(parse({ ...full, repetition_penalty: 1.1, max_new_tokens: 256, max_length: 2048 }), {
    bosTokenId: 1,
    eosTokenIds: [2, 3],
    padTokenId: 4,
    doSample: true,
    temperature: 0.7,
    topK: 0,
    topP: 0.92,
    repetitionPenalty: 1.1,
    maxNewTokens: 256,
    maxLength: 2048,
  })
})

for (const [key, value] of Object.entries({
  top_p: 1.5,
  top_k: -1,
  temperature: -1,
  repetition_penalty: 0,
  max_new_tokens: 1.5,
  do_sample: 'yes',
  eos_token_id: 'x',
})) {
  test(`generation_config.json is refused with its key: ${key} ${value}`, () => {
    const files = { ...model(gptjConfig, gptjShapes()), 'generation_config.json': JSON.stringify({ [key]: value }) }
    return assertRefused(readFolder(memoryFolder(files)), 'generation_config.json', new RegExp(`it is "?${value}`), key)
  })
}

test.run()
