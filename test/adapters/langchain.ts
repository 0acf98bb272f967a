import { PromptTemplate } from '@langchain/core/prompts'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { EweLLM } from '../../src/adapters/langchain.js'
import { Model, shippedModel } from '../../src/index.js'

let model: Model
test.before(async () => {
  model = await Model.load(shippedModel(), { device: 'cpu', maxContext: 4096 })
})
test.after(() => model.dispose())

const question = 'What is the capital of Japan?'
const greedy = { temperature: 0, maxNewTokens: 64 }

test('answers as the model itself, alone, in a chain and in a batch', async () => {
  const llm = new EweLLM({ model, options: greedy })
  const { text } = await model.generate(question, greedy)
  assert.is(await llm.invoke(question), text)
  assert.is(await PromptTemplate.fromTemplate('What is the capital of {country}?').pipe(llm).invoke({ country: 'Japan' }), text)
  assert.equal(await llm.batch([question, question]), [text, text])
})

test('continues raw prompts', async () => {
  const llm = new EweLLM({ model, raw: true, options: { ...greedy, maxNewTokens: 5 } })
  assert.is(await llm.invoke('One, two'), (await model.complete('One, two', { ...greedy, maxNewTokens: 5 })).text)
})

test('a stream joins to the whole and tells its handlers of each piece', async () => {
  const llm = new EweLLM({ model, options: greedy })
  const heard: string[] = []
  const pieces: string[] = []
  for await (const piece of await llm.stream(question, { callbacks: [{ handleLLMNewToken: (text) => void heard.push(text) }] })) pieces.push(piece)
  assert.ok(pieces.length > 2)
  assert.is(pieces.join(''), await llm.invoke(question))
  assert.is(heard.join(''), pieces.join(''))
})

test('stop texts and signals of a call are honoured', async () => {
  const llm = new EweLLM({ model, options: greedy })
  assert.not.match(await llm.invoke(question, { stop: ['Tok'] }), 'Tok')
  const before = model.stats().cancelled
  const leaving = new AbortController()
  const answer = new EweLLM({ model, raw: true, options: { maxNewTokens: 4000, ignoreEos: true } }).invoke('One', { signal: leaving.signal })
  while (model.stats().running === 0) await new Promise((resolve) => setTimeout(resolve, 1))
  leaving.abort()
  await answer.then(
    () => assert.unreachable(),
    () => {},
  )
  while (model.stats().running > 0) await new Promise((resolve) => setTimeout(resolve, 1))
  assert.is(model.stats().cancelled, before + 1)
})

test.run()
