// Nothing grows: requests of every kind leave memory, connections and pages of a server where they were after the first ones.
//
// node build-test/test/serve/growth.js [--count N]     default 1,000 requests; the long form has 10,000
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { Agent, request, type IncomingMessage } from 'node:http'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { createServer } from '../../src/serve/server.js'
import { loadLamb, question, until } from './served.js'

interface Figures {
  /** Bytes of the heap after collecting, of buffers outside it, and of the process without files. */
  heap: number
  external: number
  anonymous: number
  files: number
  /** What keeps the event loop alive, and of it the connections. */
  resources: number
  connections: number
  pagesUsed: number
  running: number
}

/** The server, in a process that has nothing else. */
async function serve(send: (message: object) => void): Promise<void> {
  const model = await loadLamb({ maxBatch: 8 })
  const server = createServer(model)
  const figures = async (): Promise<Figures> => {
    for (let i = 0; i < 5; i++) {
      gc?.()
      await setTimeout(10)
    }
    const { heapUsed: heap, external } = process.memoryUsage()
    const anonymous = 1024 * Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1])
    const { pagesUsed, running } = model.stats()
    const resources = process.getActiveResourcesInfo()
    const connections = resources.filter((name) => name === 'TCPSocketWrap').length
    return { heap, external, anonymous, files: readdirSync('/proc/self/fd').length, resources: resources.length, connections, pagesUsed, running }
  }
  process.on('message', () => void figures().then(send))
  send({ url: (await server.listen({ port: 0 })).url })
}

const base = { model: 'lamb', prompt: question, max_tokens: 8, temperature: 1, ignore_eos: true }
const many = { ...base, max_tokens: 400, stream: true }
/** What is asked, by turns; where a number stands, the client leaves after that many pieces of the answer. */
const kinds: [path: string, body: unknown, status: number | undefined, leaves?: number][] = [
  ['/v1/completions', base, 200],
  ['/v1/completions', { ...base, stream: true }, 200],
  ['/v1/completions', many, undefined, 1],
  ['/v1/completions', { ...base, n: 3, logprobs: 2, echo: true }, 200],
  ['/v1/chat/completions', { model: 'lamb', messages: [{ role: 'user', content: question }], max_tokens: 4, stream: true }, 200],
  ['/v1/completions', many, undefined, 0],
  ['/v1/completions', { ...base, prompt: ['One', 'Two', 'Three'] }, 200],
  ['/v1/completions', '{"model": ', 400],
  ['/v1/completions', { ...base, n: 0 }, 400],
  ['/v1/completions', { ...base, max_tokens: 5000 }, 400],
  ['/v1/completions', { ...base, model: 'other' }, 404],
  ['/tokenize', { prompt: question }, 200],
  ['/nowhere', {}, 404],
  ['/metrics', undefined, 200],
]

const agent = new Agent({ keepAlive: true, maxSockets: 16 })

async function ask(url: string, [path, body, status, leaves]: (typeof kinds)[number]): Promise<void> {
  const sent = request(url + path, { method: body === undefined ? 'GET' : 'POST', agent, headers: { 'content-type': 'application/json' } })
  sent.end(typeof body === 'string' ? body : body === undefined ? '' : JSON.stringify(body))
  if (leaves === 0) {
    await once(sent, 'finish')
    sent.on('error', () => {})
    sent.destroy()
    return
  }
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  let pieces = 0
  for await (const _ of response) if (++pieces === leaves) break
  if (status !== undefined) assert.is(response.statusCode, status, path)
}

/** Asks `count` times, 16 at once, and then what the server holds when nothing is under way. */
async function after(count: number, url: string, child: ChildProcess): Promise<Figures> {
  let next = 0
  const row = async (): Promise<void> => {
    while (next < count) await ask(url, kinds[next++ % kinds.length]!)
  }
  await Promise.all(Array.from({ length: 16 }, row))
  agent.destroy()
  let figures: Figures | undefined
  await until('a server at rest', async () => {
    child.send('figures')
    ;[figures] = (await once(child, 'message')) as [Figures]
    return figures.running + figures.pagesUsed + figures.connections === 0
  })
  return figures!
}

async function grown(count: number): Promise<void> {
  const child = fork(fileURLToPath(import.meta.url), { execArgv: ['--expose-gc'] })
  const [{ url }] = (await once(child, 'message')) as [{ url: string }]
  const [before, now] = [await after(600, url, child), await after(count, url, child)]
  child.kill()
  const shown = `after ${count} requests ${JSON.stringify(now)}, before them ${JSON.stringify(before)}`
  console.log(shown)
  assert.is(now.files, before.files, shown)
  assert.ok(now.resources < before.resources + 10, shown) // a few timers that end by themselves
  // An object with a text of a request, left behind each time, would take more than 1 KB of each. What V8 compiles and collects later is a part of 1 MB.
  assert.ok(now.heap + now.external - before.heap - before.external < 1e6 + 100 * count, shown)
  // Memory that the allocators keep between requests is no more than what a heap that is not collected adds.
  assert.ok(now.anonymous - before.anonymous < 30e6 + 500 * count, shown)
}

if (process.send === undefined) {
  const { values } = parseArgs({ options: { count: { type: 'string', default: '1000' } } })
  test(`${values.count} requests of every kind leave nothing behind`, () => grown(Number(values.count)))
  test.run()
} else {
  await serve((message) => void process.send?.(message))
}
