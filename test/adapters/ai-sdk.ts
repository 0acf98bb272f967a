import { generateText, streamText } from 'ai'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { languageModel, type LanguageModel } from '../../src/adapters/ai-sdk.js'
import { Model, OptionError, shippedModel, type StreamPiece } from '../../src/index.js'
import { versions, type Specifications } from './versions.js'

let model: Model
test.before(async () => {
  model = await Model.load(shippedModel(), { device: 'cpu', maxContext: 4096 })
})
test.after(() => model.dispose())

const question = 'What is the capital of Japan?'
const story = 'Write a short story about a sheep.'
const greedy = { temperature: 0, maxOutputTokens: 64, maxRetries: 0 }

for (const version of versions) {
  test(`${version}: has that version, and v3 unless asked for another`, () => {
    const specified: Specifications[typeof version] = languageModel(model, version)
    assert.is(specified.specificationVersion, version)
    assert.is(languageModel(model).specificationVersion, 'v3')
  })

  test(`${version}: gives the text, counts and reason of the model itself`, async () => {
    const own = await model.generate(question, { temperature: 0, maxNewTokens: 64 })
    const { text, usage, finishReason, warnings, response } = await generateText({ model: languageModel(model, version), prompt: question, ...greedy })
    assert.equal([text, usage.inputTokens, usage.outputTokens, finishReason, warnings], [own.text, own.promptTokens, own.tokens.length, 'stop', []])
    assert.equal([usage.inputTokenDetails.cacheReadTokens, usage.inputTokenDetails.noCacheTokens], [own.promptTokens - 1, 1], 'the model has just read it')
    assert.is(response.modelId, 'lamb')
    assert.ok(Math.abs(Date.now() - response.timestamp.getTime()) < 3_600_000)
    const cut = await generateText({ model: languageModel(model, version), prompt: question, ...greedy, maxOutputTokens: 2 })
    assert.is(cut.finishReason, 'length')
  })

  test(`${version}: reads a conversation with system text as chat does`, async () => {
    const turns = [
      { role: 'user' as const, content: 'What is the capital of France?' },
      { role: 'assistant' as const, content: 'Paris.' },
      { role: 'user' as const, content: question },
    ]
    const own = await model.generate([{ role: 'system', content: 'Be brief.' }, ...turns], { temperature: 0, maxNewTokens: 64 })
    assert.is((await generateText({ model: languageModel(model, version), system: 'Be brief.', messages: turns, ...greedy })).text, own.text)
  })

  test(`${version}: a stream joins to the whole, with the same counts`, async () => {
    const whole = await generateText({ model: languageModel(model, version), prompt: question, ...greedy })
    const stream = streamText({ model: languageModel(model, version), prompt: question, ...greedy })
    const deltas: string[] = []
    for await (const delta of stream.textStream) deltas.push(delta)
    assert.ok(deltas.length > 2)
    assert.is(deltas.join(''), whole.text)
    assert.equal([(await stream.usage).outputTokens, await stream.finishReason], [whole.usage.outputTokens, 'stop'])
    assert.is((await stream.usage).inputTokenDetails.cacheReadTokens, (whole.usage.inputTokens ?? 0) - 1)
    const { id, modelId } = await stream.response
    assert.is(modelId, 'lamb')
    assert.is.not(id, whole.response.id)
  })

  test(`${version}: tells the seed that it drew, which gives the same text again`, async () => {
    const drawn = await generateText({ model: languageModel(model, version), prompt: story, maxOutputTokens: 20, maxRetries: 0 })
    const told = drawn.providerMetadata?.['ewe'] as { seed: string } | undefined
    assert.is((await model.generate(story, { seed: BigInt(told?.seed ?? 0), maxNewTokens: 20 })).text, drawn.text)
  })

  test(`${version}: the model's own pieces come where they are asked for`, async () => {
    const parts = []
    for await (const part of streamText({ model: languageModel(model, version), prompt: question, ...greedy, includeRawChunks: true }).fullStream) parts.push(part)
    const raw = parts.filter((part) => part.type === 'raw').map(({ rawValue }) => rawValue as StreamPiece)
    assert.equal(raw.map(({ text }) => text).join(''), parts.filter((part) => part.type === 'text-delta').map(({ text }) => text).join(''))
    assert.ok(raw.every(({ index }) => index === 0) && raw[0]?.asked !== undefined)
  })

  test(`${version}: an aborted stream ends its work, and so does one that is cancelled`, async () => {
    const call = { prompt: [{ role: 'user' as const, content: [{ type: 'text' as const, text: question }] }], temperature: 1e6, topP: 1, seed: 0, maxOutputTokens: 4000 }
    for (const by of ['signal', 'cancel'] as const) {
      const leaving = new AbortController()
      const { stream } = await languageModel(model, version).doStream({ ...call, abortSignal: leaving.signal })
      const reader = stream.getReader()
      await reader.read()
      const before = model.stats()
      assert.is(before.running, 1)
      if (by === 'cancel') await reader.cancel()
      else leaving.abort()
      while (model.stats().running > 0) await new Promise((resolve) => setTimeout(resolve, 1))
      assert.is(model.stats().cancelled, before.cancelled + 1, by)
      assert.is(model.stats().pagesUsed, 0)
    }
  })

  test(`${version}: formats, files and tools that the model does not know are refused, or warned of`, async () => {
    const user = { role: 'user' as const, content: [{ type: 'text' as const, text: question }] }
    const refuses = async (call: Parameters<LanguageModel<typeof version>['doGenerate']>[0]): Promise<void> => {
      for (const work of [languageModel(model, version).doGenerate(call), languageModel(model, version).doStream(call)]) {
        await Promise.resolve(work).then(
          () => assert.unreachable(),
          (error: unknown) => assert.instance(error, OptionError),
        )
      }
    }
    const image = { type: 'file', mediaType: 'image/png', data: 'AA==' }
    await refuses({ prompt: [user], responseFormat: { type: 'json' } })
    await refuses({ prompt: [{ role: 'user', content: [image] }] })
    await refuses({ prompt: [user], maxOutputTokens: 0 })
    await refuses({ prompt: [{ role: 'tool', content: [] }] })
    const tools = [{ type: 'function' as const, name: 'search', inputSchema: {} }]
    const { warnings } = await languageModel(model, version).doGenerate({ prompt: [user], tools, reasoning: 'high', temperature: 0, maxOutputTokens: 1 })
    assert.equal(warnings.map(({ feature }) => feature), ['tools', 'reasoning'])
  })
}

test.run()
