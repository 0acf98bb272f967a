import { readFileSync, statSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ewe } from './run.js'

interface Report {
  config: { family: string; layers: number; headSize: number }
  weights: { dtype: string; storedDtypes: Record<string, number>; parameters: number; bytes: number }
  tokenizer: { entries: number; specialTokens: Record<string, number>; template: string } | null
  endIds: number[]
  memory: { byDtype: Record<string, Record<string, number>>; missing?: string }
  files: { name: string; bytes: number }[]
}

async function report(folder: string, env: NodeJS.ProcessEnv = {}): Promise<Report> {
  const { code, stdout, stderr } = await ewe(['inspect', '--json', folder], '', env)
  assert.is(code, 0, stderr)
  return JSON.parse(stdout) as Report
}

test('a folder is described in words', async () => {
  const { code, stdout, stderr } = await ewe(['inspect', 'models/lamb'])
  assert.is(code, 0)
  assert.is(stderr, '')
  for (const expected of [
    /^family +GPT-NeoX, parallel residual$/m,
    /^parameters +3,462,144 \(3\.5 M\)$/m,
    /^weights +6\.6 MiB, bfloat16 \(76 tensors\)$/m,
    /^heads +6 of 32, 8 of them rotated /m,
    /^special tokens .*"### End" 2048/m,
    /^template +dolly-v2$/m,
    /^ends at ids +2048, 0$/m,
    /^ {2}dtype +weights +cache +work +all$/m,
    /^ {2}float32 +13\.2 MiB /m,
    /^ {2}model\.safetensors +6\.6 MiB$/m,
  ]) {
    assert.match(stdout, expected)
  }
})

test('JSON holds the same as numbers, with the memory that a load takes', async () => {
  const { config, weights, tokenizer, endIds, memory, files } = await report('models/lamb')
  assert.equal([config.family, config.layers, config.headSize], ['GPT-NeoX', 6, 32])
  assert.equal([weights.dtype, weights.parameters, weights.bytes], ['bfloat16', 3462144, 2 * 3462144])
  assert.is(tokenizer?.specialTokens['### End'], 2048)
  assert.is(tokenizer?.template, 'dolly-v2')
  assert.equal(endIds, [2048, 0])
  assert.equal(Object.keys(memory.byDtype), ['float32', 'bfloat16', 'float16', 'int8'])
  assert.is(memory.byDtype['float32']?.['weights'], 2 * (memory.byDtype['bfloat16']?.['weights'] ?? 0))
  assert.is(files.find(({ name }) => name === 'model.safetensors')?.bytes, statSync('models/lamb/model.safetensors').size)
})

test('without the addon the weights are computed, and that is said', async () => {
  const gone = { EWE_NATIVE: '/gone/ewe.node' }
  const { memory } = await report('models/lamb', gone)
  assert.equal(memory.byDtype['float16'], { weights: 2 * 3462144 })
  assert.equal(memory.byDtype['int8'], { weights: 3462144 + 2 * 2064 * 192 }) // the input table and the head stay in 16 bits
  assert.match(memory.missing ?? '', /could not be loaded/)
  assert.match((await ewe(['inspect', 'models/lamb'], '', gone)).stdout, /weights only, computed from their number: The native addon/)
})

test('models without a tokenizer and of the other family are described too', async () => {
  const folder = 'test/fixtures/gptj'
  const { config, tokenizer } = await report(folder)
  const stated = JSON.parse(readFileSync(`${folder}/config.json`, 'utf8')) as { n_layer: number }
  assert.equal([config.family, config.layers], ['GPT-J', stated.n_layer])
  assert.is(tokenizer, null)
  assert.match((await ewe(['inspect', folder])).stdout, /^tokenizer +none: this model takes token ids only$/m)
})

test('without a name the shipped model is described, and what is no model is refused', async () => {
  const shipped = await ewe(['inspect'])
  assert.match(shipped.stderr, /^ewe: using the small model that ships with ewe, lamb; .*\n$/)
  assert.match(shipped.stdout, /^folder .*models\/lamb$/m)
  const { code, stdout, stderr } = await ewe(['inspect', 'native'])
  assert.is(code, 1)
  assert.is(stdout, '')
  assert.match(stderr, /config\.json: is missing: this is no model folder \[EWE_CHECKPOINT\]\n$/)
})

test.run()
