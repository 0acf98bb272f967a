// Files and batches, through OpenAI's client, and what is left of them after a restart.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI, { toFile, type APIError } from 'openai'
import type { Batch } from 'openai/resources/batches'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { BatchError, shippedModel, type Model } from '../../src/index.js'
import { Jobs } from '../../src/serve/server.js'
import { loadLamb, long, Served, until } from './served.js'

const folder = mkdtempSync(join(tmpdir(), 'ewe-jobs-'))
let model: Model
let served: Served
let client: OpenAI
test.before(async () => {
  model = await loadLamb()
  await open()
})
test.after(async () => {
  await served.server.close()
  await model.dispose()
  rmSync(folder, { recursive: true })
})

async function open(): Promise<void> {
  served = await Served.over(model, { jobs: await Jobs.open(model, { folder, modelFolder: shippedModel() }) })
  client = new OpenAI({ apiKey: 'none', baseURL: `${served.url}/v1`, maxRetries: 0 })
}

const url = '/v1/completions'
const line = (i: number, body: object = {}): object => ({ custom_id: `line-${i}`, method: 'POST', url, body: { model: 'lamb', prompt: `Number ${i}`, max_tokens: 3, temperature: 0, ...body } })

async function upload(lines: readonly unknown[]): Promise<string> {
  const text = lines.map((each) => (typeof each === 'string' ? each : JSON.stringify(each))).join('\n')
  return (await client.files.create({ file: await toFile(Buffer.from(text), 'in.jsonl'), purpose: 'batch' })).id
}

async function begin(lines: readonly unknown[]): Promise<Batch> {
  return await client.batches.create({ input_file_id: await upload(lines), endpoint: url, completion_window: '24h', metadata: { of: 'test' } })
}

async function ended(id: string): Promise<Batch> {
  let batch = await client.batches.retrieve(id)
  await until('the end of a batch', async () => {
    batch = await client.batches.retrieve(id)
    return ['failed', 'completed', 'cancelled'].includes(batch.status)
  })
  return batch
}

async function textOf(file: string | undefined): Promise<string> {
  return file === undefined ? '' : await (await client.files.content(file)).text()
}

interface Answered {
  custom_id: string
  response: { status_code: number; body: { choices: { text: string }[]; error?: { param: string } } }
}

function linesOf(text: string): Answered[] {
  return text.trimEnd().split('\n').map((each) => JSON.parse(each) as Answered)
}

test('a file is kept, listed, read and deleted', async () => {
  const id = await upload([line(1)])
  assert.equal([(await client.files.retrieve(id)).filename, (await client.files.retrieve(id)).purpose], ['in.jsonl', 'batch'])
  assert.equal(JSON.parse(await textOf(id)), line(1))
  const ids = []
  for await (const file of client.files.list({ limit: 1 })) ids.push(file.id)
  assert.ok(ids.includes(id))
  assert.is((await client.files.delete(id)).deleted, true)
  await client.files.retrieve(id).then(
    () => assert.unreachable(),
    (error: unknown) => assert.is((error as APIError).status, 404),
  )
})

test('a batch answers its lines as the server does, wrong ones in a file of their own', async () => {
  const batch = await begin([line(1), line(2, { n: 0 }), line(3)])
  assert.equal([batch.object, batch.endpoint, batch.metadata], ['batch', url, { of: 'test' }])
  const done = await ended(batch.id)
  assert.is(done.status, 'completed')
  assert.equal(done.request_counts, { total: 3, completed: 2, failed: 1 })
  const good = linesOf(await textOf(done.output_file_id))
  assert.equal(good.map((each) => each.custom_id), ['line-1', 'line-3'])
  const own = await client.completions.create({ model: 'lamb', prompt: 'Number 3', max_tokens: 3, temperature: 0 })
  assert.is(good[1]?.response.body.choices[0]?.text, own.choices[0]?.text)
  const [bad] = linesOf(await textOf(done.error_file_id))
  assert.equal([bad?.custom_id, bad?.response.status_code, bad?.response.body.error?.param], ['line-2', 400, 'n'])
})

test('a file that cannot be run at all fails with its lines named', async () => {
  const lines = [line(1), line(1), '{', { ...line(2), url: '/v1/chat/completions' }, line(3, { model: 'gpt-4' }), { ...line(4), method: 'GET' }]
  const done = await ended((await begin(lines)).id)
  assert.is(done.status, 'failed')
  const codes = ['duplicate_custom_id', 'invalid_json_line', 'mismatched_endpoint', 'model_not_found', 'invalid_request']
  assert.equal(done.errors?.data?.map((each) => [each.line, each.code]), codes.map((code, i) => [i + 2, code]))
  assert.is((await ended((await begin([''])).id)).errors?.data?.[0]?.code, 'empty_file')
})

test('a cancelled batch ends, leaves nothing that runs, and keeps the lines that it finished', async () => {
  const { id } = await begin([line(0, { n: 0 }), ...Array.from({ length: 300 }, (_, i) => line(i + 1, { max_tokens: 200, ignore_eos: true }))])
  await until('lines that are done', async () => ((await client.batches.retrieve(id)).request_counts?.completed ?? 0) >= 3)
  await client.files.delete((await client.batches.retrieve(id)).input_file_id).then(
    () => assert.unreachable(),
    (error: unknown) => assert.is((error as APIError).code, 'file_in_use'),
  )
  assert.is((await client.batches.cancel(id)).status, 'cancelling')
  const done = await ended(id)
  assert.equal([done.status, typeof done.cancelling_at, typeof done.cancelled_at, done.errors], ['cancelled', 'number', 'number', undefined])
  await served.idle()
  const [good, bad] = [linesOf(await textOf(done.output_file_id)), linesOf(await textOf(done.error_file_id))]
  assert.equal(done.request_counts, { total: 301, completed: good.length, failed: 1 })
  assert.ok(good.length >= 3 && good.length < 300, String(good.length))
  assert.equal(bad.map((each) => each.custom_id), ['line-0'])
  const places = good.map((each) => Number(each.custom_id.slice(5)))
  assert.equal(places, [...places].sort((a, b) => a - b))
  for (const each of good) assert.equal(Object.keys(each.response.body.choices[0] ?? {}), ['text', 'index', 'logprobs', 'finish_reason'])
  assert.not.ok(readdirSync(join(folder, 'batches')).some((name) => name.startsWith(`${id}.out`)))
  await client.batches.cancel(id).then(
    () => assert.unreachable(),
    (error: unknown) => assert.is((error as APIError).status, 409),
  )
})

test('a batch that was cancelled while no server ran keeps its lines too, and one cancelled before its turn has none', async () => {
  const slow = (count: number): object[] => Array.from({ length: count }, (_, i) => line(i, { max_tokens: 200, ignore_eos: true }))
  const first = (await begin(slow(300))).id
  const second = (await begin(slow(3))).id
  await client.batches.cancel(second)
  await until('lines that are done', async () => ((await client.batches.retrieve(first)).request_counts?.completed ?? 0) >= 3)
  await served.server.drain()
  // As a server leaves it that is killed between the two.
  const path = join(folder, 'batches', `${first}.json`)
  writeFileSync(path, JSON.stringify({ ...(JSON.parse(readFileSync(path, 'utf8')) as object), status: 'cancelling' }))
  await open()
  const [cut, unbegun] = [await ended(first), await ended(second)]
  assert.equal([cut.status, unbegun.status, unbegun.output_file_id], ['cancelled', 'cancelled', undefined])
  assert.ok(linesOf(await textOf(cut.output_file_id)).length >= 3)
})

test('a batch whose file has gone fails, and the next one is run', async () => {
  const { input_file_id, id } = await begin([line(1)])
  await ended(id)
  rmSync(join(folder, 'files', `${input_file_id}.data`))
  const again = await ended((await client.batches.create({ input_file_id, endpoint: url, completion_window: '24h' })).id)
  assert.equal([again.status, again.errors?.data?.map((each) => each.message)], ['failed', ['A file of this batch could not be read or written: ENOENT']])
  assert.is((await ended((await begin([line(1)])).id)).status, 'completed')
})

test('a list goes on after an id, and says so when there is none of it', async () => {
  for (const i of [1, 2]) await upload([line(i)])
  const idsOf = async (query: { limit: number; after?: string }): Promise<string[]> => (await client.files.list(query)).data.map(({ id }) => id)
  const [first = '', second] = await idsOf({ limit: 100 })
  assert.equal(await idsOf({ limit: 1 }), [first])
  assert.equal(await idsOf({ limit: 1, after: first }), [second])
  const error = (await client.batches.list({ after: 'batch_gone' }).catch((thrown: unknown) => thrown)) as APIError
  assert.equal([error.status, error.param], [404, 'after'])
})

test('a batch goes on after a restart, with the same output as one that was not stopped', async () => {
  const lines = Array.from({ length: 60 }, (_, i) => line(i, { max_tokens: 20, temperature: 1, ignore_eos: true }))
  const whole = await ended((await begin(lines)).id)
  const { id } = await begin(lines)
  await until('some lines', async () => ((await client.batches.retrieve(id)).request_counts?.completed ?? 0) > 5)
  await served.server.drain()
  assert.ok(readdirSync(join(folder, 'batches')).includes(`${id}.out.journal`))
  await open()
  const resumed = await ended(id)
  assert.equal([resumed.status, resumed.request_counts?.completed], ['completed', 60])
  const texts = async (file: string | undefined): Promise<unknown[]> => linesOf(await textOf(file)).map((each) => [each.custom_id, each.response.body.choices])
  assert.equal(await texts(resumed.output_file_id), await texts(whole.output_file_id))
  assert.not.ok(existsSync(join(folder, 'batches', `${id}.out.journal`)))
  const listed = []
  for await (const batch of client.batches.list({ limit: 2 })) listed.push(batch.id)
  assert.ok(listed.length === 11 && listed.includes(id), listed.join(' '))
})

test('what is wrong with an upload or a batch is refused', async () => {
  const status = async (work: Promise<unknown>): Promise<unknown> => work.then(() => 200, (error: unknown) => (error as APIError).status)
  assert.is(await status(client.files.create({ file: await toFile(Buffer.from('a'), 'a'), purpose: 'fine-tune' })), 400)
  assert.is(await status(client.batches.create({ input_file_id: 'file-none', endpoint: url, completion_window: '24h' })), 404)
  assert.is(await status(client.batches.create({ input_file_id: await upload([line(1)]), endpoint: '/v1/embeddings', completion_window: '24h' })), 400)
  assert.is(await status(client.batches.retrieve('batch_none')), 404)
  assert.is((await served.get('/v1/files/../../etc/passwd')).status, 404)
  assert.is((await served.get('/v1/files/..%2F..%2Fx/content')).status, 404)
  assert.is((await served.post('/v1/files', {})).status, 415)
  assert.is((await served.get('/v1/files', { method: 'POST', body: 'x', headers: { 'content-type': 'multipart/form-data; boundary=y' } })).status, 400)
  assert.is((await served.get('/v1/files?limit=0')).status, 400)
})

test('a batch that is cancelled at any moment is cancelled, or was complete', async () => {
  const lines = Array.from({ length: 3 }, (_, i) => line(i, { max_tokens: 1 }))
  const input = await upload(lines)
  const ends = new Set<string>()
  for (let steps = 0; steps < 40; steps++) {
    const { id } = await client.batches.create({ input_file_id: input, endpoint: url, completion_window: '24h' })
    for (let i = 0; i < steps; i++) await new Promise((resolve) => setImmediate(resolve))
    const answer = (await client.batches.cancel(id).catch((error: unknown) => error)) as Batch | APIError
    assert.ok(answer.status === 'cancelling' || answer.status === 409, `after ${steps} turns: ${JSON.stringify(answer)}`)
    let status = ''
    await until('its end', async () => ['cancelled', 'completed', 'failed'].includes((status = (await client.batches.retrieve(id)).status)))
    assert.is(status, answer.status === 409 ? 'completed' : 'cancelled', `after ${steps} turns`)
    const [name = ''] = readdirSync(join(folder, 'batches')).filter((each) => each.startsWith(id))
    await until('the same on the disk', () => (JSON.parse(readFileSync(join(folder, 'batches', name), 'utf8')) as Batch).status === status)
    ends.add(status)
  }
  assert.ok(ends.has('cancelled'))
})

test('a folder is one server\'s until that has stopped, which changes nothing in it once it is told to', async () => {
  const refused: unknown = await Jobs.open(model, { folder, modelFolder: shippedModel() }).catch((error: unknown) => error)
  assert.instance(refused, BatchError)
  assert.match((refused as Error).message, `process ${process.pid}, keeps its files and batches in ${folder}`)
  const id = await upload([line(1)])
  const running = served.json('/v1/completions', { ...long, n: 8, max_tokens: 1000 })
  await until('one that runs', () => model.stats().running > 0)
  const drained = served.server.drain()
  const late = [() => upload([line(1)]), () => client.batches.create({ input_file_id: id, endpoint: url, completion_window: '24h' }), () => client.files.delete(id)]
  for (const ask of late) {
    const error = (await ask().catch((thrown: unknown) => thrown)) as APIError
    assert.equal([error.status, error.code], [503, 'draining'])
  }
  assert.is((await client.files.retrieve(id)).id, id)
  await running
  await drained
  await open()
  assert.equal(JSON.parse(await textOf(id)), line(1))
})

test.run()
