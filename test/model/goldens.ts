// Logits and greedy text of every reference checkpoint against what transformers computes from it.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Model, devices } from '../../src/index.js'
import type { LoadOptions } from '../../src/index.js'
import { readJson, readReference } from '../support/safetensors.js'

const names = ['neox-parallel', 'neox-sequential', 'neox-no-bias-tied', 'neox-head80', 'neox-head128', 'gptj', 'gptj-head256']
const sets = devices()[0]!.instructionSets!

interface Expected {
  greedy_prompt: number[]
  greedy: number[]
  first_token_logprobs: Record<string, number>
}

/** Largest and root mean square difference of logits where the mask is 1; each row is run without its padding. */
async function compare(model: Model, name: string): Promise<{ largest: number; rms: number; scale: number }> {
  const expected = readReference(`test/fixtures/${name}/expected.safetensors`)
  const { input_ids: ids, attention_mask: mask, logits } = expected
  const [rows, columns, vocab] = logits!.shape as [number, number, number]
  let largest = 0
  let squares = 0
  let scale = 0
  let count = 0
  for (let row = 0; row < rows; row++) {
    const kept = Array.from({ length: columns }, (_, column) => row * columns + column).filter((at) => mask!.data[at] === 1)
    const found = await model.logits(kept.map((at) => ids!.data[at]!))
    for (const [i, at] of kept.entries()) {
      for (let v = 0; v < vocab; v++) {
        const reference = logits!.data[at * vocab + v]!
        const difference = Math.abs(found[i * vocab + v]! - reference)
        assert.ok(Number.isFinite(difference), `${name}: logit ${v} of row ${row} is ${found[i * vocab + v]}, expected ${reference}`)
        largest = Math.max(largest, difference)
        squares += difference ** 2
        scale += reference ** 2
        count++
      }
    }
  }
  assert.ok(count > 1000)
  return { largest, rms: Math.sqrt(squares / count), scale: Math.sqrt(scale / count) }
}

async function withModel(name: string, options: LoadOptions, use: (model: Model) => Promise<void>): Promise<void> {
  const model = await Model.load(`test/fixtures/${name}`, { device: 'cpu', ...options })
  try {
    await use(model)
  } finally {
    await model.dispose()
  }
}

/**
 * Each product rounds its input and its weights, about eight roundings a layer and two at the head, each with a relative error of u / sqrt(3) rms. Their
 * effects add as independent errors of the logits' own scale; 6 standard deviations cover the largest of some ten thousand.
 */
function bound(layers: number, unit: number, scale: number): number {
  return (6 * scale * unit * Math.sqrt(8 * layers + 2)) / Math.sqrt(3)
}

for (const name of names) {
  for (const instructionSet of sets as NonNullable<LoadOptions['instructionSet']>[]) {
    test(`${name}: fp32 logits agree with transformers to 1e-5 and greedy text is the same (${instructionSet})`, async () => {
      await withModel(name, { weights: 'float32', instructionSet }, async (model) => {
        const { largest } = await compare(model, name)
        assert.ok(largest <= 1e-5, `largest difference ${largest}`)
        const { greedy_prompt, greedy } = readJson(`test/fixtures/${name}/expected.json`) as Expected
        const { tokens, finishReason } = await model.complete(greedy_prompt, { maxNewTokens: greedy.length, ignoreEos: true })
        assert.equal(tokens, greedy)
        assert.is(finishReason, 'length')
      })
    })

    for (const [weights, unit] of [['bfloat16', 2 ** -8], ['float16', 2 ** -11]] as const) {
      test(`${name}: ${weights} logits lie within the rounding of weights and inputs (${instructionSet})`, async () => {
        await withModel(name, { weights, instructionSet }, async (model) => {
          const { largest, scale } = await compare(model, name)
          const allowed = bound(model.config.layers, unit, scale)
          assert.ok(largest <= allowed, `largest difference ${largest}, allowed ${allowed}`)
        })
      })
    }
  }

  test(`${name}: log-probabilities of the first token are the reference's`, async () => {
    await withModel(name, { weights: 'float32' }, async (model) => {
      const { greedy_prompt, first_token_logprobs } = readJson(`test/fixtures/${name}/expected.json`) as Expected
      const { logprobs } = await model.complete(greedy_prompt, { maxNewTokens: 1, ignoreEos: true, logprobs: 5 })
      const expected = Object.entries(first_token_logprobs)
      assert.equal(new Set(logprobs![0]!.top.map(({ token }) => token)), new Set(expected.map(([token]) => Number(token))))
      for (const { token, logprob } of logprobs![0]!.top) assert.ok(Math.abs(logprob - first_token_logprobs[token]!) < 1e-5, `token ${token}: ${logprob}`)
      assert.equal({ token: logprobs![0]!.token, logprob: logprobs![0]!.logprob }, logprobs![0]!.top[0])
    })
  })
}

test.run()
