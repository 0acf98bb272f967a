// `ewe serve --data` killed at any moment: over the same folder the next one has the same files, and its batches go on to the same lines.
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { start, type Run } from '../cli/run.js'
import { until } from './served.js'

const folder = mkdtempSync(join(tmpdir(), 'ewe-killed-'))
test.after(() => rmSync(folder, { recursive: true }))

const body = { model: 'lamb', max_tokens: 30, temperature: 1, ignore_eos: true }
const lines = Array.from({ length: 200 }, (_, i) =>
  // One line is refused, and goes to the other file.
  JSON.stringify({ custom_id: `line-${i}`, method: 'POST', url: '/v1/completions', body: { ...body, prompt: `Number ${i}`, ...(i === 7 ? { temperature: 9 } : {}) } }),
)

interface Batch {
  id: string
  status: string
  output_file_id: string
  error_file_id: string
  request_counts: object
}

interface Line {
  custom_id: string
  response: { status_code: number; body: { choices?: object[] } }
}

async function serving(): Promise<{ run: Run; url: string }> {
  const run = start(['serve', '--json', '--quiet', '--port', '0', '--device', 'cpu', '--threads', '1', '--model', 'models/lamb', '--data', folder])
  await run.until('address', ({ stdout }) => stdout.includes('\n'))
  return { run, url: (JSON.parse(run.stdout) as { url: string }).url }
}

async function json<T>(url: string, init?: RequestInit): Promise<T> {
  const response = await fetch(url, init)
  const text = await response.text()
  assert.is(response.status, 200, text)
  return JSON.parse(text) as T
}

async function begin(url: string): Promise<string> {
  const form = new FormData()
  form.set('purpose', 'batch')
  form.set('file', new Blob([lines.join('\n')]), 'in.jsonl')
  const { id } = await json<{ id: string }>(`${url}/v1/files`, { method: 'POST', body: form })
  const asked = JSON.stringify({ input_file_id: id, endpoint: '/v1/completions', completion_window: '24h' })
  return (await json<Batch>(`${url}/v1/batches`, { method: 'POST', body: asked, headers: { 'content-type': 'application/json' } })).id
}

async function ended(url: string, id: string): Promise<Batch> {
  let batch: Batch | undefined
  await until('the end of a batch', async () => {
    batch = await json<Batch>(`${url}/v1/batches/${id}`)
    return ['failed', 'completed', 'cancelled'].includes(batch.status)
  })
  return batch!
}

/** What a batch came to, without ids and times. */
async function outcome(url: string, { status, request_counts: counts, output_file_id: output, error_file_id: error }: Batch): Promise<unknown> {
  const linesIn = async (id: string): Promise<Line[]> => (await (await fetch(`${url}/v1/files/${id}/content`)).text()).trimEnd().split('\n').map((line) => JSON.parse(line) as Line)
  const answers = [...(await linesIn(output)), ...(await linesIn(error))]
  return [status, counts, answers.map(({ custom_id: id, response }) => [id, response.status_code, response.body.choices])]
}

test('a server killed again and again keeps every file and finishes every batch, with the lines of one that was not killed', async () => {
  const first = await serving()
  const whole = await outcome(first.url, await ended(first.url, await begin(first.url)))
  first.run.child.kill('SIGTERM')
  assert.is((await first.run.ended).code, 0)
  assert.equal((whole as unknown[])[1], { total: 200, completed: 199, failed: 1 })

  const seed = Number(process.env['EWE_TEST_SEED'] ?? Date.now() % 1_000_000)
  const most = Number(process.env['EWE_TEST_KILLS'] ?? 10)
  let state = seed
  const draw = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32
  let batch: string | undefined
  let finished = 0
  for (let kills = 0; kills < most; kills++) {
    const { run, url } = await serving()
    setTimeout(() => run.child.kill('SIGKILL'), draw() * 600)
    try {
      for (;;) {
        batch ??= await begin(url)
        assert.equal(await outcome(url, await ended(url, batch)), whole, `seed ${seed}, kill ${kills}`)
        batch = undefined
        finished++
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error // those of fetch, whose server is gone
    }
    assert.is((await run.ended).signal, 'SIGKILL')
  }

  const { run, url } = await serving()
  const { data: batches } = await json<{ data: Batch[] }>(`${url}/v1/batches?limit=1000`)
  assert.ok(batches.length > finished, `seed ${seed}`)
  for (const { id } of batches) assert.equal(await outcome(url, await ended(url, id)), whole, `seed ${seed}: ${id}`)
  const { data: files } = await json<{ data: { id: string; bytes: number }[] }>(`${url}/v1/files?limit=1000`)
  for (const { id, bytes } of files) assert.is(readFileSync(join(folder, 'files', `${id}.data`)).length, bytes, `seed ${seed}: ${id}`)
  run.child.kill('SIGTERM')
  assert.is((await run.ended).code, 0)
  assert.equal(readdirSync(join(folder, 'files')).sort(), files.flatMap(({ id }) => [`${id}.data`, `${id}.json`]).sort(), `seed ${seed}`)
  assert.equal(readdirSync(join(folder, 'batches')).sort(), batches.map(({ id }) => `${id}.json`).sort(), `seed ${seed}`)
  assert.equal(readdirSync(folder).sort(), ['batches', 'files'])
  console.log(`    seed ${seed}: ${most} kills, ${batches.length} batches`)
})

test.run()
