// A tiny model behind the real Dolly tokenizer: what databrickslabs/dolly's own templates and transformers compute.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Model } from '../../src/index.js'
import { readJson } from '../support/safetensors.js'

interface Case {
  instruction: string
  prompt_ids: number[]
  greedy: number[]
  text: string
}

test('generate reproduces the reference tokens from the instruction on (fp32, greedy)', async () => {
  const model = await Model.load('test/fixtures/dolly/model', { weights: 'float32' })
  const cases = readJson('test/fixtures/dolly/generate.json') as Case[]
  assert.ok(cases.length >= 4)
  for (const { instruction, prompt_ids, greedy, text } of cases) {
    const answer = await model.generate(instruction, { temperature: 0, maxNewTokens: greedy.length })
    assert.is(answer.promptTokens, prompt_ids.length)
    assert.equal(answer.tokens, greedy)
    assert.is(answer.text, text.trim())
    assert.equal((await model.complete(prompt_ids, { maxNewTokens: greedy.length })).tokens, greedy)
  }
  await model.dispose()
})

test.run()
