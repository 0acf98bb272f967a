// Many requests on one model at once: each answers as it would alone, and what orders and bounds them does so.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ContextLengthError, DeadlineError, OptionError, QueueFullError, shippedModel, type Generation, type LoadOptions, type Model } from '../../src/index.js'
import { load } from '../support/device.js'

const questions = [
  'What is the capital of Japan?',
  'What is the capital of France?',
  'Name a large animal.',
  'What is the capital of Italy?',
  'Which colour has the sky?',
  'What is the capital of Spain?',
]

async function withModel<T>(options: LoadOptions, use: (model: Model) => Promise<T>): Promise<T> {
  const model = await load(shippedModel(), { maxContext: 256, ...options })
  try {
    return await use(model)
  } finally {
    await model.dispose()
  }
}

const ask = (model: Model, i: number): Promise<Generation> =>
  model.generate(questions[i % questions.length]!, { seed: i, maxNewTokens: 12, logprobs: 2, n: (i % 3) + 1, frequencyPenalty: i % 2 === 0 ? 0 : 0.5 })
const told = ({ samples }: Generation): unknown => samples.map(({ text, tokens, finishReason, logprobs }) => ({ text, tokens, finishReason, logprobs }))

test('requests together answer as each alone, with and without shared prefixes, with plenty of pages and with few', async () => {
  const alone = await withModel({ maxBatch: 1, prefixCache: false }, async (model) => {
    const answers: unknown[] = []
    for (let i = 0; i < 12; i++) answers.push(told(await ask(model, i)))
    return answers
  })
  for (const options of [
    { maxBatch: 8, pageSize: 16 },
    { maxBatch: 5, pageSize: 16, pages: 18, chunk: 24 },
    { maxBatch: 6, prefixCache: false, admission: 'reserve' as const },
  ]) {
    await withModel(options, async (model) => {
      const answers = await Promise.all(Array.from({ length: 12 }, (_, i) => ask(model, i)))
      assert.equal(answers.map(told), alone, JSON.stringify(options))
      const stats = model.stats()
      assert.is(stats.pagesUsed, 0)
      assert.is(stats.finished, 12)
      // Dolly's intro is the beginning of all prompts.
      assert.is(stats.reusedTokens > (options.prefixCache === false ? -1 : 12), true, `${stats.reusedTokens} tokens were found`)
    })
  }
})

test('the common intro of prompts is shared in pages of every size', async () => {
  for (const pageSize of [16, 32, 64, 128]) {
    await withModel({ pageSize, maxBatch: 2 }, async (model) => {
      await model.generate(questions[0]!, { maxNewTokens: 2 })
      const before = model.stats()
      const { promptTokens, cachedTokens } = await model.generate(questions[2]!, { maxNewTokens: 2 })
      const { reusedTokens, promptTokens: computed } = model.stats()
      assert.ok(reusedTokens - before.reusedTokens >= 21, `${reusedTokens - before.reusedTokens} tokens in pages of ${pageSize}`)
      assert.is(reusedTokens - before.reusedTokens + computed - before.promptTokens, promptTokens)
      assert.is(cachedTokens, reusedTokens - before.reusedTokens)
      const pieces = []
      for await (const piece of model.stream(questions[2]!, { maxNewTokens: 2, n: 3 })) pieces.push(piece)
      assert.equal(pieces.map((piece) => piece.cachedTokens).filter((count) => count !== undefined), [promptTokens - 1], 'all but the token that is drawn from')
      assert.is(pieces.at(-1)?.cachedTokens, promptTokens - 1)
    })
  }
})

test('a queue that is full, a deadline that passes and a request that never fits each have their error', async () => {
  await withModel({ maxBatch: 1, maxQueue: 2, pages: 3, pageSize: 64 }, async (model) => {
    const running = Array.from({ length: 3 }, () => model.complete([5, 6, 7], { maxNewTokens: 100, ignoreEos: true }).then(() => 'served', (error: unknown) => error))
    const outcomes = await Promise.all([...running, ...Array.from({ length: 20 }, () => model.complete([5], { maxNewTokens: 1 }).catch((error: unknown) => error))])
    assert.ok(outcomes.some((outcome) => outcome instanceof QueueFullError && outcome.code === 'EWE_QUEUE_FULL'))
    assert.is(outcomes[0], 'served')
    const late = await model.complete([5, 6, 7], { maxNewTokens: 180, ignoreEos: true, deadline: 0.001 }).catch((error: unknown) => error)
    assert.instance(late, DeadlineError)
    const large = await model.complete([5, 6, 7], { maxNewTokens: 250 }).catch((error: unknown) => error)
    assert.instance(large, ContextLengthError)
    assert.match((large as Error).message, /252 tokens need 4 pages of the cache, which has 3/)
    assert.is((await model.complete([5, 6, 7], { maxNewTokens: 3, ignoreEos: true })).tokens.length, 3)
  })
})

test('logit biases steer, and are checked', async () => {
  await withModel({}, async (model) => {
    const { tokens } = await model.complete([5, 6, 7], { maxNewTokens: 4, temperature: 0, ignoreEos: true, logitBias: { 9: 1000 } })
    assert.equal(tokens, [9, 9, 9, 9])
    const { tokens: varied } = await model.complete([5, 6, 7], { maxNewTokens: 4, ignoreEos: true, logitBias: { 9: 1000, 10: 950 }, presencePenalty: 100 })
    assert.equal(varied, [9, 10, 9, 9])
    for (const logitBias of [{ 999999: 1 }, { x: 1 }, { 5: Number.NaN }, { 5: 1, '05': 2 }]) {
      assert.instance(await model.complete([5], { logitBias }).catch((error: unknown) => error), OptionError)
    }
  })
})

test('scores of many sequences come together, and end with their signal', async () => {
  await withModel({ maxBatch: 4 }, async (model) => {
    const sequences = Array.from({ length: 9 }, (_, i) => Array.from({ length: 5 + 7 * i }, (_unused, j) => (i * 31 + j * 7) % 500))
    const together = await model.score(sequences, { topLogprobs: 2 })
    for (const [i, sequence] of sequences.entries()) assert.equal((await model.score([sequence], { topLogprobs: 2 }))[0], together[i])
    const controller = new AbortController()
    const scoring = model.score(Array.from({ length: 40 }, () => sequences[8]!), { signal: controller.signal })
    controller.abort(new Error('enough'))
    assert.is(((await scoring.catch((error: unknown) => error)) as Error).message, 'enough')
    assert.is(model.stats().failed, 0)
  })
})

test.run()
