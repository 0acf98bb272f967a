// What is no HTTP, or too much of it: an answer that says so, or an end of the connection, and nobody else notices.
import { connect, type Socket } from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Model } from '../../src/index.js'
import { good, loadLamb, Served, until } from './served.js'

let model: Model
let served: Served
test.before(async () => {
  model = await loadLamb()
  served = await Served.over(model)
})
test.after(async () => {
  await served.server.close()
  await model.dispose()
})

function open(): Socket {
  return connect(Number(new URL(served.url).port), '127.0.0.1')
}

/** All that the server says to these bytes, until it closes the connection. */
async function say(bytes: string | Buffer): Promise<string> {
  const socket = open()
  socket.write(bytes)
  let text = ''
  for await (const chunk of socket) text += String(chunk)
  return text
}

const head = 'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n'
const body = JSON.stringify(good)
const cases: [what: string, bytes: string | Buffer, status: number][] = [
  ['a word', 'hello\r\n\r\n', 400],
  ['random bytes', Buffer.from(Array.from({ length: 500 }, (_, i) => (i * 197 + 131) % 256)), 400],
  ['the beginning of TLS', Buffer.from('16030100c8010000c40303', 'hex'), 400],
  ['the preface of HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
  ['an unknown version', 'GET /live HTTP/7.3\r\nhost: a\r\n\r\n', 400],
  ['an unknown method', 'BREW /live HTTP/1.1\r\nhost: a\r\n\r\n', 400],
  ['no host', 'GET /live HTTP/1.1\r\nconnection: close\r\n\r\n', 400],
  ['a head without colons', 'GET /live HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n', 400],
  ['a zero in a head', 'GET /live HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n', 400],
  ['a folded head', 'GET /live HTTP/1.1\r\nhost: a\r\n x: y\r\n\r\n', 400],
  ['two lengths', `${head}content-length: 5\r\ncontent-length: 6\r\n\r\n${body}`, 400],
  ['a negative length', `${head}content-length: -5\r\n\r\n${body}`, 400],
  ['a length that is no number', `${head}content-length: many\r\n\r\n${body}`, 400],
  ['a length and chunks', `${head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`, 400],
  ['chunks of no size', `${head}transfer-encoding: chunked\r\n\r\nxyz\r\n${body}\r\n0\r\n\r\n`, 400],
  ['an unknown coding', `${head}transfer-encoding: zip\r\n\r\n${body}`, 400],
  ['an expectation of nothing known', `${head}expect: miracles\r\ncontent-length: ${body.length}\r\n\r\n${body}`, 417],
  ['a head of 100 KB', `GET /live HTTP/1.1\r\nhost: a\r\nx: ${'y'.repeat(100_000)}\r\n\r\n`, 431],
  ['3000 heads', `GET /live HTTP/1.1\r\nhost: a\r\n${Array.from({ length: 3000 }, (_, i) => `x-${i}: y\r\n`).join('')}\r\n`, 431],
  ['a path of 100 KB', `GET /${'y'.repeat(100_000)} HTTP/1.1\r\nhost: a\r\n\r\n`, 431],
  ['a body shorter than its length', `${head}content-length: ${body.length - 5}\r\n\r\n${body.slice(0, -5)}`, 400],
]
for (const [what, bytes, status] of cases) {
  test(`${what}: ${status}, and the next good request is served`, async () => {
    const text = await say(bytes)
    const [, given, rest = ''] = /^HTTP\/1\.1 (\d+) .*?\r\n\r\n(.*)$/s.exec(text) ?? []
    assert.is(Number(given), status, text.slice(0, 200))
    // Node itself answers an expectation that it does not know.
    if (status !== 417) assert.type((JSON.parse(rest.replace(/^[\da-f]+\r\n|\r\n0\r\n\r\n$/g, '')) as { error: { message: string } }).error.message, 'string')
    await served.serves()
  })
}

test('a body that ends before its length leaves no work behind', async () => {
  const before = model.stats().generatedTokens
  const socket = open()
  socket.end(`${head}content-length: 1000\r\n\r\n${body}`)
  for await (const _ of socket);
  await served.serves()
  assert.is(model.stats().generatedTokens, before + 1)
})

test('a client that asks whether to go on is told to', async () => {
  const socket = open()
  socket.write(`${head}expect: 100-continue\r\ncontent-length: ${body.length}\r\n\r\n`)
  let text = ''
  for await (const chunk of socket) {
    text += String(chunk)
    if (text === 'HTTP/1.1 100 Continue\r\n\r\n') socket.write(body)
  }
  assert.match(text, /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK/)
})

test('requests that come in one piece are answered in their order', async () => {
  const one = (path: string, end = ''): string => `GET ${path} HTTP/1.1\r\nhost: localhost\r\n${end}\r\n`
  const text = await say(one('/live') + one('/nowhere') + one('/version') + one('/v1/models', 'connection: close\r\n'))
  assert.equal([...text.matchAll(/HTTP\/1\.1 (\d+) /g)].map(([, status]) => status), ['200', '404', '200', '200'])
})

test('what is no request is counted', async () => {
  const count = async (): Promise<number> => Number(/^ewe_http_requests_total\{route="none",status="400"[^}]*\} (\d+)$/m.exec((await served.get('/metrics')).text)?.[1] ?? 0)
  const before = await count()
  await say('hello\r\n\r\n')
  assert.is(await count(), before + 1)
})

test('300 connections that say nothing, or the beginning of a head over and over, keep nobody from being served', async () => {
  const sockets = Array.from({ length: 300 }, open)
  for (const socket of sockets) socket.on('error', () => {}).resume()
  await until('connections', () => sockets.every((socket) => !socket.connecting))
  sockets.forEach((socket, i) => i % 2 === 0 && socket.write('GET /live HTTP/1.1\r\nhost: localhost\r\n'))
  let sent = 0
  const flood = setInterval(() => {
    sockets.forEach((socket, i) => i % 2 === 0 && socket.writable && socket.write(`x-${sent}: ${'y'.repeat(500)}\r\n`))
    sent++
  }, 5)
  for (let i = 0; i < 20; i++) await served.serves()
  await until('heads that are too large', () => sent > 40)
  clearInterval(flood)
  await until('the end of those that sent too much', () => sockets.filter((socket) => socket.destroyed).length >= 150)
  for (const socket of sockets) socket.destroy()
  await served.serves()
})

test.run()
