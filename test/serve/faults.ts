// What goes wrong: each fault has a clear answer, and the next good request is served.
import { connect } from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Model } from '../../src/index.js'
import { good, Served, loadLamb, long, question, until, type Reply } from './served.js'

let model: Model
let served: Served
const others: Served[] = []
test.before(async () => {
  model = await loadLamb()
  served = await Served.over(model, { maxBody: 100_000 })
})
test.after(async () => {
  for (const each of [served, ...others]) await each.server.close()
  await model.dispose()
})

interface Problem {
  message: string
  type: string
  param: string | null
  code: string | null
}

function problemOf({ text }: Reply): Problem {
  const { error } = JSON.parse(text) as { error: Problem }
  assert.type(error.message, 'string')
  assert.type(error.type, 'string')
  assert.ok(error.param === null || typeof error.param === 'string')
  assert.ok(error.code === null || typeof error.code === 'string')
  return error
}

const refused: [what: string, path: string, body: object, param: string, message: RegExp][] = [
  ['no prompt', '/v1/completions', { model: 'lamb' }, 'prompt', /Expected a text/],
  ['no model', '/v1/completions', { prompt: 'a' }, 'model', /Expected the name of the model, lamb/],
  ['a suffix', '/v1/completions', { ...good, suffix: 'x' }, 'suffix', /not filled in/],
  ['an id beyond the vocabulary', '/v1/completions', { ...good, prompt: [1, 99999] }, 'prompt[0][1]', /a token id from 0 to/],
  ['a bias of an id beyond the vocabulary', '/v1/completions', { ...good, logit_bias: { 99999: 1 } }, 'logit_bias', /token ids from 0 to/],
  ['best_of below n', '/v1/completions', { ...good, n: 3, best_of: 2 }, 'best_of', /at least n/],
  ['best_of of a stream', '/v1/completions', { ...good, best_of: 2, stream: true }, 'best_of', /without `stream`/],
  ['JSON as format', '/v1/chat/completions', { model: 'lamb', messages: [{ role: 'user', content: 'a' }], response_format: { type: 'json_object' } }, 'response_format', /"text"/],
  ['an image', '/v1/chat/completions', { model: 'lamb', messages: [{ role: 'user', content: [{ type: 'image_url' }] }] }, 'messages.0.content', /type `text`/],
  ['an answer as last turn', '/v1/chat/completions', { model: 'lamb', messages: [{ role: 'assistant', content: 'a' }] }, 'messages.0.role', /ends with `user`/],
  ['a text that is none', '/tokenize', { prompt: 7 }, 'prompt', /Expected a string/],
  ['ids that are none', '/detokenize', { tokens: [1.5] }, 'tokens', /token ids/],
  ['an id of nothing', '/detokenize', { tokens: [0, 99999] }, 'tokens.1', /a token id from 0 to/],
]
for (const [what, path, body, param, message] of refused) {
  test(`refuses ${what} by name`, async () => {
    const reply = await served.post(path, body)
    assert.is(reply.status, 400)
    const problem = problemOf(reply)
    assert.match(problem.message, message)
    assert.equal([problem.type, problem.param], ['invalid_request_error', param])
  })
}

test('a prompt beyond the context has its own code, and so does an unknown model', async () => {
  const tooLong = await served.post('/v1/completions', { ...good, prompt: Array.from({ length: 4096 }, () => 5) })
  assert.equal([tooLong.status, problemOf(tooLong).code], [400, 'context_length_exceeded'])
  const unknown = await served.post('/v1/completions', { ...good, model: 'gpt-4' })
  assert.equal([unknown.status, problemOf(unknown).code, problemOf(unknown).param], [404, 'model_not_found', 'model'])
})

test('keys that nothing knows do no harm', async () => {
  const extra = { user: 'me', service_tier: 'auto', store: true, metadata: { a: 'b' }, nonsense: [1], __proto__: { prompt: 'x' } }
  assert.is((await served.post('/v1/completions', { ...good, ...extra, suffix: '', response_format: { type: 'text' } })).status, 200)
})

test('paths, methods, types and sizes that are wrong have the status for it', async () => {
  const json = { 'content-type': 'application/json' }
  const cases: [string, RequestInit, number][] = [
    ['/nowhere', {}, 404],
    ['/v1/completions', {}, 405],
    ['/v1/models', { method: 'DELETE' }, 405],
    ['/v1/completions', { method: 'POST', body: '{}' }, 415],
    ['/v1/completions', { method: 'POST', body: '{}', headers: { 'content-type': 'application/x-www-form-urlencoded' } }, 415],
    ['/v1/completions', { method: 'POST', body: '{}', headers: { ...json, 'content-encoding': 'gzip' } }, 415],
    ['/v1/completions', { method: 'POST', body: ' '.repeat(100_001), headers: json }, 413],
    ['/v1/completions', { method: 'POST', body: endless(), duplex: 'half', headers: json }, 413],
  ]
  for (const [path, init, status] of cases) {
    const reply = await served.get(path, init)
    assert.is(reply.status, status, `${path} ${init.method ?? 'GET'}`)
    problemOf(reply)
    assert.is(reply.headers.get('allow'), status === 405 ? (path === '/v1/models' ? 'GET' : 'POST') : null)
  }
  await served.serves()
})

/** A body without a length, larger than the limit. */
function endless(): ReadableStream<Uint8Array> {
  let left = 20
  return new ReadableStream({
    pull(controller) {
      if (left-- === 0) controller.close()
      else controller.enqueue(new Uint8Array(10_000).fill(32))
    },
  })
}

test('bodies that are no JSON object are refused, whatever their bytes', async () => {
  const bodies = ['', '{', 'null', '[]', '7', '"a"', '{"model":"lamb",}', '\u0000', '{"a":1e999', '['.repeat(50_000), Buffer.from([0x7b, 0xff, 0x7d])]
  for (const body of bodies) {
    const reply = await served.get('/v1/completions', { method: 'POST', body, headers: { 'content-type': 'application/json' } })
    assert.equal([reply.status, problemOf(reply).code], [400, 'invalid_json'], String(body).slice(0, 20))
  }
})

/** mulberry32: the same numbers for the same seed. */
function numbers(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

const deep = JSON.parse('['.repeat(2000) + ']'.repeat(2000)) as unknown
const odd = [null, true, false, 0, -1, 1, 2, 0.5, 1e308, -1e-9, 2 ** 53, 2 ** 31, '', 'lamb', 'a', '\ud800', '\u0000', 'é'.repeat(3000), [], {}, [[]], [[], [1]]]
const odder = [[1.5], [-1], ['a', 1], [1, 'a'], [[1], 'a'], [5, 6], [[5], [6, 7]], ['a', 'b'], { a: 1 }, { type: 'text' }, { 5: 1 }, { 5: 'x' }, { '-1': 1 }, deep]
const values: unknown[] = [...odd, ...odder, [{ role: 'user', content: 'a' }], [{ role: 'user' }], [{ role: 'x', content: 'a' }], [{ role: 'user', content: [{ type: 'text' }] }]]
const bases: Record<string, object> = {
  '/v1/completions': { ...good, n: 1, best_of: 1, stop: ['x'], seed: 1, echo: false, logprobs: 1, top_p: 1, logit_bias: {}, stream: false, suffix: '', stream_options: {}, presence_penalty: 0 },
  '/v1/chat/completions': { model: 'lamb', messages: [{ role: 'user', content: 'a' }], max_tokens: 1, top_logprobs: 1, logprobs: true, n: 1, stop: 'x', tools: [], stream: false },
  '/tokenize': { prompt: 'a', model: 'lamb', add_special_tokens: false, return_token_strs: true },
  '/detokenize': { tokens: [5], model: 'lamb' },
}

test('no body makes an error of the server: 800 random ones, each with one to three odd values', async () => {
  const counts = new Map<number, number>()
  for (let seed = 1; seed <= 800; seed++) {
    const random = numbers(seed)
    const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!
    const path = pick(Object.keys(bases))
    const body = { ...bases[path] } as Record<string, unknown>
    for (let changes = 1 + Math.floor(random() * 3); changes > 0; changes--) {
      const key = pick(Object.keys(bases[path] ?? {}))
      if (random() < 0.2) delete body[key]
      else body[key] = pick(values)
    }
    const reply = await served.post(path, body)
    counts.set(reply.status, (counts.get(reply.status) ?? 0) + 1)
    const shown = `seed ${seed}: ${path} ${JSON.stringify(body).slice(0, 300)} gives ${reply.status} ${reply.text.slice(0, 200)}`
    assert.ok([200, 400, 404].includes(reply.status), shown)
    if (reply.status !== 200) assert.ok(problemOf(reply).message !== '' && !problemOf(reply).message.includes('Invalid input'), shown)
  }
  assert.ok((counts.get(200) ?? 0) > 50 && (counts.get(400) ?? 0) > 200, JSON.stringify([...counts]))
  await served.idle()
})

test('a key is asked for where there are keys, and appears nowhere', async () => {
  const keyed = await Served.over(model, { apiKeys: ['sk-first', 'sk-second'] })
  others.push(keyed)
  const ask = (authorization?: string): Promise<Reply> => keyed.post('/v1/completions', good, authorization === undefined ? {} : { headers: { authorization } })
  for (const wrong of [undefined, '', 'Bearer', 'Bearer ', 'Bearer sk-firs', 'Bearer sk-firstx', 'Basic sk-first', 'sk-first', 'Bearer sk-first sk-second']) {
    const reply = await ask(wrong)
    assert.equal([reply.status, problemOf(reply).code, reply.headers.get('www-authenticate')], [401, 'invalid_api_key', 'Bearer'], wrong)
  }
  for (const right of ['Bearer sk-first', 'bearer sk-second']) assert.is((await ask(right)).status, 200)
  for (const path of ['/', '/page.js', '/health', '/live', '/ready', '/version', '/openapi.json']) assert.is((await keyed.get(path)).status, 200, path)
  for (const path of ['/v1/models', '/metrics', '/tokenizer_info']) assert.is((await keyed.get(path)).status, 401, path)
  assert.not.match(JSON.stringify(keyed.lines), 'sk-')
})

test('web pages of other origins may not call unless their origin is named', async () => {
  const asking = { headers: { origin: 'https://page.example' } }
  assert.is((await served.get('/v1/models', asking)).headers.get('access-control-allow-origin'), null)
  assert.is((await served.get('/v1/completions', { method: 'OPTIONS', ...asking })).status, 405)
  const open = await Served.over(model, { corsOrigins: ['https://page.example'] })
  others.push(open)
  assert.is((await open.get('/v1/models', asking)).headers.get('access-control-allow-origin'), 'https://page.example')
  assert.is((await open.get('/v1/models', { headers: { origin: 'https://other.example' } })).headers.get('access-control-allow-origin'), null)
})

test('limits of tokens and of time are kept', async () => {
  const limited = await Served.over(model, { maxTokens: 4, deadline: 20 })
  others.push(limited)
  const many = await limited.post('/v1/completions', { ...good, max_tokens: 5 })
  assert.equal([many.status, problemOf(many).param], [400, 'max_tokens'])
  const slow = await Served.over(model, { deadline: 1 })
  others.push(slow)
  const late = await slow.post('/v1/completions', long)
  assert.equal([late.status, problemOf(late).code], [504, 'deadline_exceeded'])
  await served.idle()
})

test('a full queue says when to try again, and serves on', async () => {
  const small = await loadLamb({ maxBatch: 1, maxQueue: 2 })
  const queue = await Served.over(small)
  const leaving = new AbortController()
  const ask = async (): Promise<void> => {
    while (!leaving.signal.aborted) await queue.post('/v1/completions', long, { signal: leaving.signal }).catch(() => {})
  }
  const waiting = Array.from({ length: 6 }, ask)
  for (const stream of [false, true]) {
    let full: Reply | undefined // where one has just come to its end, there is room for a moment
    await until('a full queue', async () => (full = await queue.post('/v1/completions', { ...good, stream })).status === 429)
    assert.equal([full?.headers.get('retry-after'), problemOf(full!).code], ['1', 'queue_full'])
  }
  leaving.abort()
  await Promise.all(waiting)
  await queue.idle()
  assert.is((await queue.post('/v1/completions', good)).status, 200)
  await queue.server.close()
  await small.dispose()
})

test('draining refuses new work, ends what runs and closes the port', async () => {
  const draining = await Served.over(model)
  const running = draining.events('/v1/completions', { ...long, seed: 1 })
  await until('one that runs', () => model.stats().running === 1)
  const drained = draining.server.drain()
  const ready = await draining.get('/ready')
  assert.equal([ready.status, problemOf(ready).code], [503, 'draining'])
  assert.is((await draining.get('/live')).status, 200)
  const late = await draining.post('/v1/completions', good)
  assert.equal([late.status, late.headers.get('retry-after'), problemOf(late).code], [503, '5', 'draining'])
  assert.ok((await running).length > 100)
  await drained
  await draining.get('/live').then(() => assert.unreachable(), () => {})
})

test('what runs longer than the time to drain is given up, with an error in its place', async () => {
  const draining = await Served.over(model)
  const response = await fetch(`${draining.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...long, n: 8, stream: true }),
  })
  const whole = draining.post('/v1/completions', { ...long, n: 8 })
  await until('both under way', () => model.stats().running + model.stats().queued >= 16)
  const drained = draining.server.drain(1)
  const text = await response.text()
  assert.match(text, /\n\ndata: \{"error":\{"message":"This server stopped [^\n]*"code":"draining"\}\}\n\n$/)
  assert.is((await whole).status, 503)
  await drained
  await served.idle()
})

test('a port in use is an error that says so', async () => {
  const port = Number(new URL(served.url).port)
  const second = await Served.over(model)
  others.push(second)
  await second.server.listen({ port }).then(() => assert.unreachable(), (error: Error) => assert.match(error.message, 'listens already'))
  const third = (await import('../../src/serve/server.js')).createServer(model)
  await third.listen({ port }).then(
    () => assert.unreachable(),
    (error: Error & { code: string }) => assert.equal([error.code, error.message], ['EWE_LISTEN', `Port ${port} of 127.0.0.1 is in use: choose another, or 0 for any free one`]),
  )
  await third.close()
})

test('requests that are none are refused in the same shape', async () => {
  const socket = connect(Number(new URL(served.url).port), '127.0.0.1')
  socket.write('GET /live HTTP/1.1\r\nhost: a b/\\\r\nconnection: close\r\n\r\n')
  let text = ''
  for await (const chunk of socket) text += String(chunk)
  assert.match(text, /^HTTP\/1\.1 400 /)
  assert.match(text, '{"error":{"message":')
})

test('without its model the server says so', async () => {
  const gone = await loadLamb()
  const orphan = await Served.over(gone)
  await gone.dispose()
  assert.is((await orphan.get('/health')).status, 503)
  assert.is((await orphan.get('/live')).status, 200)
  const reply = await orphan.post('/v1/chat/completions', { model: 'lamb', messages: [{ role: 'user', content: question }] })
  assert.equal([reply.status, problemOf(reply).code], [503, 'model_gone'])
  await orphan.server.close()
})

test('the library leaves signals alone', () => {
  for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP']) assert.is(process.listenerCount(name), 0, name)
})

test.run()
