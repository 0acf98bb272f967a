// What bodies of OpenAI's interface get, beneath any server: the contracts of its clients.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ContextLengthError, type EweError, type Model, OptionError } from '../src/index.js'
import { chat, chatBody, complete, completionBody, LogprobColumns, type ChatCompletion, type Completion } from '../src/openai.js'
import { check } from '../src/options.js'
import { load } from './support/device.js'

let model: Model
test.before(async () => {
  model = await load('models/lamb')
})
test.after(() => model.dispose())

const context = { id: 'cmpl-1', created: 7, model: 'served' }
const japan = 'What is the capital of Japan?'

async function completed(body: object, more: object = {}): Promise<Completion> {
  return await complete(model, check(completionBody, body, 'body'), { ...context, ...more })
}

async function chatted(body: object): Promise<ChatCompletion> {
  return await chat(model, check(chatBody, body, 'body'), context)
}

async function rejection(promise: Promise<unknown>): Promise<EweError> {
  return await promise.then(
    () => assert.unreachable('should have been refused') as never,
    (error: unknown) => error as EweError,
  )
}

test('a prompt as text, texts, ids or lists of ids has one choice each, numbered in order', async () => {
  const texts = ['Once upon a time', 'The dog', 'A']
  const ids = await Promise.all(texts.map(async (text) => [...(await model.tokenizer.encode(text))]))
  const greedy = { temperature: 0, max_tokens: 6 }
  const alone = await Promise.all(texts.map(async (text) => (await model.complete(text, { temperature: 0, maxNewTokens: 6 })).text))
  const forms: [unknown, string[]][] = [[texts[0], alone.slice(0, 1)], [texts, alone], [ids[0], alone.slice(0, 1)], [ids, alone]]
  for (const [prompt, expected] of forms) {
    const { choices } = await completed({ prompt, ...greedy })
    assert.equal(choices.map(({ text, index, logprobs }) => [text, index, logprobs]), expected.map((text, i) => [text, i, null]))
  }
})

test('an answer has the id, time and model it was given, and counts its tokens', async () => {
  const { choices, usage, system_fingerprint: fingerprint, ...rest } = await completed({ prompt: ['The dog', 'A'], max_tokens: 3, n: 2, ignore_eos: true, unknown: { key: 1 } })
  assert.equal(rest, { id: 'cmpl-1', object: 'text_completion', created: 7, model: 'served' })
  assert.equal(choices.map(({ index, finish_reason: reason }) => [index, reason]), [0, 1, 2, 3].map((index) => [index, 'length']))
  assert.is(usage.completion_tokens, 12)
  assert.is(usage.prompt_tokens, (await model.tokenizer.encode('The dog')).length + (await model.tokenizer.encode('A')).length)
  assert.is(usage.total_tokens, usage.prompt_tokens + 12)
  assert.match(fingerprint, /^ewe-[\d.]+-/)
})

test('echo with logprobs: prompt and generated entries, the first null, and the best token has exactly the largest value', async () => {
  const texts = ['The capital of Japan is Tokyo.', 'A', `${japan} It is é \u{1f600}.`]
  const prompt = await Promise.all(texts.map(async (text) => [...(await model.tokenizer.encode(text))]))
  const { choices } = await completed({ prompt, max_tokens: 1, logprobs: 1, echo: true, temperature: 0, seed: 1234 })
  let best = 0
  for (const [i, { text, logprobs }] of choices.entries()) {
    assert.ok(logprobs)
    const count = prompt[i]!.length + 1
    assert.ok(text.startsWith(texts[i]!))
    for (const column of [logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset]) assert.is(column.length, count)
    assert.is(logprobs.token_logprobs[0], null)
    assert.is(logprobs.top_logprobs[0], null)
    const [scored] = await model.score([prompt[i]!], { topLogprobs: 1 })
    for (let at = 1; at < count; at++) {
      const top = logprobs.top_logprobs[at]!
      const own = logprobs.token_logprobs[at]!
      assert.ok(top[logprobs.tokens[at]!]! >= own)
      assert.ok(Math.max(...Object.values(top)) >= own)
      if (at === count - 1) assert.is(own, Math.max(...Object.values(top)), 'the generated token is the best one')
      else {
        assert.is(own, scored![at]!.logprob)
        if (scored![at]!.top[0]!.token === prompt[i]![at]) {
          best++
          assert.is(own, Math.max(...Object.values(top)))
        }
      }
    }
  }
  assert.ok(best > 3, 'some tokens of the prompts are the best ones')
})

test('offsets name the place of each token in the text, and parts of a character one place', async () => {
  const prompt = 'A é \u{1f600}\u{1f600} dog'
  const { choices } = await completed({ prompt, max_tokens: 0, logprobs: 0, echo: true })
  const { tokens, text_offset: offsets } = choices[0]!.logprobs!
  const characters = Array.from(prompt)
  assert.is(choices[0]!.text, prompt)
  tokens.forEach((token, i) => {
    if (!token.includes('\ufffd')) assert.is(characters.slice(offsets[i], offsets[i]! + Array.from(token).length).join(''), token)
    else assert.ok(offsets[i]! >= (offsets[i - 1] ?? 0))
  })
  assert.ok(tokens.some((token) => token.includes('\ufffd')), 'the tokenizer cuts a character')
})

test('tokens of one text keep the larger value, and can be told apart by ids', async () => {
  const parts = [...new Set(await model.tokenizer.encode('\u{1f600}'))].filter((id) => model.tokenizer.decode([id]) === '\ufffd')
  const [first, second] = parts
  assert.ok(first !== undefined && second !== undefined, 'the tokenizer cuts a character')
  const top = [{ token: first, logprob: -2 }, { token: second, logprob: -1 }]
  const columns = (more: object): unknown[] => {
    const made = new LogprobColumns(model, check(completionBody, { prompt: 'a', ...more }))
    made.add({ token: first, logprob: -2, top })
    return made.take().top_logprobs
  }
  assert.equal(columns({}), [{ '\ufffd': -1 }])
  assert.equal(columns({ return_tokens_as_token_ids: true }), [{ [`token_id:${first}`]: -2, [`token_id:${second}`]: -1 }])
})

test("a template written in a prompt is plain text, and the model's when the body or the caller says so", async () => {
  const prompt = `### Instruction:\n${japan}\n\n### Response:\n`
  const special = [...(await model.tokenizer.encodeWithSpecial(prompt))]
  const plain = [...(await model.tokenizer.encode(prompt))]
  assert.ok(special.length < plain.length)
  const asked = async (body: object, more: object = {}): Promise<number> => (await completed({ prompt, max_tokens: 1, ...body }, more)).usage.prompt_tokens
  assert.is(await asked({}), plain.length)
  assert.is(await asked({ parse_special: true }), special.length)
  assert.is(await asked({}, { parseSpecial: true }), special.length)
  assert.is(await asked({ parse_special: false }, { parseSpecial: true }), plain.length)
  assert.match((await completed({ prompt, max_tokens: 24, temperature: 0, parse_special: true })).choices[0]?.text ?? '', /Tokyo/)
})

test('best_of gives the samples with the best log-probability a token', async () => {
  const body = { prompt: 'Once upon a time', max_tokens: 8, seed: 3, temperature: 1 }
  const all = (await completed({ ...body, n: 8, logprobs: 0 })).choices
  const mean = (values: (number | null)[]): number => values.reduce<number>((sum, value) => sum + (value ?? 0), 0) / values.length
  const ranked = all.toSorted((a, b) => mean(b.logprobs!.token_logprobs) - mean(a.logprobs!.token_logprobs))
  const { choices, usage } = await completed({ ...body, n: 2, best_of: 8 })
  assert.equal(choices.map(({ text, index, logprobs }) => [text, index, logprobs]), ranked.slice(0, 2).map(({ text }, i) => [text, i, null]))
  assert.is(usage.completion_tokens, all.reduce((sum, { logprobs }) => sum + logprobs!.tokens.length, 0))
})

test("a body's seed gives the same text whatever its neighbours, negative ones too; the context's seeds come in where it has none", async () => {
  const body = { max_tokens: 12, temperature: 1 }
  for (const seed of [5, -5]) {
    const alone = (await completed({ ...body, prompt: 'Once upon a time', seed })).choices[0]!.text
    assert.is((await completed({ ...body, prompt: ['A dog', 'Once upon a time'], seed })).choices[1]!.text, alone)
  }
  const seeded = await completed({ ...body, prompt: ['A dog', 'A dog'] }, { seed: (prompt: number) => BigInt(prompt) })
  for (const seed of [0, 1]) assert.is(seeded.choices[seed]!.text, (await completed({ ...body, prompt: 'A dog', seed })).choices[0]!.text)
})

test('stop, logit_bias and penalties reach the model', async () => {
  const body = { prompt: 'The capital of Japan is', temperature: 0, max_tokens: 12 }
  const { text } = (await completed(body)).choices[0]!
  assert.match(text, /Tokyo/)
  const stopped = (await completed({ ...body, stop: ['yo'] })).choices[0]!
  assert.equal([stopped.text, stopped.finish_reason], [text.slice(0, text.indexOf('yo')), 'stop'])
  const [first] = await model.tokenizer.encode(text)
  assert.is.not((await completed({ ...body, logit_bias: { [first!]: -100 } })).choices[0]!.text, text)
  const long = { ...body, max_tokens: 40, ignore_eos: true }
  assert.is.not((await completed({ ...long, frequency_penalty: 2 })).choices[0]!.text, (await completed(long)).choices[0]!.text)
})

test('chat answers with the template, and its log-probabilities have bytes', async () => {
  const { choices, usage, object } = await chatted({ messages: [{ role: 'developer', content: 'Be short.' }, { role: 'user', content: [{ type: 'text', text: japan }] }], temperature: 0, logprobs: true, top_logprobs: 2 })
  const expected = await model.generate([{ role: 'system', content: 'Be short.' }, { role: 'user', content: japan }], { temperature: 0 })
  assert.is(object, 'chat.completion')
  assert.equal(choices[0]!.message, { role: 'assistant', content: expected.text, refusal: null })
  assert.is(usage.prompt_tokens, expected.promptTokens)
  const content = choices[0]!.logprobs!.content
  assert.is(content.length, expected.tokens.length)
  for (const { token, bytes, top_logprobs: top } of content) {
    assert.is(Buffer.from(bytes).toString(), token)
    assert.is(top.length, 2)
  }
})

const messages = [{ role: 'user', content: 'a' }]
const refused: [object, RegExp][] = [
  [{ prompt: 'A', top_p: 1e-300 }, /Expected a number at least 0.000001 for `top_p`/],
  [{}, /`prompt`/],
  [{ prompt: [] }, /`prompt`/],
  [{ prompt: [1, 'a'] }, /`prompt`/],
  [{ prompt: [[1], []] }, /`prompt`/],
  [{ prompt: [1.5] }, /`prompt`/],
  [{ prompt: 'a', n: 3, best_of: 2 }, /`best_of`/],
  [{ prompt: 'a', best_of: 2, stream: true }, /`best_of`/],
  [{ prompt: Array.from({ length: 2000 }, () => 'a'), n: 3 }, /at most 4096 answers/],
  [{ prompt: 'a', max_tokens: 0 }, /`max_tokens`/],
  [{ prompt: 'a', stop: [''] }, /`stop`/],
  [{ prompt: 'a', logit_bias: { x: 1 } }, /`logit_bias.x`/],
  [{ prompt: 'a', logit_bias: { 1: 101 } }, /`logit_bias.1`/],
  [{ prompt: 'a', suffix: 'b' }, /`suffix`/],
  [{ prompt: 'a', response_format: { type: 'json_object' } }, /the only format there is/],
  [{ prompt: 'a', response_format: 'text' }, /the only format there is/],
  [{ prompt: 'a', temperature: 3 }, /`temperature`/],
  [{ prompt: [[999_999]] }, /`prompt\[0\]\[0\]`/],
  [{ messages: [] }, /`messages`/],
  [{ messages: [{ role: 'assistant', content: 'a' }] }, /ends with `user`/],
  [{ messages: [{ role: 'assistant', content: 'a' }, ...messages] }, /begins with `user`/],
  [{ messages: [{ role: 'tool', content: 'a' }] }, /`messages.0.role`/],
  [{ messages: [{ role: 'user', content: [{ type: 'image_url' }] }] }, /`messages.0.content`/],
  [{ messages, tools: [{}] }, /no tools/],
  [{ messages, max_tokens: 5, max_completion_tokens: 6 }, /the same as max_completion_tokens/],
  [{ messages, top_logprobs: 1 }, /`top_logprobs`/],
  [{ messages, response_format: { type: 'json_schema' } }, /the only format there is/],
]
for (const [body, message] of refused) {
  test(`refuses ${JSON.stringify(body).slice(0, 90)}`, async () => {
    const error = await rejection('messages' in body ? chatted(body) : completed(body))
    assert.instance(error, OptionError)
    assert.match(error.message, message)
  })
}

test('null stands for what is left out', () => {
  const nulls = Object.fromEntries(Object.keys(completionBody.shape).map((key) => [key, null]))
  const given = (body: object): [string, unknown][] => Object.entries(check(completionBody, body)).filter(([, value]) => value !== undefined && value !== null)
  assert.equal(given({ ...nulls, prompt: 'a' }), given({ prompt: 'a' }))
})

test('one prompt that is too long refuses the body, and the work on the others ends', async () => {
  const before = model.stats().generatedTokens
  const error = await rejection(completed({ prompt: ['Once upon a time', 'long '.repeat(2000)], max_tokens: 400, ignore_eos: true }))
  assert.instance(error, ContextLengthError)
  for (let late = 0; model.stats().running + model.stats().queued > 0; late++) {
    assert.ok(late < 200, 'still running')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  assert.ok(model.stats().generatedTokens - before < 400, 'the other answer was not written to its end')
})

test('the signal ends all prompts', async () => {
  const controller = new AbortController()
  const answer = completed({ prompt: ['Once', 'A dog'], max_tokens: 400, ignore_eos: true }, { signal: controller.signal })
  setTimeout(() => controller.abort(new Error('left')), 20)
  assert.is((await rejection(answer)).message, 'left')
})

test.run()
