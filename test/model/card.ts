// The kernels' arithmetic through the whole library: the reference checkpoints and the shipped model on a card, or on the emulated cards of the paths 700
// (V100: float16) and 800 (A100 and newer: bfloat16), in every dtype they multiply.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Model, devices } from '../../src/index.js'
import type { LoadOptions } from '../../src/index.js'
import { device, emulated, onCpu } from '../support/device.js'
import { readJson, readLines, readReference } from '../support/safetensors.js'

type Weights = NonNullable<LoadOptions['weights']>
interface Case {
  id: string
  instruction: string
  context: string
  prompt_ids: number[]
  new_ids: number[]
  margins: number[]
}
interface Heldout {
  id: string
  closed: boolean
  instruction: string
  context: string
  response: string
}

const names = ['neox-parallel', 'neox-sequential', 'neox-no-bias-tied', 'neox-head80', 'neox-head128', 'gptj', 'gptj-head256']
const found = devices().filter(({ id }) => (onCpu ? id === 'emulator:700' || id === 'emulator:800' : id === device || id === `${device}:0`))
const units: Partial<Record<Weights, number>> = { bfloat16: 2 ** -8, float16: 2 ** -11 }

test('the cards to be tested are there', () => {
  assert.is(found.length, onCpu ? 2 : 1, `devices: ${devices().map(({ id }) => id).join(', ')}; node scripts/build.mjs --emulator builds the emulated ones`)
})

async function withModel<T>(folder: string, options: LoadOptions, use: (model: Model) => Promise<T>): Promise<T> {
  const model = await Model.load(folder, options)
  try {
    return await use(model)
  } finally {
    await model.dispose()
  }
}

interface Logits {
  values: Float32Array
  scale: number
}

/** Logits of each row of a reference without its padding, one after the other, and their root mean square. */
async function logitsOf(model: Model, name: string): Promise<Logits[]> {
  const { input_ids: ids, attention_mask: mask } = readReference(`test/fixtures/${name}/expected.safetensors`)
  const [rows, columns] = ids!.shape as [number, number]
  const all: Logits[] = []
  for (let row = 0; row < rows; row++) {
    const kept = Array.from({ length: columns }, (_, column) => row * columns + column).filter((at) => mask!.data[at] === 1)
    const values = await model.logits(kept.map((at) => ids!.data[at]!))
    all.push({ values, scale: Math.sqrt(values.reduce((sum, x) => sum + x ** 2, 0) / values.length) })
  }
  return all
}

function largestDifference(a: Logits[], b: Logits[]): number {
  let largest = 0
  for (const [row, { values }] of a.entries()) {
    assert.is(values.length, b[row]!.values.length)
    for (const [i, value] of values.entries()) {
      const difference = Math.abs(value - b[row]!.values[i]!)
      assert.ok(Number.isFinite(difference), `logit ${i} of row ${row} is ${value}`)
      largest = Math.max(largest, difference)
    }
  }
  return largest
}

/**
 * Eight roundings a layer to the activations' type (two norms, queries, keys, values, the attention's weights and output, the MLP's inside), as many of the
 * weights, and two of each at the head: each a relative error of unit / sqrt(3) rms that adds, as an independent one, in the logits' own scale. Six
 * standard deviations cover the largest of some ten thousand logits.
 */
function bound(layers: number, unit: number, scale: number): number {
  return (6 * scale * unit * Math.sqrt(16 * layers + 4)) / Math.sqrt(3)
}

for (const { id, weights: multiplied } of found) {
  const unit = units[multiplied.includes('bfloat16') ? 'bfloat16' : 'float16']!

  for (const name of names) {
    const folder = `test/fixtures/${name}`

    for (const weights of multiplied.filter((dtype) => dtype !== 'int8')) {
      test(`${id}, ${name}: ${weights} logits lie within the rounding of weights and activations`, async () => {
        const reference = await withModel(folder, { device: 'cpu', weights: 'float32' }, (model) => logitsOf(model, name))
        await withModel(folder, { device: id, weights }, async (model) => {
          const scale = Math.max(...reference.map((row) => row.scale))
          const allowed = bound(model.config.layers, units[weights]!, scale)
          const largest = largestDifference(await logitsOf(model, name), reference)
          console.log(`  ${id} ${name} ${weights}: ${largest.toPrecision(2)} of ${allowed.toPrecision(2)}`)
          assert.ok(largest <= allowed, `largest difference ${largest}, allowed ${allowed}`)
        })
      })
    }

    test(`${id}, ${name}: int8 weights are the CPU's numbers, so that logits differ by the activations' rounding`, async () => {
      const reference = await withModel(folder, { device: 'cpu', weights: 'int8' }, (model) => logitsOf(model, name))
      await withModel(folder, { device: id, weights: 'int8' }, async (model) => {
        const allowed = bound(model.config.layers, unit, Math.max(...reference.map((row) => row.scale)))
        const largest = largestDifference(await logitsOf(model, name), reference)
        console.log(`  ${id} ${name} int8: ${largest.toPrecision(2)} of ${allowed.toPrecision(2)}`)
        assert.ok(largest <= allowed, `largest difference ${largest}, allowed ${allowed}`)
      })
    })
  }

  test(`${id}: the shipped model's greedy text is the reference's wherever the margin exceeds the error`, async () => {
    const { cases } = readJson('test/fixtures/lamb/greedy.json') as { cases: Case[] }
    const some = cases.slice(0, emulated || onCpu ? 8 : cases.length)
    const scale = await withModel('models/lamb', { device: 'cpu', weights: 'float32' }, async (model) => {
      const logits = await model.logits(cases[0]!.prompt_ids)
      return Math.sqrt(logits.reduce((sum, x) => sum + x ** 2, 0) / logits.length)
    })
    const weights = multiplied.find((dtype) => dtype !== 'int8')!
    // Half of bound(): three standard deviations of each of two logits.
    const error = bound(6, unit, scale)
    await withModel('models/lamb', { device: id, weights }, async (model) => {
      let same = 0
      for (const one of some) {
        const { tokens } = await model.generate(one.instruction, { input: one.context, temperature: 0, maxNewTokens: 24 })
        const apart = one.new_ids.slice(0, 24).findIndex((token, i) => token !== tokens[i])
        if (apart === -1) same++
        else assert.ok(one.margins[apart]! <= error, `${one.id} parts at token ${apart}, where the margin is ${one.margins[apart]} and the error at most ${error}`)
      }
      console.log(`  ${id} ${weights}: ${same} of ${some.length} texts the same, error ${error.toFixed(2)}`)
      assert.ok(same > some.length / 2, `only ${same} of ${some.length} texts are the same`)
    })
  })

  for (const weights of multiplied.filter((dtype) => dtype === 'int8' || units[dtype] === unit)) {
    test(`${id}: ${weights} answers a sample of the held-out questions as rightly as the reference`, async () => {
      const { misses } = readJson('test/fixtures/lamb/eval.json') as { misses: { id: string }[] }
      const closed = readLines<Heldout>('test/fixtures/lamb/heldout.jsonl').filter((one) => one.closed)
      const every = Math.floor(closed.length / (emulated || onCpu ? 16 : 350))
      const sample = closed.filter((_, i) => i % every === 0)
      await withModel('models/lamb', { device: id, weights }, async (model) => {
        let right = 0
        for (const { instruction, context, response } of sample) {
          const { text } = await model.generate(instruction, { input: context, temperature: 0, maxNewTokens: 32 })
          right += Number(text === response)
        }
        const expected = sample.filter((one) => !misses.some((miss) => miss.id === one.id)).length
        console.log(`  ${id} ${weights}: ${right} of ${sample.length} right, transformers in float32 ${expected}`)
        // Thin margins may fall either way: of 770 texts the reference's own two arithmetics part in 14, five times that for eight bits.
        const slack = Math.ceil((weights === 'int8' ? 0.1 : 0.02) * sample.length) + 1
        assert.ok(right >= expected - slack, `${right} right, expected ${expected} less ${slack}`)
      })
    })
  }
}

test.run()
