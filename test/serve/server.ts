// The routes, as a client sees them.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Served, loadLamb, long, question, type Chat, type ChatChunk, type Completion } from './served.js'

let served: Served
test.before(async () => {
  served = await Served.over(await loadLamb(), { names: ['lamb', 'org/alias'] })
})
test.after(async () => {
  await served.server.close()
  await served.model.dispose()
})

const greedy = { model: 'lamb', temperature: 0 }

test('a completion has the text, the counts and the shape that clients read', async () => {
  const answer = await served.json<Completion>('/v1/completions', { ...greedy, prompt: question, max_tokens: 8 })
  const alone = await served.model.complete(question, { temperature: 0, maxNewTokens: 8 })
  assert.is(answer.object, 'text_completion')
  assert.is(answer.model, 'lamb')
  assert.match(answer.id, /^cmpl-\w+$/)
  assert.equal(answer.choices, [{ text: alone.text, index: 0, logprobs: null, finish_reason: alone.finishReason }])
  const { tokens, promptTokens } = alone
  const counts = { prompt_tokens: promptTokens, completion_tokens: tokens.length, total_tokens: promptTokens + tokens.length }
  assert.equal(answer.usage, { ...counts, prompt_tokens_details: { cached_tokens: 0 } })
  const again = await served.json<Completion>('/v1/completions', { ...greedy, prompt: [question, question], max_tokens: 8 })
  assert.equal(again.choices.map(({ text }) => text), [alone.text, alone.text])
  assert.is(again.usage?.prompt_tokens_details?.cached_tokens, 2 * (promptTokens - 1), 'all but the token that is drawn from')
  const scored = await served.json<Completion>('/v1/completions', { ...greedy, prompt: question, max_tokens: 8, echo: true, logprobs: 1 })
  assert.is(scored.usage?.prompt_tokens_details?.cached_tokens, 0, 'its own log-probabilities are computed')
})

test('a chat is answered with the template of the model', async () => {
  const messages = [{ role: 'user', content: question }]
  const answer = await served.json<Chat>('/v1/chat/completions', { ...greedy, messages })
  assert.is(answer.object, 'chat.completion')
  assert.match(answer.choices[0]?.message.content ?? '', 'Tokyo')
  assert.is(answer.choices[0]?.finish_reason, 'stop')
  const parts = await served.json<Chat>('/v1/chat/completions', { ...greedy, messages: [{ role: 'user', content: [{ type: 'text', text: question }] }] })
  assert.equal(parts.choices, answer.choices)
})

test('a stream joins to the answer that comes at once, in several events', async () => {
  const body = { model: 'lamb', prompt: question, max_tokens: 24, temperature: 1, seed: 7, ignore_eos: true }
  const whole = await served.json<Completion>('/v1/completions', body)
  const events = await served.events<Completion>('/v1/completions', body)
  const choices = events.flatMap((event) => event.choices)
  assert.ok(events.length > 10, `${events.length} events`)
  assert.is(choices.map((choice) => choice.text).join(''), whole.choices[0]?.text)
  assert.equal(choices.map((choice) => choice.finish_reason).filter((reason) => reason !== null), ['length'])
  assert.is(new Set(events.map(({ id }) => id)).size, 1)
  assert.ok(events.every(({ usage }) => usage === undefined), 'no usage unless asked for')
})

test('a stream begins before it ends', async () => {
  const response = await fetch(`${served.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...long, stream: true }),
  })
  assert.is(response.headers.get('content-type'), 'text/event-stream; charset=utf-8')
  const reader = (response.body as ReadableStream<Uint8Array>).getReader()
  await reader.read()
  assert.is(served.model.stats().running, 1)
  await reader.cancel()
  await served.idle()
})

test('a chat stream has a role first, then text, then why it ended, then the usage that was asked for', async () => {
  const body = { ...greedy, messages: [{ role: 'user', content: question }] }
  const whole = await served.json<Chat>('/v1/chat/completions', body)
  const events = await served.events<ChatChunk>('/v1/chat/completions', { ...body, stream_options: { include_usage: true } })
  const last = events.pop()
  const cached = { cached_tokens: (whole.usage?.prompt_tokens ?? 0) - 1 } // it came before
  assert.equal([last?.choices, last?.usage], [[], { ...whole.usage, prompt_tokens_details: cached }])
  const choices = events.flatMap((event) => event.choices)
  assert.equal(choices[0]?.delta, { role: 'assistant', content: '' })
  assert.is(choices.map(({ delta }) => delta.content ?? '').join(''), whole.choices[0]?.message.content)
  assert.equal([choices.at(-1)?.delta, choices.at(-1)?.finish_reason], [{}, 'stop'])
  assert.ok(events.every(({ usage }) => usage === null))
})

test('several prompts and samples in a stream keep their numbers: prompt times n plus sample', async () => {
  const body = { model: 'lamb', prompt: ['One', 'Two of them', 'Three'], n: 2, max_tokens: 6, temperature: 1, seed: 3, ignore_eos: true, logprobs: 1, echo: true }
  const whole = await served.json<Completion>('/v1/completions', body)
  assert.equal(whole.choices.map(({ index }) => index), [0, 1, 2, 3, 4, 5])
  const choices = (await served.events<Completion>('/v1/completions', body)).flatMap((event) => event.choices)
  for (const { index, text, logprobs } of whole.choices) {
    const parts = choices.filter((choice) => choice.index === index)
    assert.is(parts.map((part) => part.text).join(''), text)
    for (const column of ['tokens', 'token_logprobs', 'top_logprobs', 'text_offset'] as const) {
      assert.equal(parts.flatMap((part): unknown[] => part.logprobs?.[column] ?? []), logprobs?.[column], column)
    }
  }
})

test('echo with logprobs has an entry for each token of the prompt and each new one, the first null, and equal numbers for the best token', async () => {
  const prompts = [[5, 9, 200, 31], [7], Array.from({ length: 200 }, (_, i) => (i * 37 + 11) % 2000)]
  const body = { model: 'lamb', prompt: prompts, max_tokens: 1, temperature: 0, logprobs: 1, echo: true, seed: 1234 }
  const { choices } = await served.json<Completion>('/v1/completions', body)
  assert.is(choices.length, 3)
  for (const { index, logprobs } of choices) {
    const length = (prompts[index]?.length ?? 0) + 1
    const { tokens = [], token_logprobs: values = [], top_logprobs: tops = [], text_offset: offsets = [] } = logprobs ?? {}
    assert.equal([tokens.length, values.length, tops.length, offsets.length], [length, length, length, length])
    assert.equal([values[0], tops[0]], [null, null])
    values.slice(1).forEach((value, i) => assert.ok(value !== null && value <= Math.max(...Object.values(tops[i + 1] ?? {}))))
    assert.is(values.at(-1), Math.max(...Object.values(tops.at(-1) ?? {})), 'the greedy token is the best one, to the last digit')
  }
  const scored = await served.model.score([prompts[2] ?? []], { topLogprobs: 1 })
  assert.equal(choices[2]?.logprobs?.token_logprobs.slice(0, -1), scored[0]?.map((entry) => entry?.logprob ?? null))
})

test('best_of gives the n answers with the best log-probability', async () => {
  const body = { model: 'lamb', prompt: question, max_tokens: 6, temperature: 1, seed: 11, ignore_eos: true, logprobs: 0 }
  const all = await served.json<Completion>('/v1/completions', { ...body, n: 6 })
  const best = await served.json<Completion>('/v1/completions', { ...body, n: 2, best_of: 6 })
  const mean = (choice: Completion['choices'][0]): number => {
    const values = choice.logprobs?.token_logprobs ?? []
    return values.reduce<number>((sum, value) => sum + (value ?? 0), 0) / values.length
  }
  const order = all.choices.toSorted((a, b) => mean(b) - mean(a)).map((choice) => choice.text)
  assert.equal(best.choices.map(({ text }) => text), order.slice(0, 2))
  assert.equal(best.choices.map(({ index }) => index), [0, 1])
  assert.is(best.usage?.completion_tokens, all.usage?.completion_tokens)
})

test('a seed gives the same text alone and among sixteen', async () => {
  const ask = async (seed: number): Promise<string> => {
    const body = { model: 'lamb', prompt: question, max_tokens: 16, temperature: 1, seed, ignore_eos: true }
    return (await served.json<Completion>('/v1/completions', body)).choices[0]?.text ?? ''
  }
  const seeds = Array.from({ length: 16 }, (_, i) => i - 3)
  const together = await Promise.all(seeds.map(ask))
  const alone: string[] = []
  for (const seed of seeds) alone.push(await ask(seed))
  assert.equal(together, alone)
  assert.ok(new Set(alone).size > 8)
})

test('logit_bias, penalties and stop reach the model', async () => {
  const plain = await served.model.complete('One two', { temperature: 0, maxNewTokens: 1 })
  const first = plain.tokens[0] ?? -1
  const biased = await served.json<Completion>('/v1/completions', { ...greedy, prompt: 'One two', max_tokens: 1, logit_bias: { [first]: -100 }, logprobs: 0 })
  assert.is.not(biased.choices[0]?.logprobs?.tokens[0], served.model.tokenizer.decode([first], { skipSpecial: false }))
  const body = { ...greedy, messages: [{ role: 'user', content: question }] }
  assert.not.match((await served.json<Chat>('/v1/chat/completions', { ...body, stop: ['Tok'] })).choices[0]?.message.content ?? '', 'Tok')
})

test('the models are listed by each of their names and found by it', async () => {
  const { data } = JSON.parse((await served.get('/v1/models')).text) as { data: { id: string; root: string }[] }
  assert.equal(data.map(({ id, root }) => [id, root]), [['lamb', 'lamb'], ['org/alias', 'lamb']])
  for (const path of ['/v1/models/lamb', '/v1/models/org/alias', '/v1/models/org%2Falias']) assert.is((await served.get(path)).status, 200, path)
  const missing = await served.get('/v1/models/gpt-4')
  assert.is(missing.status, 404)
  assert.match(missing.text, 'model_not_found')
  assert.is((await served.json<Completion>('/v1/completions', { model: 'org/alias', prompt: 'a', max_tokens: 1 })).model, 'lamb')
})

test('text becomes ids and ids become text, and the special tokens are told', async () => {
  const text = 'Ähnlich: 水 ### End'
  const { tokens, count } = await served.json<{ tokens: number[]; count: number }>('/tokenize', { prompt: text, add_special_tokens: false })
  assert.equal(tokens, [...(await served.model.tokenizer.encode(text))])
  assert.is(count, tokens.length)
  assert.equal(await served.json('/detokenize', { tokens }), { prompt: text })
  const info = JSON.parse((await served.get('/tokenizer_info')).text) as Record<string, unknown>
  assert.is(info['eos_token'], '<|endoftext|>')
  assert.ok('bos_token' in info && 'pad_token' in info && 'chat_template' in info)
})

test('a server for callers that make the template reads special tokens in texts, unless a body says otherwise', async () => {
  const trusting = await Served.over(served.model, { parseSpecial: true })
  const prompt = '### Instruction:\nName a fruit.\n\n### Response:\n'
  const count = async (body: object): Promise<number> => (await trusting.json<{ count: number }>('/tokenize', { prompt, ...body })).count
  const special = (await served.model.tokenizer.encodeWithSpecial(prompt)).length
  assert.is(await count({}), special)
  assert.ok((await count({ parse_special: false })) > special)
  assert.is((await trusting.json<Completion>('/v1/completions', { model: 'lamb', prompt, max_tokens: 1 })).usage?.prompt_tokens, special)
  await trusting.server.close()
})

test('health, readiness and version are told', async () => {
  for (const path of ['/health', '/live', '/ready']) assert.equal([(await served.get(path)).status, (await served.get(path)).text], [200, '{"status":"ok"}'], path)
  assert.match((await served.get('/version')).text, /^\{"version":"\d+\.\d+\.\d+"\}$/)
  assert.is((await served.get('/health', { method: 'HEAD' })).status, 200)
})

test('the metrics count requests, tokens and times, under our names and those of vLLM', async () => {
  const read = async (): Promise<Record<string, number>> =>
    Object.fromEntries([...(await served.get('/metrics')).text.matchAll(/^([\w:]+)\{([^}]*)\} (\S+)$/gm)].map(([, name, , value]) => [name ?? '', Number(value)]))
  const before = await read()
  const { usage } = await served.json<Completion>('/v1/completions', { model: 'lamb', prompt: question, max_tokens: 9, seed: 1, ignore_eos: true })
  const now = await read()
  const grown = (name: string): number => (now[name] ?? NaN) - (before[name] ?? 0)
  for (const names of [['ewe_generated_tokens_total', 'vllm:generation_tokens_total'], ['ewe_request_generated_tokens_sum', 'vllm:request_generation_tokens_sum']]) {
    for (const name of names) assert.is(grown(name), usage?.completion_tokens, name)
  }
  for (const name of ['ewe_prompt_tokens_total', 'vllm:prompt_tokens_total', 'ewe_request_prompt_tokens_sum']) assert.is(grown(name), usage?.prompt_tokens, name)
  for (const name of ['ewe_time_to_first_token_seconds_count', 'vllm:e2e_request_latency_seconds_count']) assert.is(grown(name), 1, name)
  assert.is(grown('vllm:inter_token_latency_seconds_count'), 8)
  for (const name of ['vllm:num_requests_running', 'vllm:num_requests_waiting', 'vllm:kv_cache_usage_perc']) assert.is(now[name], 0, name)
})

test('the description lists every path with its schemas', async () => {
  const { paths, components } = JSON.parse((await served.get('/openapi.json')).text) as { paths: Record<string, Record<string, object>>; components: { schemas: Record<string, object> } }
  for (const path of ['/v1/completions', '/v1/chat/completions', '/v1/models', '/v1/models/{model}', '/tokenize', '/health', '/metrics']) assert.ok(path in paths, path)
  const text = JSON.stringify([paths['/v1/completions']?.['post'], components.schemas['CompletionRequest'], components.schemas['Completion']])
  for (const name of ['"logit_bias"', '"best_of"', '"token_logprobs"', '"429"', 'text/event-stream', '"retry-after"', '"model":{"enum":["lamb"']) assert.match(text, name)
  assert.is((components.schemas['TokenId'] as { maximum: number }).maximum, served.model.config.vocab - 1)
})

test('the page comes with its own files only', async () => {
  const page = await served.get('/')
  assert.match(page.headers.get('content-security-policy') ?? '', /^default-src 'none'; .*; script-src 'self'; style-src 'self'/)
  assert.not.match(page.text, /<style|<script>|style=|\son\w+=|https?:/)
  const named = [...page.text.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, path]) => path ?? '')
  assert.equal([...new Set(named)].sort(), ['icon.svg', 'page.css', 'page.js'])
  for (const path of named) assert.is((await served.get(`/${path}`)).status, 200, path)
})

test('the log has a line for each request, with counts and without text', async () => {
  served.lines.length = 0
  const secret = 'zebra umbrella'
  await served.json('/v1/completions', { model: 'lamb', prompt: secret, max_tokens: 3, seed: 1, ignore_eos: true }, { headers: { 'x-request-id': 'mine-1' } })
  await served.events('/v1/completions', { model: 'lamb', prompt: secret, max_tokens: 3, seed: 1, ignore_eos: true })
  await served.post('/v1/completions', { model: secret, prompt: secret, stop: secret, n: secret })
  for (const path of ['/health', '/live', '/ready', '/metrics']) await served.get(path) // watched again and again: no lines
  const [first, second, third, fourth] = served.lines
  assert.is(fourth, undefined)
  assert.is(first?.['id'], 'mine-1')
  assert.equal([first?.['status'], first?.['promptTokens'], first?.['completionTokens']], [200, second?.['promptTokens'], 3])
  assert.equal([second?.['status'], second?.['stream'], second?.['completionTokens']], [200, true, 3])
  assert.equal([first?.['cachedTokens'], second?.['cachedTokens']], [0, Number(first?.['promptTokens']) - 1])
  assert.is(third?.['status'], 400)
  assert.not.match(JSON.stringify(served.lines), /zebra|umbrella/)
})

test('an id of the client comes back, and one that is none is replaced', async () => {
  const idOf = async (id: string): Promise<string> => (await served.get('/live', { headers: { 'x-request-id': id } })).headers.get('x-request-id') ?? ''
  assert.is(await idOf('trace:1.2_3-4'), 'trace:1.2_3-4')
  assert.match(await idOf('a b'), /^req_[0-9a-f]{32}$/)
  assert.match(await idOf('x'.repeat(129)), /^req_/)
})

test.run()
