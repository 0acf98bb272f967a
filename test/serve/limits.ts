// Limits of the system that a server runs into: a full disk, too many connections, a model folder that goes away. A server of its own process, whose limits
// are changed while it runs.
import { once } from 'node:events'
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { execFileSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Model, ModelNotFoundError, shippedModel } from '../../src/index.js'
import { ewe, start, type Run } from '../cli/run.js'
import { Served, until } from './served.js'

const folder = mkdtempSync(join(tmpdir(), 'ewe-limits-'))
let run: Run
let url = ''
test.before(async () => {
  run = start(['serve', '--json', '--port', '0', '--device', 'cpu', '--data', folder])
  await run.until('address', ({ stdout }) => stdout.includes('\n'))
  url = (JSON.parse(run.stdout) as { url: string }).url
})
test.after(async () => {
  run.child.kill('SIGTERM')
  assert.is((await run.ended).code, 0)
  rmSync(folder, { recursive: true })
})

/** A file that grows beyond the limit cannot be written: the system's answer is that of a full disk, for a disk of every kind. */
function limit(what: 'fsize' | 'nofile', most: number | 'unlimited'): void {
  execFileSync('prlimit', ['--pid', String(run.child.pid), `--${what}=${most}:`])
}

const line = (i: number): string =>
  JSON.stringify({ custom_id: `line-${i}`, method: 'POST', url: '/v1/completions', body: { model: 'lamb', prompt: `Number ${i}`, max_tokens: 20, temperature: 0, ignore_eos: true } })

async function upload(text: string): Promise<{ status: number; id: string; code: string | undefined }> {
  const form = new FormData()
  form.set('purpose', 'batch')
  form.set('file', new Blob([text]), 'in.jsonl')
  const response = await fetch(`${url}/v1/files`, { method: 'POST', body: form })
  const { id = '', error } = (await response.json()) as { id?: string; error?: { code: string } }
  return { status: response.status, id, code: error?.code }
}

interface Batch {
  id: string
  status: string
  output_file_id?: string
  errors?: { data: { code: string; message: string }[] }
  request_counts: { total: number; completed: number }
}

async function begin(file: string): Promise<{ status: number; batch: Batch }> {
  const body = JSON.stringify({ input_file_id: file, endpoint: '/v1/completions', completion_window: '24h' })
  const response = await fetch(`${url}/v1/batches`, { method: 'POST', body, headers: { 'content-type': 'application/json' } })
  return { status: response.status, batch: (await response.json()) as Batch }
}

async function ended(id: string): Promise<Batch> {
  let batch: Batch | undefined
  await until('the end of a batch', async () => {
    batch = (await (await fetch(`${url}/v1/batches/${id}`)).json()) as Batch
    return ['failed', 'completed', 'cancelled'].includes(batch.status)
  })
  return batch!
}

async function stillServes(): Promise<void> {
  const body = JSON.stringify({ model: 'lamb', prompt: 'One', max_tokens: 1 })
  assert.is((await fetch(`${url}/v1/completions`, { method: 'POST', body, headers: { 'content-type': 'application/json' } })).status, 200)
}

test('an upload that the disk does not hold gets 507 and leaves nothing, and the next one that it holds is kept', async () => {
  const before = readdirSync(join(folder, 'files'))
  limit('fsize', 100_000)
  const large = await upload('x'.repeat(3_000_000))
  assert.equal([large.status, large.code], [507, 'disk_full'])
  assert.equal(readdirSync(join(folder, 'files')), before)
  assert.is((await upload('x'.repeat(50_000))).status, 200)
  limit('fsize', 'unlimited')
  assert.is((await upload('x'.repeat(3_000_000))).status, 200)
  await stillServes()
})

test('a batch that the disk has no room for fails with a reason, its finished lines stay where they fit, and it runs when there is room', async () => {
  const { id } = await upload(Array.from({ length: 60 }, (_, i) => line(i)).join('\n'))
  limit('fsize', 12_000)
  const failed = await ended((await begin(id)).batch.id)
  assert.equal([failed.status, failed.errors?.data[0]?.code], ['failed', 'disk_full'])
  assert.not.match(failed.errors?.data[0]?.message ?? '', folder)
  assert.ok(failed.request_counts.completed > 3 && failed.request_counts.completed < 60, JSON.stringify(failed))
  const kept = await (await fetch(`${url}/v1/files/${failed.output_file_id}/content`)).text()
  assert.is(kept.split('\n').length - 1, failed.request_counts.completed)
  await until('nothing but its card', () => readdirSync(join(folder, 'batches')).every((name) => name.endsWith('.json')))
  await stillServes()
  limit('fsize', 1)
  assert.is((await begin(id)).status, 507)
  assert.equal(readdirSync(join(folder, 'batches')).filter((name) => !name.endsWith('.json')), [])
  limit('fsize', 'unlimited')
  const again = await ended((await begin(id)).batch.id)
  assert.equal([again.status, again.request_counts.completed], ['completed', 60])
})

test('more connections than the system allows are turned away, and when they end others are served', async () => {
  const open = readdirSync(`/proc/${run.child.pid}/fd`).length
  limit('nofile', open + 20)
  const sockets = Array.from({ length: 100 }, () => connect(Number(new URL(url).port), '127.0.0.1'))
  for (const socket of sockets) socket.on('error', () => {})
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  await until('as many as there may be', () => readdirSync(`/proc/${run.child.pid}/fd`).length >= open + 18)
  for (const socket of sockets) socket.destroy()
  await until('their end', () => readdirSync(`/proc/${run.child.pid}/fd`).length < open + 10)
  await stillServes()
  limit('nofile', 4096)
})

test('a model folder that vanishes takes nothing from a server that has it loaded', async () => {
  const copy = join(folder, 'model')
  cpSync(shippedModel(), copy, { recursive: true })
  const model = await Model.load(copy, { device: 'cpu' })
  const served = await Served.over(model)
  const ask = (): Promise<unknown> => served.json<{ choices: unknown }>('/v1/completions', { model: 'model', prompt: 'What is the capital of Japan?', max_tokens: 20, temperature: 0 }).then(({ choices }) => choices)
  const before = await ask()
  rmSync(copy, { recursive: true })
  assert.equal(await ask(), before)
  await served.server.close()
  await model.dispose()
  await Model.load(copy).then(() => assert.unreachable(), (error: unknown) => assert.instance(error, ModelNotFoundError))
})

test('a model folder that is not there ends the command with a word of it', async () => {
  const { code, stderr } = await ewe(['serve', '--model', join(folder, 'nowhere'), '--port', '0'])
  assert.is(code, 1)
  assert.match(stderr, /nowhere/)
  assert.not.ok(existsSync(join(folder, 'nowhere')))
})

test.run()
