import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readCheckpoint, readFolder } from '../../src/checkpoint/checkpoint.js'
import type { Checkpoint } from '../../src/checkpoint/checkpoint.js'
import { readConfig } from '../../src/checkpoint/config.js'
import { neox } from '../../src/checkpoint/neox.js'
import { qkvBlocks } from '../../src/checkpoint/placements.js'
import { Values } from '../../src/checkpoint/values.js'
import {
  assertRefused,
  elements,
  fill,
  gptjConfig,
  gptjShapes,
  layout,
  memoryFolder,
  model,
  neoxConfig,
  neoxShapes,
  placementOf,
  safetensors,
} from './build.js'

const fixtures: Record<string, { parameters: number; dtype: string; rotary: number; head: number; layers: number }> = {
  'neox-parallel': { parameters: 44320, dtype: 'float32', rotary: 4, head: 16, layers: 3 },
  'neox-sequential': { parameters: 44320, dtype: 'float32', rotary: 16, head: 16, layers: 3 },
  'neox-no-bias-tied': { parameters: 40864, dtype: 'float32', rotary: 4, head: 16, layers: 3 },
  'neox-head80': { parameters: 155424, dtype: 'float32', rotary: 20, head: 80, layers: 1 },
  'neox-head128': { parameters: 346944, dtype: 'bfloat16', rotary: 32, head: 128, layers: 1 },
  gptj: { parameters: 43840, dtype: 'float32', rotary: 8, head: 16, layers: 3 },
  'gptj-head256': { parameters: 345504, dtype: 'float16', rotary: 64, head: 256, layers: 1 },
}

/** Row of `[heads, 3, headSize]` (GPT-NeoX) where component c of part s of a head lies, by the definition of the layout. */
function checkNeoxProjection(checkpoint: Checkpoint, slot: 'qkv' | 'qkvBias', layer: number): void {
  const { heads, headSize, rotarySize } = checkpoint.spec
  const { columns, tensors } = placementOf(checkpoint, slot, layer)
  const [tensor] = tensors
  assert.ok(tensor)
  const stored = elements(checkpoint, tensor)
  const placed = fill(checkpoint, slot, layer)
  for (let part = 0; part < 3; part++) {
    for (let head = 0; head < heads; head++) {
      for (let component = 0; component < headSize; component++) {
        const source = (head * 3 + part) * headSize + component
        // Half-split pairs (j, j + r/2) become (2j, 2j + 1); values are not rotated.
        let target = component
        if (part < 2 && component < rotarySize) target = component < rotarySize / 2 ? 2 * component : 2 * (component - rotarySize / 2) + 1
        const row = (part * heads + head) * headSize + target
        const is = placed.subarray(row * columns, (row + 1) * columns)
        assert.equal(
          is,
          stored.subarray(source * columns, (source + 1) * columns),
          `${slot} ${layer}: part ${part}, head ${head}, component ${component}`,
        )
      }
    }
  }
}

for (const [name, expected] of Object.entries(fixtures)) {
  test(`${name}: sizes, dtype, and every slot of every layer filled with the right shape`, async () => {
    const checkpoint = await readCheckpoint(`test/fixtures/${name}`)
    const { spec } = checkpoint
    assert.is(checkpoint.parameters, expected.parameters)
    assert.is(checkpoint.dtype, expected.dtype)
    assert.is(checkpoint.tensorsBytes, expected.parameters * (expected.dtype === 'float32' ? 4 : 2))
    assert.is(spec.rotarySize, expected.rotary)
    assert.is(spec.headSize, expected.head)
    assert.is(spec.layers, expected.layers)
    assert.equal(checkpoint.generation, { bosTokenId: 0, eosTokenIds: [0] })
    const perLayer = name.startsWith('gptj') ? 8 : name === 'neox-no-bias-tied' ? 10 : 12
    assert.is(checkpoint.native.placements.length, perLayer * spec.layers + (name.startsWith('gptj') ? 5 : 4))
    for (const { slot, layer, rows, columns } of checkpoint.native.placements) assert.is(fill(checkpoint, slot, layer).length, rows * columns)
  })
}

for (const name of ['neox-parallel', 'neox-sequential', 'neox-no-bias-tied', 'neox-head80', 'neox-head128']) {
  test(`${name}: the fused projection becomes queries, keys, values with rotary pairs adjacent, biases too`, async () => {
    const checkpoint = await readCheckpoint(`test/fixtures/${name}`)
    for (let layer = 0; layer < checkpoint.spec.layers; layer++) {
      checkNeoxProjection(checkpoint, 'qkv', layer)
      if (checkpoint.spec.attentionBias) checkNeoxProjection(checkpoint, 'qkvBias', layer)
    }
  })
}

for (const name of ['gptj', 'gptj-head256']) {
  test(`${name}: three projections are stacked as queries, keys, values in the order of their rows`, async () => {
    const checkpoint = await readCheckpoint(`test/fixtures/${name}`)
    for (let layer = 0; layer < checkpoint.spec.layers; layer++) {
      const { tensors } = placementOf(checkpoint, 'qkv', layer)
      assert.equal(
        tensors.map((tensor) => tensor.name),
        ['q', 'k', 'v'].map((one) => `transformer.h.${layer}.attn.${one}_proj.weight`),
      )
      const stacked = tensors.flatMap((tensor) => [...elements(checkpoint, tensor)])
      assert.equal([...fill(checkpoint, 'qkv', layer)], stacked)
      // Heads that stay together are one block.
      assert.is(placementOf(checkpoint, 'qkv', layer).blocks.length, 3 * 6)
    }
    assert.is(placementOf(checkpoint, 'headBias').tensors[0]?.name, 'lm_head.bias')
  })
}

test('a stacked projection with fewer key-value heads keeps its rows, with rotary pairs adjacent in queries and keys', () => {
  const spec = readConfig(
    Values.parse(Buffer.from('{"model_type":"gpt_neox","hidden_size":16,"num_attention_heads":4,"rotary_pct":1}'), 'config.json'),
  )
  const blocks = qkvBlocks({ ...spec, kvHeads: 2 }, { ...neox, qkvLayout: 'stacked' })
  const sources = new Array<number>(32).fill(-1)
  for (let i = 0; i < blocks.length; i += 6) {
    const [tensor = 0, source = 0, sourceStep = 0, target = 0, targetStep = 0, count = 0] = blocks.subarray(i, i + 6)
    assert.is(tensor, 0)
    for (let j = 0; j < count; j++) sources[target + j * targetStep] = source + j * sourceStep
  }
  // Six heads of queries and keys with components 0 2 1 3, then two heads of values as they are.
  const rotated = Array.from({ length: 6 }, (_, head) => [0, 2, 1, 3].map((component) => 4 * head + component)).flat()
  assert.equal(sources, [...rotated, 24, 25, 26, 27, 28, 29, 30, 31])
})

test('a tied head is placed from the input table, and its weights are counted once', async () => {
  const checkpoint = await readCheckpoint('test/fixtures/neox-no-bias-tied')
  assert.equal(placementOf(checkpoint, 'head').tensors, placementOf(checkpoint, 'embed').tensors)
  assert.ok(checkpoint.spec.tied)
})

test('files saved from the bare model, without the prefix, are read when the head is there or tied', async () => {
  const named = await readFolder(memoryFolder(model(neoxConfig, neoxShapes(''))))
  assert.is(placementOf(named, 'qkv', 1).tensors[0]?.name, 'layers.1.attention.query_key_value.weight')
  const { 'embed_out.weight': _, ...headless } = neoxShapes('')
  const tied = await readFolder(memoryFolder(model(neoxConfig, headless, { tie_word_embeddings: true })))
  assert.is(placementOf(tied, 'head').tensors[0]?.name, 'embed_in.weight')
  await assertRefused(
    readFolder(memoryFolder(model(neoxConfig, headless))),
    'model.safetensors',
    /without its head give no text/,
    'embed_out.weight or lm_head.weight',
  )
})

test('the head of GPT-NeoX is read under both of its names', async () => {
  const { 'embed_out.weight': head = [], ...rest } = neoxShapes()
  const checkpoint = await readFolder(memoryFolder(model(neoxConfig, { ...rest, 'lm_head.weight': head })))
  assert.is(placementOf(checkpoint, 'head').tensors[0]?.name, 'lm_head.weight')
})

test('a tied GPT-J still has its head bias', async () => {
  const { 'lm_head.weight': _, ...rest } = gptjShapes()
  const checkpoint = await readFolder(memoryFolder(model(gptjConfig, rest, { tie_word_embeddings: true })))
  assert.is(placementOf(checkpoint, 'head').tensors[0]?.name, 'transformer.wte.weight')
  assert.is(placementOf(checkpoint, 'headBias').tensors[0]?.name, 'lm_head.bias')
})

test('masks and tables of old versions are passed over by whole endings, whatever their dtype', async () => {
  const entries = layout(neoxShapes())
  const end = Math.max(...Object.values(entries).map((entry) => entry.data_offsets[1]))
  const old = {
    'gpt_neox.layers.0.attention.bias': { dtype: 'BOOL', shape: [1, 1, 4, 4], data_offsets: [end, end + 16] as [number, number] },
    'gpt_neox.layers.0.attention.masked_bias': { dtype: 'F16', shape: [], data_offsets: [end + 16, end + 18] as [number, number] },
    'gpt_neox.layers.0.attention.rotary_emb.inv_freq': { dtype: 'F16', shape: [1], data_offsets: [end + 18, end + 20] as [number, number] },
  }
  const files = { 'config.json': JSON.stringify(neoxConfig), 'model.safetensors': safetensors({ ...entries, ...old }) }
  const checkpoint = await readFolder(memoryFolder(files))
  assert.is(placementOf(checkpoint, 'outBias').tensors[0]?.name, 'gpt_neox.layers.0.attention.dense.bias')
})

test('a shard index is read, and extra tensors of a shard that it does not name are not used', async () => {
  const all = Object.entries(neoxShapes())
  const parts = [all.slice(0, 9), all.slice(9)]
  const files: Record<string, string | Uint8Array> = { 'config.json': JSON.stringify(neoxConfig) }
  const weightMap: Record<string, string> = {}
  for (const [i, part] of parts.entries()) {
    const shard = `model-0000${i + 1}-of-00002.safetensors`
    files[shard] = safetensors(layout(Object.fromEntries([...part, ['leftover', [3]]])))
    for (const [name] of part) weightMap[name] = shard
  }
  files['model.safetensors.index.json'] = JSON.stringify({ metadata: { total_size: 1 }, weight_map: weightMap })
  const checkpoint = await readFolder(memoryFolder(files))
  assert.equal(checkpoint.native.files, ['/model/model-00001-of-00002.safetensors', '/model/model-00002-of-00002.safetensors'])
  assert.is(placementOf(checkpoint, 'head').tensors[0]?.file, 1)
  assert.is(placementOf(checkpoint, 'embed').tensors[0]?.file, 0)
})

test('one file is preferred to an index, and safetensors to a pickle', async () => {
  const files = { ...model(neoxConfig, neoxShapes()), 'model.safetensors.index.json': '{', 'pytorch_model.bin': 'x' }
  assert.equal((await readFolder(memoryFolder(files))).native.files, ['/model/model.safetensors'])
})

test('the dtype of a checkpoint is the one that most of its bytes have', async () => {
  const entries = layout(neoxShapes())
  const [first, second] = [entries['gpt_neox.embed_in.weight'], entries['embed_out.weight']]
  assert.ok(first && second)
  // The head is the last tensor: as float16 the file is shorter, nothing else moves.
  entries['embed_out.weight'] = { dtype: 'F16', shape: [6, 8], data_offsets: [second.data_offsets[0], second.data_offsets[0] + 96] }
  const checkpoint = await readFolder(memoryFolder({ 'config.json': JSON.stringify(neoxConfig), 'model.safetensors': safetensors(entries) }))
  assert.is(checkpoint.dtype, 'float32')
  assert.is(placementOf(checkpoint, 'head').tensors[0]?.dtype, 'float16')
})

test('an aborted signal ends the reading with its reason', async () => {
  const reason = new Error('enough')
  let caught: unknown
  await readCheckpoint('test/fixtures/gptj', { signal: AbortSignal.abort(reason) }).catch((error: unknown) => (caught = error))
  assert.is(caught, reason)
})

test.run()
