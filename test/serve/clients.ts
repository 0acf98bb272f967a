// Real clients.
import OpenAI, { APIConnectionTimeoutError, APIError, AuthenticationError, BadRequestError, NotFoundError, RateLimitError } from 'openai'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Served, loadLamb, long, question, until } from './served.js'

const key = 'sk-clients'
let served: Served
let client: OpenAI
test.before(async () => {
  served = await Served.over(await loadLamb({ maxBatch: 2, maxQueue: 2 }), { apiKeys: [key] })
  client = new OpenAI({ apiKey: key, baseURL: `${served.url}/v1`, maxRetries: 0 })
})
test.after(async () => {
  await served.server.close()
  await served.model.dispose()
})

const greedy = { model: 'lamb', temperature: 0 }
const messages = [{ role: 'user' as const, content: question }]

test('openai: chat', async () => {
  const answer = await client.chat.completions.create({ ...greedy, messages, logprobs: true, top_logprobs: 2 })
  assert.match(answer.choices[0]?.message.content ?? '', 'Tokyo')
  assert.ok((answer.usage?.completion_tokens ?? 0) > 0)
  assert.is(answer.choices[0]?.logprobs?.content?.[0]?.top_logprobs.length, 2)
  assert.match(answer['_request_id'] ?? '', /^req_/)
})

test('openai: a chat as a stream, piece by piece and through its helper', async () => {
  const whole = await client.chat.completions.create({ ...greedy, messages })
  let text = ''
  let usage
  for await (const chunk of await client.chat.completions.create({ ...greedy, messages, stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta.content ?? ''
    usage = chunk.usage ?? usage
  }
  assert.is(text, whole.choices[0]?.message.content)
  assert.is(usage?.total_tokens, whole.usage?.total_tokens)
  assert.is(usage?.prompt_tokens_details?.cached_tokens, (usage?.prompt_tokens ?? 0) - 1, 'the answer before has the same prompt')
  const helped = await client.chat.completions.stream({ ...greedy, messages }).finalChatCompletion()
  assert.is(helped.choices[0]?.message.content, text)
  assert.is(helped.choices[0]?.finish_reason, 'stop')
})

test('openai: completions of texts and of ids, at once and as a stream', async () => {
  const body = { ...greedy, prompt: [[5, 9], [7, 8, 9]], max_tokens: 4, echo: true, logprobs: 1, n: 1 }
  const whole = await client.completions.create(body)
  assert.equal(whole.choices.map(({ index }) => index), [0, 1])
  assert.is(whole.choices[1]?.logprobs?.token_logprobs?.[0], null)
  const texts = ['', '']
  for await (const { choices } of await client.completions.create({ ...body, stream: true })) {
    for (const { index, text } of choices) texts[index] += text
  }
  assert.equal(texts, whole.choices.map(({ text }) => text))
})

test('openai: samples, seeds, biases and stops of a completion are honoured', async () => {
  const body = { model: 'lamb', prompt: ['One', 'Two'], n: 2, best_of: 2, seed: 5, temperature: 1, max_tokens: 6, stop: ['.'] }
  const [first, again] = [await client.completions.create(body), await client.completions.create(body)]
  assert.equal(again.choices, first.choices)
  assert.equal(first.choices.map(({ index }) => index), [0, 1, 2, 3])
  assert.ok(first.choices.every(({ text }) => !text.includes('.')))
  const { choices } = await client.completions.create({ ...greedy, prompt: 'One', max_tokens: 1, logit_bias: { 40: 100 }, logprobs: 0 })
  assert.equal(choices[0]?.text, served.model.tokenizer.decode([40]))
})

test('openai: models, listed and found', async () => {
  const ids = []
  for await (const { id } of client.models.list()) ids.push(id)
  assert.equal(ids, ['lamb'])
  assert.is((await client.models.retrieve('lamb')).id, 'lamb')
})

test('openai: errors have their classes, codes and parameters', async () => {
  const wrong = async (work: () => Promise<unknown>): Promise<APIError> => {
    try {
      await work()
    } catch (error) {
      if (error instanceof APIError) return error
      throw error
    }
    throw new Error('no error')
  }
  const bad = await wrong(() => client.completions.create({ ...greedy, prompt: 'a', n: 0 }))
  assert.ok(bad instanceof BadRequestError)
  assert.equal([bad.status, bad.param, bad.type], [400, 'n', 'invalid_request_error'])
  const missing = await wrong(() => client.chat.completions.create({ model: 'gpt-4', messages }))
  assert.ok(missing instanceof NotFoundError)
  assert.equal([missing.code, missing.param], ['model_not_found', 'model'])
  const stranger = new OpenAI({ apiKey: 'sk-wrong', baseURL: `${served.url}/v1`, maxRetries: 0 })
  assert.ok((await wrong(() => stranger.models.list())) instanceof AuthenticationError)
  const streamed = await wrong(() => client.completions.create({ ...greedy, prompt: 'a', max_tokens: 100_000, stream: true }))
  assert.is(streamed.code, 'context_length_exceeded')
})

test('openai: a full queue is waited for by its retries', async () => {
  const leaving = new AbortController()
  const ask = (): Promise<unknown> => client.completions.create(long, { signal: leaving.signal }).catch(() => {})
  const busy = [ask(), ask()]
  await until('two that run', () => served.model.stats().running === 2)
  busy.push(ask(), ask())
  await until('two that wait', () => served.model.stats().queued === 2)
  await client.completions.create({ ...greedy, prompt: 'a' }).then(
    () => assert.unreachable(),
    (error: unknown) => assert.ok(error instanceof RateLimitError),
  )
  const patient = client.completions.create({ ...greedy, prompt: 'a', max_tokens: 1 }, { maxRetries: 5 })
  await until('its refusal', () => served.lines.filter((line) => line['status'] === 429).length === 2)
  leaving.abort()
  assert.is((await patient).choices.length, 1)
  await Promise.all(busy)
})

test('openai: a stream that is left ends its work', async () => {
  await client.completions.create({ ...greedy, prompt: 'a', max_tokens: 1 }) // what was cancelled before is counted now
  const { cancelled } = served.model.stats()
  for await (const _ of await client.completions.create({ ...long, stream: true })) break
  await served.idle()
  assert.is(served.model.stats().cancelled, cancelled + 1)
})

test('openai: a call that takes longer than its client waits is an error there, and ends here', async () => {
  const { cancelled } = served.model.stats()
  await client.completions.create({ ...long, n: 16 }, { timeout: 100 }).then(
    () => assert.unreachable(),
    (error: unknown) => assert.instance(error, APIConnectionTimeoutError),
  )
  await served.idle()
  assert.ok(served.model.stats().cancelled > cancelled)
})

test('openai: a server that stops in the middle of a stream says so', async () => {
  const other = await Served.over(served.model)
  const stream = await new OpenAI({ apiKey: 'none', baseURL: `${other.url}/v1` }).completions.create({ ...long, n: 16, stream: true })
  const read = async (): Promise<void> => {
    for await (const _ of stream) void other.server.close()
  }
  await read().then(
    () => assert.unreachable(),
    (error: unknown) => {
      assert.instance(error, APIError)
      assert.match((error as APIError).message, 'This server stopped before the answer was complete')
    },
  )
  await other.server.close()
})

test.run()
