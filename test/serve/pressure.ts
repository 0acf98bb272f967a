// More than a server can do at once, and clients that are slow, leave, or ask for what does not fit: all of it is bounded, and good requests are served.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Model } from '../../src/index.js'
import { good, loadLamb, long, Served, until, type Completion, type Line } from './served.js'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

let model: Model
let served: Served
/** Tokens that were drawn when the last line of the log was written. */
let drawn = 0
test.before(async () => {
  model = await loadLamb()
  const keep = (fields: object): void => {
    served.lines.push(fields as Line)
    drawn = model.stats().generatedTokens
  }
  served = await Served.over(model, { log: { info: keep, warn: keep, error: keep } })
})
test.after(async () => {
  await served.server.close()
  await model.dispose()
})

async function connected(count: number): Promise<Socket[]> {
  const sockets: Socket[] = []
  for (let i = 0; i < count; i++) {
    const socket = connect(Number(new URL(served.url).port), '127.0.0.1')
    sockets.push(socket)
    await once(socket, 'connect')
    socket.on('error', () => {})
  }
  return sockets
}

const head = (length: number): string => `POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${length}\r\n\r\n`

test('a client that leaves ends its work within one step, streaming or not', async () => {
  for (const stream of [true, false]) {
    await served.serves() // what was cancelled before is counted now
    const { cancelled } = model.stats()
    const leaving = new AbortController()
    const request = served.post('/v1/completions', { ...long, stream }, { signal: leaving.signal })
    await until('one that runs', () => model.stats().running === 1)
    leaving.abort()
    await request.then(() => assert.unreachable(), () => {})
    await served.idle()
    assert.is(model.stats().cancelled, cancelled + 1, `stream: ${stream}`)
    assert.is(served.lines.at(-1)?.['status'], 499)
    // The step under way when the server heard of it, and one whose counts were not told yet.
    const after = model.stats().generatedTokens - drawn
    assert.ok(after <= 2, `${after} tokens after the client left, stream: ${stream}`)
  }
})

test('of 500 streams that clients leave, none goes on', async () => {
  await served.serves()
  const before = model.stats()
  let left = 500
  const one = async (): Promise<void> => {
    while (left-- > 0) {
      const leaving = new AbortController()
      const events = left % 4
      try {
        const response = await fetch(`${served.url}/v1/completions`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ ...long, stream: true }),
          signal: leaving.signal,
        })
        const reader = (response.body as ReadableStream<Uint8Array>).getReader()
        for (let i = 0; i < events; i++) await reader.read()
      } finally {
        leaving.abort()
      }
    }
  }
  await Promise.all(Array.from({ length: 25 }, one))
  await served.idle()
  const now = model.stats()
  // On a busy machine one or the other may come to its end before its client has left.
  const [cancelled, finished] = [now.cancelled - before.cancelled, now.finished - before.finished]
  assert.is(cancelled + finished, 500)
  assert.ok(finished < 50, `${finished} came to their end`)
  assert.equal([now.failed, now.pagesUsed, now.running], [before.failed, 0, 0])
  await served.serves()
})

test('200 clients that are slow to send keep nobody from being served', async () => {
  const sockets = await connected(200)
  const text = `${head(1000)}{"model": "lamb", "prompt": "`
  let at = 0
  const dripping = setInterval(() => {
    for (const socket of sockets) socket.write(text.charAt(at) || ' ')
    at++
  }, 5)
  for (let i = 0; i < 20; i++) await served.serves()
  clearInterval(dripping)
  assert.ok(at > 0)
  assert.is(sockets.filter((socket) => socket.destroyed).length, 0)
  for (const socket of sockets) socket.destroy()
  await served.serves()
})

test('200 clients that do not read hold up neither the model nor others, cost no more than their tokens, and find all of it when they read', async () => {
  const held = (): number => {
    gc()
    const { heapUsed, external } = process.memoryUsage()
    return heapUsed + external
  }
  await served.serves()
  const before = held()
  const sockets = await connected(200)
  const tokens = 40
  const body = JSON.stringify({ ...long, max_tokens: tokens, stream: true })
  for (const socket of sockets) {
    socket.pause()
    socket.write(head(body.length) + body)
  }
  await until('some that run', () => model.stats().running > 0)
  for (let i = 0; i < 10; i++) await served.serves()
  await served.idle()
  // An event of a token takes less than 1 KB wherever it waits; a connection with its request and its stream less than 100 KB.
  const most = 200 * (tokens * 1000 + 100_000)
  assert.ok(held() - before < most, `${held() - before} bytes for what nobody reads, at most ${most}`)
  const texts = await Promise.all(
    sockets.map(async (socket) => {
      let text = ''
      for await (const chunk of socket) {
        text += String(chunk)
        if (text.includes('data: [DONE]')) break
      }
      return text
    }),
  )
  assert.is(texts.filter((text) => text.split('data: {').length > 10).length, 200)
})

test('a client that never reads loses its connection; one that reads slowly, or waits for the model, does not', async () => {
  const impatient = await Served.over(model, { readTimeout: 300 })
  // More than the system takes off a server's hands: at most 4 + 6 MB on loopback by Linux' defaults.
  const marker = '### Instruction:'
  const { tokens } = await impatient.json<{ tokens: number[] }>('/tokenize', { prompt: marker, parse_special: true })
  assert.is(tokens.length, 1)
  const body = JSON.stringify({ tokens: Array.from({ length: 1_200_000 }, () => tokens[0]) })
  const text = marker.repeat(1_200_000)
  const ask = async (): Promise<Socket> => {
    const socket = connect(Number(new URL(impatient.url).port), '127.0.0.1')
    await once(socket, 'connect')
    socket.pause()
    socket.write(head(body.length).replace('/v1/completions', '/detokenize') + body)
    return socket
  }
  const received = async (socket: Socket, pause: number): Promise<number> => {
    let bytes = 0
    socket.on('error', () => {})
    for await (const chunk of socket) {
      bytes += (chunk as Buffer).length
      if (bytes > text.length) break
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause))
    }
    return bytes
  }
  assert.ok((await received(await ask(), 1)) > text.length, 'who reads slowly gets all of it')
  assert.is((await impatient.post('/v1/completions', long)).status, 200, 'who waits for the model gets it')
  const never = await ask()
  // The server's end of the connection, as the system lists it: `address:port address:port state`, in hex; 01 is an open one.
  const ends = [Number(new URL(impatient.url).port), never.localPort ?? 0].map((port) => `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`)
  const open = (): boolean => readFileSync('/proc/net/tcp', 'latin1').includes(`${ends.join(' ')} 01`)
  assert.ok(open())
  await until('the end of the connection', () => !open())
  assert.ok((await received(never, 0)) < text.length, 'the rest is gone')
  await impatient.server.close()
})

test('clients that do not read and leave give everything back', async () => {
  const sockets = await connected(50)
  const body = JSON.stringify({ ...long, stream: true, n: 4 })
  const { cancelled, finished } = model.stats()
  for (const socket of sockets) {
    socket.pause()
    socket.write(head(body.length) + body)
  }
  await until('some that run', () => model.stats().running > 0)
  for (const socket of sockets) socket.destroy()
  await served.idle()
  await served.serves()
  const now = model.stats()
  assert.ok(now.cancelled > cancelled && now.cancelled + now.finished - cancelled - finished <= 51, JSON.stringify(now))
})

test('a request that the cache can never hold is refused before any work', async () => {
  const small = await loadLamb({ pages: 4, pageSize: 16, maxBatch: 4 })
  const tight = await Served.over(small)
  const ids = Array.from({ length: 30 }, (_, i) => 100 + i)
  for (const stream of [false, true]) {
    const reply = await tight.post('/v1/completions', { ...good, prompt: ids, max_tokens: 36, stream })
    const { error } = JSON.parse(reply.text) as { error: { code: string; message: string } }
    assert.equal([reply.status, error.code], [400, 'context_length_exceeded'])
    assert.match(error.message, /65 tokens need 5 pages of the cache, which has 4/)
  }
  assert.is(small.stats().steps, 0)
  assert.is((await tight.post('/v1/completions', { ...good, prompt: ids, max_tokens: 35, ignore_eos: true })).status, 200)
  await tight.server.close()
  await small.dispose()
})

test('requests that together need more pages than there are all have the answers that they have alone', async () => {
  const small = await loadLamb({ pages: 8, pageSize: 16, maxBatch: 8, maxQueue: 1000 })
  const tight = await Served.over(small)
  const ask = async (i: number): Promise<string> => {
    const body = { model: 'lamb', prompt: Array.from({ length: 10 + (i % 20) }, (_, k) => 100 + ((i * 31 + k) % 500)), max_tokens: 60, temperature: 1, seed: i, ignore_eos: true }
    return (await tight.json<Completion>('/v1/completions', body)).choices[0]?.text ?? ''
  }
  const together = await Promise.all(Array.from({ length: 60 }, (_, i) => ask(i)))
  assert.ok(small.stats().preempted > 0, 'none was sent back')
  for (const i of [0, 17, 42, 59]) assert.is(await ask(i), together[i])
  await tight.idle()
  await tight.server.close()
  await small.dispose()
})

test.run()
