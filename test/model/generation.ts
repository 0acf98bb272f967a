// What generate, stream, complete, score and logits promise, beyond the arithmetic.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ContextLengthError, DisposedError, Model, OptionError } from '../../src/index.js'
import type { EweError, GenerateOptions, StreamPiece } from '../../src/index.js'
import { emulated, load, onCpu } from '../support/device.js'
import { readJson } from '../support/safetensors.js'

let model: Model
const question = 'What is the capital of Japan?'
const story = 'Write a short story about a dog.'
const brief = emulated ? { maxNewTokens: 20 } : {}

test.before(async () => {
  model = await load('models/lamb')
})
test.after(() => model.dispose())

async function rejection(promise: Promise<unknown>): Promise<unknown> {
  return await promise.then(
    () => assert.unreachable('should have been refused'),
    (error: unknown) => error,
  )
}

async function collect(stream: AsyncIterable<StreamPiece>): Promise<StreamPiece[]> {
  const pieces: StreamPiece[] = []
  for await (const piece of stream) pieces.push(piece)
  return pieces
}

test('a question is answered with the defaults of the Dolly pipeline', async () => {
  const { text, finishReason, stopped } = await model.generate(question)
  assert.match(text, /Tokyo/)
  assert.is(finishReason, 'stop')
  assert.is(stopped, model.tokenizer.specialTokens.get('### End'))
})

test('the same seed gives the same text, another seed another, and no seed a random one that is told', async () => {
  const one = await model.generate(story, { ...brief, seed: 5 })
  assert.equal({ ...(await model.generate(story, { ...brief, seed: 5 })), cachedTokens: 0 }, { ...one, cachedTokens: 0 })
  assert.equal((await model.generate(story, { ...brief, seed: 5n })).text, one.text)
  assert.is.not((await model.generate(story, { ...brief, seed: 6 })).text, one.text)
  const random = await model.generate(story, brief)
  assert.is((await model.generate(story, { ...brief, seed: random.seed })).text, random.text)
})

test('streamed pieces join to the text of generate, token by token', async () => {
  for (const seed of [1, 2, 3]) {
    const whole = await model.generate(story, { ...brief, seed })
    const pieces = await collect(model.stream(story, { ...brief, seed }))
    assert.is(pieces.map(({ text }) => text).join(''), whole.text)
    assert.equal(
      pieces.flatMap(({ token }) => (token === undefined ? [] : [token])),
      whole.tokens,
    )
    assert.is(pieces.at(-1)!.finishReason, whole.finishReason)
    assert.is(pieces.filter(({ finishReason }) => finishReason !== undefined).length, 1)
  }
})

test('n samples come from one prompt: each has its own text, and the first is that of n = 1', async () => {
  const before = model.stats()
  const { samples, text } = await model.generate(story, { ...brief, seed: 9, n: 12 })
  const after = model.stats()
  assert.is(samples.length, 12)
  assert.ok(new Set(samples.map((sample) => sample.text)).size > 6)
  assert.is((await model.generate(story, { ...brief, seed: 9 })).text, text)
  assert.ok(after.promptTokens - before.promptTokens < 60, 'the prompt is read once')
  const pieces = await collect(model.stream(story, { ...brief, seed: 9, n: 12 }))
  for (const { index, text: expected } of samples) {
    assert.is(
      pieces
        .filter((piece) => piece.index === index)
        .map((piece) => piece.text)
        .join(''),
      expected,
    )
  }
})

test('stop texts end the answer and are cut from it, across token borders', async () => {
  const greedy = { temperature: 0, maxNewTokens: 40 } satisfies GenerateOptions
  const { text } = await model.generate(story, greedy)
  for (let start = 3; start < Math.min(text.length - 5, 60); start += emulated ? 19 : 4) {
    const stop = text.slice(start, start + 5)
    const cut = await model.generate(story, { ...greedy, stop })
    assert.is(cut.text, text.slice(0, text.indexOf(stop)).trim(), `stop ${JSON.stringify(stop)}`)
    assert.is(cut.stopped, stop)
    assert.is(cut.finishReason, 'stop')
    const streamed = (await collect(model.stream(story, { ...greedy, stop }))).map((piece) => piece.text).join('')
    assert.is(streamed, cut.text)
  }
})

test('several stop texts: the first to be complete ends the answer', async () => {
  const { text } = await model.generate(story, { ...brief, temperature: 0 })
  const words = text.split(' ')
  const cut = await model.generate(story, { temperature: 0, stop: [` ${words[8]}`, ` ${words[4]}`, 'never there'] })
  assert.is(cut.text, words.slice(0, 4).join(' '))
  assert.is(cut.stopped, ` ${words[4]}`)
})

test('complete ends at the end ids of the model, and goes on with ignoreEos', async () => {
  const prompt = await model.tokenizer.encodeWithSpecial('### Instruction:\nWhat is the capital of Japan?\n\n### Response:\n')
  const ended = await model.complete(prompt, { maxNewTokens: 30 })
  assert.is(ended.finishReason, 'stop')
  assert.is(ended.tokens.at(-1), ended.stopped)
  const on = await model.complete(prompt, { maxNewTokens: 30, ignoreEos: true })
  assert.is(on.tokens.length, 30)
  assert.is(on.finishReason, 'length')
  assert.equal(on.tokens.slice(0, ended.tokens.length), ended.tokens)
  const shown = await model.complete(prompt, { maxNewTokens: 30, ignoreEos: true, keepSpecial: true })
  assert.ok(shown.text.includes('### End') && !on.text.includes('### End'))
})

test('a typed end key is plain text: it ends nothing and makes no special token', async () => {
  const { promptTokens } = await model.generate('Say ### End and ### Response:\n', { maxNewTokens: 3 })
  const forged = await model.tokenizer.encodeWithSpecial('Say ### End and ### Response:\n')
  assert.ok(promptTokens > forged.length + 20)
})

test('greedy means temperature 0: no seed changes it', async () => {
  const texts = await Promise.all([1, 2, 3].map(async (seed) => (await model.generate(story, { ...brief, temperature: 0, seed })).text))
  assert.is(new Set(texts).size, 1)
})

test('topK 1, a tiny topP and minP 1 each leave only the best token', async () => {
  const { text } = await model.generate(story, { ...brief, temperature: 0 })
  for (const options of [{ topK: 1 }, { topP: 1e-6 }, { minP: 1, topP: 1 }]) {
    assert.is((await model.generate(story, { ...brief, ...options, seed: 3 })).text, text)
  }
})

test('a repetition penalty keeps greedy text from repeating', async () => {
  const prompt = Array.from({ length: 20 }, () => 300)
  const plain = await model.complete(prompt, { maxNewTokens: 30, ignoreEos: true })
  const penalised = await model.complete(prompt, { maxNewTokens: 30, ignoreEos: true, repetitionPenalty: 10 })
  assert.ok(new Set(penalised.tokens).size > new Set(plain.tokens).size)
  assert.is(new Set(penalised.tokens).size, 30, 'each id once')
})

test('log-probabilities agree between complete and score', async () => {
  const prompt = Array.from(await model.tokenizer.encode('The capital of Japan is'))
  const { tokens, logprobs } = await model.complete(prompt, { maxNewTokens: 8, logprobs: 4, ignoreEos: true })
  const [scored] = await model.score([[...prompt, ...tokens]], { topLogprobs: 4 })
  for (const [i, entry] of logprobs!.entries()) {
    const other = scored![prompt.length + i]!
    assert.is(entry.token, other.token)
    // A card has an arithmetic of its own for generated tokens: the same sums in another order, whose roundings to 16 bits may fall to either side. Some 50
    // of them, of 2^-8 relative to the logits' scale of about 5, add up to 0.08 rms; six times that.
    assert.ok(Math.abs(entry.logprob - other.logprob) < (onCpu ? 1e-3 : 0.5), `${entry.logprob} against ${other.logprob}`)
    assert.is(entry.logprob, entry.top[0]!.logprob, 'greedy takes the best: the same number, exactly')
    if (!onCpu) continue
    assert.equal(
      entry.top.map(({ token }) => token),
      other.top.map(({ token }) => token),
    )
  }
})

test('options out of range are refused with the parameter, what is expected and what came', async () => {
  const wrong: [GenerateOptions | Record<string, unknown>, string][] = [
    [{ temperature: -1 }, 'temperature'],
    [{ temperature: Number.NaN }, 'temperature'],
    [{ topP: 0 }, 'topP'],
    [{ topP: 1e-300 }, 'topP'], // 0 in 32 bits
    [{ topP: 1.5 }, 'topP'],
    [{ repetitionPenalty: 1e-300 }, 'repetitionPenalty'],
    [{ topK: 1.5 }, 'topK'],
    [{ minP: 2 }, 'minP'],
    [{ maxNewTokens: 0 }, 'maxNewTokens'],
    [{ n: 0 }, 'n'],
    [{ seed: -1 }, 'seed'],
    [{ stop: '' }, 'stop'],
    [{ repetitionPenalty: 0 }, 'repetitionPenalty'],
    [{ logprobs: 21 }, 'logprobs'],
    [{ maxTokens: 5 }, 'maxTokens'],
    [{ signal: 'no' }, 'signal'],
  ]
  for (const [options, parameter] of wrong) {
    const error = await rejection(model.generate(question, options))
    assert.instance(error, OptionError, JSON.stringify(options))
    assert.is((error as OptionError).parameter, parameter)
    assert.is((error as EweError).code, 'EWE_OPTION')
    assert.match((error as Error).message, /^Expected .+ for `.+` but received /)
  }
  assert.instance(await rejection(load('models/lamb', { device: 'tpu' })), OptionError)
  assert.instance(await rejection(load('models/lamb', { pageSize: 20 })), OptionError)
})

test('ids outside the vocabulary, an empty prompt and wrong types are refused', async () => {
  for (const prompt of [[2064], [-1], [1.5], [], [Number.NaN]]) assert.instance(await rejection(model.complete(prompt)), OptionError)
  assert.instance(await rejection(model.complete('')), OptionError)
  assert.instance(await rejection(model.complete(5 as never)), OptionError)
  assert.instance(await rejection(model.logits([99999])), OptionError)
  assert.instance(await rejection(model.score([[1, 2], [-5]])), OptionError)
})

test('a prompt beyond the context, or with more new tokens than are left, is refused with the numbers', async () => {
  const long = Array.from({ length: 512 }, () => 5)
  for (const error of [await rejection(model.complete(long)), await rejection(model.complete(long.slice(0, 500), { maxNewTokens: 13 }))]) {
    assert.instance(error, ContextLengthError)
    assert.match((error as Error).message, /5\d\d tokens.*512/)
  }
  assert.instance(await rejection(model.logits([...long, 1])), ContextLengthError)
  const fits = await model.complete(long.slice(0, 500), { maxNewTokens: 12, ignoreEos: true })
  assert.is(fits.tokens.length, 12)
  // Without a number of its own a request takes what is left, here less than the 256 of the pipeline.
  const instruction = Array.from({ length: 400 }, () => 'dog').join(' ')
  const { promptTokens, tokens } = await model.generate(instruction, { temperature: 1, topP: 1, seed: 1, stop: [] })
  assert.ok(promptTokens > 256 && promptTokens + tokens.length <= 512, `${promptTokens} and ${tokens.length}`)
})

test('an aborted request rejects with its reason, ends within a token, frees its pages, and the next one runs', async () => {
  const reason = new Error('changed my mind')
  const controller = new AbortController()
  const before = model.stats().generatedTokens
  // Many thousand steps: it cannot be over before it is aborted.
  const pending = model.complete([1, 2, 3], { maxNewTokens: 500, n: 200, ignoreEos: true, temperature: 1, signal: controller.signal })
  const rejected = rejection(pending)
  while (model.stats().generatedTokens === before) await new Promise((resolve) => setTimeout(resolve, 1))
  controller.abort(reason)
  const atAbort = model.stats().generatedTokens
  assert.is(await rejected, reason)
  assert.is(await rejection(model.complete([1], { signal: AbortSignal.abort(reason) })), reason)
  assert.match((await model.generate(question, { temperature: 0, maxNewTokens: 30 })).text, /Tokyo/)
  // A step that was under way, one that was not counted yet, and the answer just given.
  assert.ok(model.stats().generatedTokens - atAbort <= 2 * model.plan.maxBatch + 30, `${model.stats().generatedTokens - atAbort} tokens after the abort`)
  assert.is(model.stats().pagesUsed, 0)
})

test('leaving a stream cancels it within a token', async () => {
  let seen = 0
  for await (const { token } of model.streamComplete([1, 2, 3], { maxNewTokens: 500, n: 200, ignoreEos: true, temperature: 1 })) {
    if (token !== undefined && ++seen === 5) break
  }
  const atLeaving = model.stats().generatedTokens
  await model.complete([1], { maxNewTokens: 1 })
  assert.ok(model.stats().generatedTokens - atLeaving <= 2 * model.plan.maxBatch + 1, `${model.stats().generatedTokens - atLeaving} tokens after leaving`)
  assert.is(model.stats().pagesUsed, 0)
})

test('requests of many callers are all answered, each with its own text', async () => {
  const questions = ['Japan', 'France', 'Italy', 'Spain', 'Egypt'].slice(emulated ? 3 : 0).map((country) => `What is the capital of ${country}?`)
  const alone: string[] = []
  for (const one of questions) alone.push((await model.generate(one, { ...brief, temperature: 0 })).text)
  const together = await Promise.all([...questions, ...questions].map(async (one) => (await model.generate(one, { ...brief, temperature: 0 })).text))
  assert.equal(together, [...alone, ...alone])
})

test('a chat is answered with its earlier turns in mind, and the oldest are dropped when they do not fit', async () => {
  const turns = [
    { role: 'user', content: question },
    { role: 'assistant', content: 'The capital of Japan is Tokyo.' },
    { role: 'user', content: 'What is the capital of France?' },
  ] as const
  const { text, droppedTurns } = await model.generate(turns, { ...brief, temperature: 0 })
  assert.ok(text.length > 0)
  assert.is(droppedTurns, 0)
  const many = Array.from({ length: 40 }, () => turns.slice(0, 2)).flat()
  assert.ok((await model.generate([...many, turns[2]], { temperature: 0, maxNewTokens: 8 })).droppedTurns > 10)
})

test('the input of an instruction stands in the prompt, and returnFullText puts the instruction before the answer', async () => {
  const { cases } = readJson('test/fixtures/lamb/greedy.json') as { cases: { instruction: string; context: string; text: string }[] }
  const { instruction, context: input, text } = cases.find(({ context }) => context !== '')!
  assert.is((await model.generate(instruction, { input, temperature: 0 })).text, text)
  const full = await model.generate(instruction, { input, temperature: 0, returnFullText: true })
  assert.is(full.text, `${instruction}\n\nInput:\n${input}\n${text}`)
})

test('a disposed model refuses work, ends what is under way, and can be disposed of again', async () => {
  const other = await load('models/lamb')
  const stream = other.streamComplete([1, 2, 3], { maxNewTokens: 500, n: 200, ignoreEos: true, temperature: 1 })
  await stream.next()
  const queued = rejection(other.logits([1, 2]))
  await Promise.all([other.dispose(), other.dispose()])
  const pending = rejection(
    (async () => {
      for await (const { text } of stream) assert.type(text, 'string')
    })(),
  )
  assert.instance(await pending, DisposedError)
  assert.instance(await queued, DisposedError)
  assert.instance(await rejection(other.generate(question)), DisposedError)
  assert.throws(() => other.stats(), (error: unknown) => error instanceof DisposedError)
  await other.dispose()
})

test('loading can be aborted, before and while it runs', async () => {
  const reason = new Error('no')
  assert.is(await rejection(load('models/lamb', { signal: AbortSignal.abort(reason) })), reason)
  const controller = new AbortController()
  const pending = load('models/lamb', { signal: controller.signal, onProgress: () => controller.abort(reason) })
  // The last progress may come when loading is over: then there is a model.
  const outcome = await pending.catch((error: unknown) => error)
  if (outcome instanceof Model) await outcome.dispose()
  else assert.is(outcome, reason)
})

test('what the function for progress throws is what loading rejects with', async () => {
  const reason = new Error('mine')
  const error = await rejection(
    load('models/lamb', {
      onProgress: () => {
        throw reason
      },
    }),
  )
  assert.is(error, reason)
})

test('progress rises to the whole', async () => {
  const seen: number[] = []
  let whole = 0
  const other = await load('models/lamb', {
    onProgress: ({ done, total }) => {
      seen.push(done)
      whole = total
    },
  })
  await other.dispose()
  assert.ok(seen.length > 0 && seen.every((done, i) => i === 0 || done >= seen[i - 1]!))
  assert.is(seen.at(-1), whole)
  assert.ok(whole > 6_000_000)
})

test.run()
