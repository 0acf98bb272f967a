// The same bits for a request, whatever shares its step, however it is cut into steps and pages, on any number of threads and in any run.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { LoadOptions } from '../../src/index.js'
import { dtypes, emulated, load } from '../support/device.js'

const prompt = Array.from({ length: emulated ? 45 : 150 }, (_, i) => (i * 37 + 11) % 2048)
const sampling = { maxNewTokens: emulated ? 6 : 40, temperature: 1, topP: 0.95, seed: 42, ignoreEos: true, logprobs: 3 } as const

async function bits(options: LoadOptions): Promise<{ logits: Uint8Array; samples: unknown }> {
  const model = await load('models/lamb', { maxContext: 256, ...options })
  const logits = await model.logits(prompt)
  const { samples } = await model.complete(prompt, { ...sampling, n: 7 })
  await model.dispose()
  return { logits: new Uint8Array(logits.buffer), samples }
}

for (const weights of dtypes()) {
  let reference: Awaited<ReturnType<typeof bits>>

  test(`${weights}: a reference run gives seven samples that differ`, async () => {
    reference = await bits({ weights, threads: 1, chunk: 256, maxBatch: 8 })
    const different = new Set((reference.samples as { text: string }[]).map(({ text }) => text)).size
    assert.ok(emulated ? different > 3 : different === 7, `${different} of seven`) // of few tokens, some come twice
  })

  const variants: Record<string, LoadOptions> = {
    'the same run again': { threads: 1, chunk: 256, maxBatch: 8 },
    'prompt tokens one by one': { chunk: 1 },
    'chunks of 7': { chunk: 7 },
    'chunks of 33': { chunk: 33 },
    'pages of 16 tokens': { pageSize: 16 },
    'pages of 128 tokens': { pageSize: 128 },
    'samples one after the other': { maxBatch: 1 },
    'samples by twos': { maxBatch: 2 },
    '2 threads': { threads: 2 },
    '3 threads': { threads: 3 },
    'a larger context': { maxContext: 512 },
  }
  for (const [what, options] of Object.entries(variants)) {
    test(`${weights}: logits, samples and log-probabilities have the same bits with ${what}`, async () => {
      const found = await bits({ weights, ...options })
      assert.ok(Buffer.compare(found.logits, reference.logits) === 0, 'logits differ')
      assert.equal(found.samples, reference.samples)
    })
  }

  test(`${weights}: a sample has the same bits alone and among others`, async () => {
    const model = await load('models/lamb', { weights })
    const alone = await model.complete(prompt, { ...sampling, n: 1 })
    assert.equal(alone.samples[0], (reference.samples as unknown[])[0])
    const many = await model.complete(prompt, { ...sampling, n: 33 })
    assert.equal(many.samples.slice(0, 7), reference.samples)
    await model.dispose()
  })

  test(`${weights}: a request has the same bits while others run on the same model and on another`, async () => {
    const [first, second] = await Promise.all([load('models/lamb', { weights }), load('models/lamb', { weights })])
    const other = { maxNewTokens: emulated ? 5 : 30, temperature: 1, ignoreEos: true }
    const results = await Promise.all([
      first.complete([1, 2, 3], other),
      first.complete(prompt, { ...sampling, n: 7 }),
      second.complete([5, 6], { ...other, n: 3 }),
      second.complete(prompt, { ...sampling, n: 7 }),
    ])
    assert.equal(results[1].samples, reference.samples)
    assert.equal(results[3].samples, reference.samples)
    await Promise.all([first.dispose(), second.dispose()])
  })
}

test.run()
