// Names that requests may call a server by: a web page must not reach a server of this machine through a name of the page's own.
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Model } from '../../src/index.js'
import { isLoopback } from '../../src/serve/hosts.js'
import { createServer, type ServerOptions } from '../../src/serve/server.js'
import { loadLamb, Served } from './served.js'

let model: Model
test.before(async () => {
  model = await loadLamb()
})
test.after(() => model.dispose())

/** The status of a good request under a name. */
async function ask(url: string, host: string, path = '/v1/models', headers = {}): Promise<number> {
  const sent = request(url + path, { headers: { host, ...headers } }).end()
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  let text = ''
  for await (const chunk of response) text += String(chunk)
  if (response.statusCode === 421) assert.is((JSON.parse(text) as { error: { code: string } }).error.code, 'host_not_allowed')
  return response.statusCode ?? 0
}

async function serving(options: ServerOptions, work: (url: string, port: string) => Promise<void>): Promise<void> {
  const served = await Served.over(model, options)
  await work(served.url, new URL(served.url).port)
  await served.server.close()
}

test('without keys, a server of this machine answers under its own names only', async () => {
  await serving({}, async (url, port) => {
    for (const host of [`127.0.0.1:${port}`, `localhost:${port}`, 'localhost', 'LOCALHOST', 'localhost.', `[::1]:${port}`, '[::1]', '127.0.0.2', 'app.localhost']) assert.is(await ask(url, host), 200, host)
    for (const host of [`evil.example:${port}`, 'evil.example', '127.0.0.1.evil.example', 'localhost.evil.example', 'notlocalhost', '10.0.0.1', '127.evil.example']) assert.is(await ask(url, host), 421, host)
  })
})

test('no work is done for a name that is not its own, and health is told under every name', async () => {
  await serving({}, async (url) => {
    const before = model.stats().generatedTokens
    const sent = request(`${url}/v1/completions`, { method: 'POST', headers: { host: 'evil.example', 'content-type': 'application/json' } })
    sent.end(JSON.stringify({ model: 'lamb', prompt: 'a', max_tokens: 1 }))
    const [response] = (await once(sent, 'response')) as [IncomingMessage]
    response.resume()
    assert.is(response.statusCode, 421)
    assert.is(model.stats().generatedTokens, before)
    for (const path of ['/health', '/live', '/ready']) assert.is(await ask(url, 'probe.example', path), 200, path)
    for (const path of ['/metrics', '/tokenizer_info']) assert.is(await ask(url, 'probe.example', path), 421, path)
  })
})

test('names that are allowed are answered beside its own, and * allows all', async () => {
  await serving({ allowedHosts: ['Ewe.example', '10.0.0.1'] }, async (url, port) => {
    for (const host of ['ewe.example', `EWE.example:${port}`, '10.0.0.1:80', `localhost:${port}`]) assert.is(await ask(url, host), 200, host)
    for (const host of ['other.example', 'a.ewe.example', 'ewe.example.evil']) assert.is(await ask(url, host), 421, host)
  })
  await serving({ allowedHosts: ['*'] }, async (url) => assert.is(await ask(url, 'any.example'), 200))
})

test('keys make names of no matter, unless names are given', async () => {
  const authorization = 'Bearer sk-1'
  await serving({ apiKeys: ['sk-1'] }, async (url) => assert.is(await ask(url, 'any.example', '/v1/models', { authorization }), 200))
  await serving({ apiKeys: ['sk-1'], allowedHosts: ['ewe.example'] }, async (url) => {
    assert.is(await ask(url, 'ewe.example', '/v1/models', { authorization }), 200)
    assert.is(await ask(url, 'any.example', '/v1/models', { authorization }), 421)
  })
})

test('a server that listens nowhere, or at all addresses, takes every name', async () => {
  const embedded = createServer(model)
  assert.is((await embedded.fetch(new Request('http://any.example/v1/models'))).status, 200)
  const { port } = await embedded.listen({ host: '0.0.0.0', port: 0 })
  assert.is(await ask(`http://127.0.0.1:${port}`, 'any.example'), 200)
  await embedded.close()
  const named = createServer(model, { allowedHosts: ['ewe.example'] })
  assert.is((await named.fetch(new Request('http://ewe.example/v1/models'))).status, 200)
  assert.is((await named.fetch(new Request('http://any.example/v1/models'))).status, 421)
})

test('what is no host name is refused as an option', () => {
  for (const wrong of ['http://a', 'a:80', 'a b', '']) assert.throws(() => createServer(model, { allowedHosts: [wrong] }), /allowedHosts/)
})

test('addresses of this machine alone are told from others', () => {
  for (const host of ['127.0.0.1', '127.1.2.3', '::1', '[::1]', 'localhost', 'a.localhost']) assert.ok(isLoopback(host), host)
  for (const host of ['0.0.0.0', '::', '10.0.0.1', '127.0.0.1.example', 'localhost.example', '128.0.0.1', '::2']) assert.not.ok(isLoopback(host), host)
})

test.run()
