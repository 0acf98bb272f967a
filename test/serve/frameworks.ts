// Frameworks over the server, through their own clients of OpenAI's interface.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { ChatOpenAI, OpenAI } from '@langchain/openai'
import { APICallError, generateText, streamText } from 'ai'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Served, loadLamb, long, question, until, type Chat, type Completion } from './served.js'

const key = 'sk-frameworks'
let served: Served
test.before(async () => {
  served = await Served.over(await loadLamb(), { apiKeys: [key] })
})
test.after(async () => {
  await served.server.close()
  await served.model.dispose()
})

/** No end of an answer is drawn. */
const noEnd = { 0: -100, 2048: -100 }
const authorized = { headers: { authorization: `Bearer ${key}` } }

async function ownAnswer(): Promise<string> {
  const body = { model: 'lamb', temperature: 0, max_tokens: 64, messages: [{ role: 'user', content: question }] }
  return (await served.json<Chat>('/v1/chat/completions', body, authorized)).choices[0]?.message.content ?? ''
}

const configuration = (): { baseURL: string } => ({ baseURL: `${served.url}/v1` })

test('LangChain: a chat model answers, at once and as a stream', async () => {
  const chat = new ChatOpenAI({ model: 'lamb', apiKey: key, temperature: 0, maxTokens: 64, configuration: configuration() })
  const own = await ownAnswer()
  assert.is((await chat.invoke(question)).text, own)
  let text = ''
  for await (const chunk of await chat.stream(question)) text += chunk.text
  assert.is(text, own)
})

test('LangChain: 25 prompts of a language model keep their places, also as streams', async () => {
  const prompts = Array.from({ length: 25 }, (_, i) => `Number ${i}`)
  const own = []
  for (const prompt of prompts) {
    const { choices } = await served.json<Completion>('/v1/completions', { model: 'lamb', prompt, max_tokens: 4, temperature: 0 }, authorized)
    own.push(choices[0]?.text)
  }
  for (const streaming of [false, true]) {
    const llm = new OpenAI({ model: 'lamb', apiKey: key, temperature: 0, maxTokens: 4, streaming, configuration: configuration() })
    const { generations } = await llm.generate(prompts)
    assert.equal(generations.map(([first]) => first?.text), own, `streaming: ${streaming}`)
  }
})

test('AI SDK: text at once and as a stream, with usage and the reason to finish', async () => {
  const provider = createOpenAICompatible({ name: 'ewe', apiKey: key, baseURL: `${served.url}/v1`, includeUsage: true })
  const call = { model: provider('lamb'), prompt: question, temperature: 0, maxOutputTokens: 64 }
  const own = await ownAnswer()
  const whole = await generateText(call)
  assert.equal([whole.text, whole.finishReason], [own, 'stop'])
  assert.ok((whole.usage.outputTokens ?? 0) > 0)
  const stream = streamText(call)
  let text = ''
  for await (const delta of stream.textStream) text += delta
  assert.is(text, own)
  assert.is((await stream.usage).outputTokens, whole.usage.outputTokens)
  assert.is((await stream.usage).inputTokenDetails.cacheReadTokens, (whole.usage.inputTokens ?? 0) - 1)
})

test('AI SDK: an error arrives with its words', async () => {
  const provider = createOpenAICompatible({ name: 'ewe', apiKey: key, baseURL: `${served.url}/v1` })
  try {
    await generateText({ model: provider('gpt-4'), prompt: question, maxRetries: 0 })
  } catch (error) {
    assert.ok(APICallError.isInstance(error))
    assert.equal([error.statusCode, error.isRetryable], [404, false])
    assert.match(error.message, 'There is no model "gpt-4" here')
    return
  }
  assert.unreachable()
})

test('AI SDK: a stream that is aborted ends its work', async () => {
  const provider = createOpenAICompatible({ name: 'ewe', apiKey: key, baseURL: `${served.url}/v1` })
  const leaving = new AbortController()
  const before = served.model.stats()
  const endless = { temperature: 1, maxOutputTokens: 4000, providerOptions: { ewe: { logit_bias: noEnd } } }
  const { textStream } = streamText({ model: provider('lamb'), prompt: question, ...endless, abortSignal: leaving.signal })
  for await (const _ of textStream) {
    leaving.abort()
    break
  }
  await served.idle()
  assert.is(served.model.stats().cancelled, before.cancelled + 1)
})

test('LangChain: a call that is aborted ends its work', async () => {
  const chat = new ChatOpenAI({ model: 'lamb', apiKey: key, maxTokens: 400, modelKwargs: { logit_bias: noEnd }, configuration: configuration() })
  const leaving = new AbortController()
  const { cancelled } = served.model.stats()
  const answer = chat.invoke(question, { signal: leaving.signal }).then(
    () => assert.unreachable(),
    () => {},
  )
  await until('its work', () => served.model.stats().running === 1)
  leaving.abort()
  await answer
  await served.idle()
  assert.is(served.model.stats().cancelled, cancelled + 1)
})

test('AI SDK and LangChain: a full queue is waited for by their retries', async () => {
  const small = await Served.over(await loadLamb({ maxBatch: 1, maxQueue: 1, maxContext: 16_384 }))
  const baseURL = `${small.url}/v1`
  const refused = (): number => small.lines.filter((line) => line['status'] === 429).length
  for (const ask of [
    async () => (await generateText({ model: createOpenAICompatible({ name: 'ewe', baseURL })('lamb'), prompt: question, temperature: 0 })).text,
    async () => (await new ChatOpenAI({ model: 'lamb', apiKey: 'none', temperature: 0, configuration: { baseURL } }).invoke(question)).text,
  ]) {
    const leaving = new AbortController()
    const busy: Promise<void>[] = []
    for (const count of ['running', 'queued'] as const) {
      busy.push(small.post('/v1/completions', { ...long, max_tokens: 16_000 }, { signal: leaving.signal }).then(() => {}, () => {}))
      await until(`one ${count}`, () => small.model.stats()[count] === 1)
    }
    const before = refused()
    const answer = ask()
    await until('a refusal', () => refused() > before)
    leaving.abort()
    assert.match(await answer, 'Tokyo')
    await Promise.all(busy)
    await small.idle()
  }
  await small.server.close()
  await small.model.dispose()
})

test.run()
