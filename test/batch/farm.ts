// A job over Redis, with the real server and processes that are killed.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ewe, start, type Run } from '../cli/run.js'

const folder = mkdtempSync(join(tmpdir(), 'ewe-farm-'))
const input = join(folder, 'in.jsonl')
const output = join(folder, 'out.jsonl')
const journal = `${output}.journal`
const load = ['--model', 'models/lamb', '--device', 'cpu', '--threads', '1', '--concurrency', '4']
const command = ['batch', input, '-o', output, ...load]
let server: ChildProcess
let url: string

async function freePort(): Promise<number> {
  const holder = createServer().listen(0, '127.0.0.1')
  await once(holder, 'listening')
  const { port } = holder.address() as AddressInfo
  holder.close()
  await once(holder, 'close')
  return port
}

/** Starts a server that keeps nothing: redis-server must be installed (the package of that name in Debian and Ubuntu). */
async function serve(port: number, ...words: string[]): Promise<ChildProcess> {
  const child = spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', folder, ...words])
  let log = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (log += text))
  await once(child, 'spawn')
  while (!log.includes('Ready to accept connections')) {
    assert.is(child.exitCode, null, log)
    await once(child.stdout, 'data')
  }
  return child
}

test.before(async () => {
  const port = await freePort()
  url = `redis://127.0.0.1:${port}`
  server = await serve(port)
})
test.after(() => {
  server.kill('SIGKILL')
  rmSync(folder, { recursive: true })
})

const lines = Array.from({ length: 80 }, (_, i) => {
  if (i % 20 === 7) return 'broken'
  const body = { prompt: `Animal number ${i}`, max_tokens: 200, ignore_eos: true }
  return JSON.stringify({ custom_id: `id-${i}`, method: 'POST', url: '/v1/completions', body })
})
let whole: Buffer

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5))
}

function worker(): Run {
  return start(['batch', '--worker', '--redis', url, ...load])
}

test('a job over Redis with no other worker gives the same output as one without', async () => {
  writeFileSync(input, lines.join('\n'))
  assert.is((await ewe(command)).code, 4)
  whole = readFileSync(output)
  rmSync(output)
  const { code, stderr } = await ewe([...command, '--redis', url])
  assert.is(code, 4, stderr)
  assert.equal(readFileSync(output), whole)
})

test('workers are killed, the job itself too, and nothing is lost or written twice', async () => {
  rmSync(output)
  const workers = [worker(), worker()]
  await Promise.all(workers.map((one) => one.until('queue', ({ stderr }) => stderr.includes('answering lines of the queue'))))
  const first = start([...command, '--redis', url])
  await until(() => existsSync(journal) && statSync(journal).size > 3000)
  workers[0]!.child.kill('SIGKILL')
  first.child.kill('SIGKILL')
  await Promise.all([workers[0]!.ended, first.ended])
  const before = statSync(journal).size
  const again = start([...command, '--redis', url])
  await until(() => again.child.exitCode !== null || statSync(journal, { throwIfNoEntry: false })?.size !== before)
  const third = worker()
  const { code, stderr } = await again.ended
  assert.is(code, 4, stderr)
  assert.match(stderr, /going on with/)
  assert.equal(readFileSync(output), whole)
  assert.equal(readdirSync(folder).filter((name) => name.startsWith('out')), ['out.jsonl'])
  for (const one of [workers[1]!, third]) {
    await one.until('queue', ({ stderr: text }) => text.includes('answering lines of the queue'))
    one.child.kill('SIGINT')
  }
  const [kept] = await Promise.all([workers[1]!.ended, third.ended])
  assert.is(kept.code, 130, kept.stderr)
  assert.ok(Number(/answered (\d+) lines/.exec(kept.stderr)?.[1]) > 5, kept.stderr)
})

test('a worker with another instruction set takes none of the lines', async () => {
  rmSync(output)
  const other = start(['batch', '--worker', '--redis', url, ...load, '--instruction-set', 'plain'])
  await other.until('queue', ({ stderr }) => stderr.includes('answering lines of the queue'))
  assert.is((await ewe([...command, '--redis', url])).code, 4)
  assert.equal(readFileSync(output), whole)
  other.child.kill('SIGINT')
  assert.match((await other.ended).stderr, /answered 0 lines/)
})

test('a Redis that is gone for a while and comes back empty loses nothing', async () => {
  rmSync(output)
  const job = start([...command, '--redis', url])
  await until(() => existsSync(journal) && statSync(journal).size > 3000)
  server.kill('SIGKILL')
  await once(server, 'exit')
  await new Promise((resolve) => setTimeout(resolve, 300))
  assert.is(job.child.exitCode, null, 'it waits')
  server = await serve(Number(new URL(url).port))
  assert.is((await job.ended).code, 4, job.stderr)
  assert.equal(readFileSync(output), whole)
})

test('a Redis that wants a password is told so, and takes the right one', async () => {
  writeFileSync(input, '"What is the capital of Japan?"')
  const port = await freePort()
  const locked = await serve(port, '--requirepass', 'open')
  const to = (password: string): string[] => [...command, '--redis', `redis://${password}127.0.0.1:${port}`]
  for (const wrong of ['', ':shut@']) {
    const { code, stderr } = await ewe(to(wrong))
    assert.is(code, 1)
    assert.match(stderr, /Redis at 127.0.0.1:\d+: (NOAUTH|WRONGPASS).*EWE_BATCH/)
    assert.not.match(stderr, /shut/)
  }
  assert.is((await ewe(to(':open@'))).code, 0)
  locked.kill('SIGKILL')
})

test('a Redis that is not there, and flags that do not fit, are refused', async () => {
  const refused: [string[], number, RegExp][] = [
    [[...command, '--redis', `redis://127.0.0.1:${await freePort()}`], 1, /Redis at 127.0.0.1:\d+ cannot be reached.*ECONNREFUSED/],
    [[...command, '--redis', 'http://localhost'], 2, /redis:\/\/HOST:PORT/],
    [['batch', '--worker', ...load], 2, /--redis/],
    [[...command, '--redis', url, '--worker'], 2, /--worker/],
  ]
  for (const [words, code, message] of refused) {
    const result = await ewe(words)
    assert.is(result.code, code, result.stderr)
    assert.match(result.stderr, message)
  }
})

test.run()
