// npm run bench -- server [--model DIR] [--connections 1,8,32] [--tokens 1,16] [--threads N] [--seconds S] [--rounds N] [--json]
//
// What HTTP costs: requests to /v1/completions over loopback, and the same requests put to the model in this process, in turns. Clients are autocannon's, in
// a process of their own.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import autocannon, { type Result } from 'autocannon'
import { Model, shippedModel } from '../src/index.js'
import { packageFolder } from '../src/package.js'
import { createServer } from '../src/serve/server.js'
import { facts, type Facts } from './machine.js'
import { quantile } from './measure.js'

/** One way of asking. */
interface Load {
  connections: number
  tokens: number
  stream: boolean
}

interface Client extends Load {
  url: string
  name: string
  seconds: number
}

/** Milliseconds of each request, and of all of them together: by the clock, and of processors. */
interface Timed {
  times: number[]
  ms: number
  cpu: number
}

interface Figures {
  /** Requests a second. */
  rate: number
  p50: number
  p99: number
  /** Microseconds of processors that a request took, without those of its client. */
  cpu: number
}

interface Row extends Load {
  http: Figures
  /** The same requests without HTTP. */
  model: Figures
}

const prompt = 'What is the capital of Japan?'

export async function serving(words: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...words],
    options: {
      model: { type: 'string', default: shippedModel() },
      connections: { type: 'string', default: '1,8,32' },
      tokens: { type: 'string', default: '1,16' },
      threads: { type: 'string', default: '1' },
      seconds: { type: 'string', default: '2' },
      rounds: { type: 'string', default: '3' },
      json: { type: 'boolean', default: false },
    },
  })
  const numbers = (list: string): number[] => list.split(',').map(Number)
  await using model = await Model.load(values.model, { device: 'cpu', threads: Number(values.threads), maxBatch: Math.max(...numbers(values.connections)) })
  const server = createServer(model)
  const { url } = await server.listen({ port: 0 })
  const rows: Row[] = []
  for (const stream of [false, true]) {
    for (const tokens of numbers(values.tokens)) {
      for (const connections of numbers(values.connections)) {
        rows.push(await compare(model, { url, name: model.name, connections, tokens, stream, seconds: Number(values.seconds) }, Number(values.rounds)))
      }
    }
  }
  await server.close()
  const shown = values.model.replace(`${packageFolder()}/`, '')
  console.log(values.json ? JSON.stringify({ machine: facts(), model: shown, rows }) : readable(facts(), shown, rows))
}

/** Both ways in turns, after a round that does not count. */
async function compare(model: Model, client: Client, rounds: number): Promise<Row> {
  const found: { http: Timed; model: Timed }[] = []
  for (let round = 0; round <= rounds; round++) {
    found.push({ model: await timed(() => ask(model, client)), http: await timed(() => outside(client)) })
  }
  const { connections, tokens, stream } = client
  const counted = found.slice(1)
  return { connections, tokens, stream, http: figuresOf(counted.map(({ http }) => http)), model: figuresOf(counted.map((each) => each.model)) }
}

async function timed(work: () => Promise<Omit<Timed, 'cpu'>>): Promise<Timed> {
  const before = process.cpuUsage()
  const done = await work()
  const { user, system } = process.cpuUsage(before)
  return { ...done, cpu: (user + system) / 1e3 }
}

async function ask(model: Model, { connections, tokens, stream, seconds }: Client): Promise<Omit<Timed, 'cpu'>> {
  const options = { maxNewTokens: tokens, temperature: 0, ignoreEos: true }
  const times: number[] = []
  const start = performance.now()
  const one = async (): Promise<void> => {
    while (performance.now() - start < seconds * 1e3) {
      const asked = performance.now()
      if (stream) for await (const _ of model.streamComplete(prompt, options));
      else await model.complete(prompt, options)
      times.push(performance.now() - asked)
    }
  }
  await Promise.all(Array.from({ length: connections }, one))
  return { times, ms: performance.now() - start }
}

async function outside(client: Client): Promise<Omit<Timed, 'cpu'>> {
  const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(client)])
  const [message] = (await Promise.race([once(child, 'message'), once(child, 'exit').then(() => [])])) as [Omit<Timed, 'cpu'>?]
  if (message === undefined) throw new Error('The clients ended without an answer')
  return message
}

/** The process of the clients. */
async function clients({ url, name, connections, tokens, stream, seconds }: Client): Promise<Omit<Timed, 'cpu'>> {
  const body = JSON.stringify({ model: name, prompt, max_tokens: tokens, temperature: 0, ignore_eos: true, stream })
  const start = performance.now()
  const times: number[] = []
  const { errors, timeouts, non2xx } = await new Promise<Result>((resolve, reject) => {
    const headers = { 'content-type': 'application/json' }
    const running = autocannon({ url: `${url}/v1/completions`, method: 'POST', headers, body, connections, duration: seconds }, (error: Error | null, result) =>
      error === null ? resolve(result) : reject(error),
    )
    running.on('response', (_client, _status, _bytes, ms) => times.push(ms))
  })
  if (errors + timeouts + non2xx > 0 || times.length === 0) throw new Error(`${errors} errors, ${timeouts} timeouts, ${non2xx} refusals, ${times.length} answers`)
  return { times, ms: performance.now() - start }
}

/** The median of the rounds' rates; times of all of them. */
function figuresOf(rounds: readonly Timed[]): Figures {
  const times = rounds.flatMap((round) => round.times)
  const cpu = quantile(rounds.map((round) => (1e3 * round.cpu) / round.times.length), 0.5)
  return { rate: quantile(rounds.map((round) => (1e3 * round.times.length) / round.ms), 0.5), cpu, p50: quantile(times, 0.5), p99: quantile(times, 0.99) }
}

function readable({ cpu, processors, versions, date }: Facts, model: string, rows: readonly Row[]): string {
  const lines = rows.map(({ connections, tokens, stream, http, model: alone }) => {
    const cost = http.cpu - alone.cpu
    const each = stream && tokens > 1 ? `, ${(cost / tokens).toFixed(0)} us a token` : ''
    const what = `${connections} x ${tokens}${stream ? ' streamed' : ''}`
    const p99 = `p99 ${http.p99.toFixed(2)} - ${alone.p99.toFixed(2)} = ${(http.p99 - alone.p99).toFixed(2)} ms`
    const rates = `${http.rate.toFixed(0).padStart(6)} of ${alone.rate.toFixed(0).padStart(6)} requests/s`
    return `${what.padEnd(16)}${rates}; p50 ${http.p50.toFixed(2)} - ${alone.p50.toFixed(2)}, ${p99}; ${http.cpu.toFixed(0)} - ${alone.cpu.toFixed(0)} = ${cost.toFixed(0)} us of processors a request${each}`
  })
  return [`${cpu}, ${processors} processors; ewe ${versions.ewe}, Node ${versions.node}, ${date}`, model, ...lines].join('\n')
}

if (process.send !== undefined) process.send(await clients(JSON.parse(process.argv[2] ?? '') as Client))
