// Files on their way to the disk: as they come, whole or not at all.
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { shippedModel, type Model } from '../../src/index.js'
import { Jobs } from '../../src/serve/server.js'
import { loadLamb, Served, until, type Reply } from './served.js'

const folder = mkdtempSync(join(tmpdir(), 'ewe-uploads-'))
const files = join(folder, 'files')
let model: Model
let served: Served
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
}

const type = { 'content-type': 'multipart/form-data; boundary=cut' }
const purpose = '--cut\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
const fileHead = (name = 'file', fileName = 'in.jsonl'): string => `--cut\r\ncontent-disposition: form-data; name="${name}"; filename="${fileName}"\r\ncontent-type: application/octet-stream\r\n\r\n`
const file = (text: string, name?: string, fileName?: string): string => `${fileHead(name, fileName)}${text}\r\n`
const end = '--cut--\r\n'

function send(body: string | ReadableStream<Uint8Array>): Promise<Reply> {
  return served.get('/v1/files', { method: 'POST', headers: type, body, duplex: 'half' })
}

interface Card {
  id: string
  bytes: number
  filename: string
  error?: { code: string; param: string }
}

async function list(): Promise<string[]> {
  return (JSON.parse((await served.get('/v1/files')).text) as { data: Card[] }).data.map(({ id }) => id)
}

test('the purpose may stand before or behind the file, and other parts do no harm', async () => {
  const other = '--cut\r\ncontent-disposition: form-data; name="expires_after"\r\n\r\n{}\r\n'
  for (const body of [purpose + file('a\nb'), file('a\nb') + purpose, other + file('a\nb') + other + purpose]) {
    const { status, text } = await send(body + end)
    assert.is(status, 200, text)
    const card = JSON.parse(text) as Card
    assert.equal([card.bytes, card.filename], [3, 'in.jsonl'])
    assert.is((await served.get(`/v1/files/${card.id}/content`)).text, 'a\nb')
  }
})

test('a name of a file that is a path stays a name', async () => {
  const card = JSON.parse((await send(purpose + file('a', 'file', '../../etc/passwd') + end)).text) as Card
  assert.is(card.filename, 'passwd')
  assert.ok(existsSync(join(files, `${card.id}.data`)))
})

const broken: [what: string, body: string, code: string | undefined, param: string | null][] = [
  ['no end', purpose + file('a'), 'invalid_form', null],
  ['an end within the file', `${purpose}${fileHead()}abc`, 'invalid_form', null],
  ['an end within the head of a part', '--cut\r\ncontent-disposition: form-da', 'invalid_form', null],
  ['no parts', 'nothing of that kind', 'invalid_form', null],
  ['another purpose', file('a') + purpose.replace('batch', 'fine-tune') + end, undefined, 'purpose'],
  ['no purpose', file('a') + end, undefined, 'purpose'],
  ['no file', purpose + end, undefined, 'file'],
  ['a text for a file', purpose + file('a').replace(/; filename="[^"]*"\r\ncontent-type: [^\r]*/, '') + end, undefined, 'file'],
  ['a file of another name', purpose + file('a', 'data') + end, undefined, 'file'],
]
for (const [what, body, code, param] of broken) {
  test(`a form with ${what} is refused, and nothing of it stays`, async () => {
    const before = readdirSync(files)
    const { status, text } = await send(body)
    const { error } = JSON.parse(text) as Card
    assert.equal([status, error?.code ?? undefined, error?.param], [400, code, param], text)
    assert.equal(readdirSync(files), before)
    assert.is((await send(purpose + file('good') + end)).status, 200)
  })
}

test('of a client that leaves within its file nothing stays', async () => {
  const before = readdirSync(files)
  const socket = connect(Number(new URL(served.url).port), '127.0.0.1')
  const text = purpose + fileHead() + 'x'.repeat(100_000)
  socket.write(`POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\ncontent-type: ${type['content-type']}\r\n\r\n${text}`)
  await until('a file that is being written', () => readdirSync(files).length > before.length)
  socket.destroy()
  await until('nothing left of it', () => readdirSync(files).length === before.length)
  assert.equal(readdirSync(files), before)
  await until('its line in the log', () => served.lines.at(-1)?.['status'] === 499)
})

test('a file of 150 MB goes to the disk without being held in memory', async () => {
  const block = Buffer.alloc(1 << 16, `${'x'.repeat(99)}\n`)
  const blocks = 2400
  let sent = -1
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      sent++
      if (sent === 0) controller.enqueue(Buffer.from(purpose + fileHead()))
      else if (sent <= blocks) controller.enqueue(block)
      else {
        controller.enqueue(Buffer.from(`\r\n${end}`))
        controller.close()
      }
    },
  })
  const held = (): number => process.memoryUsage().arrayBuffers
  const before = held()
  let most = 0
  const watching = setInterval(() => (most = Math.max(most, held() - before)), 5)
  const card = JSON.parse((await send(body)).text) as Card
  clearInterval(watching)
  assert.is(card.bytes, blocks * block.length)
  assert.ok(most > 0, 'never looked')
  // Chunks that wait for the disk, and those that the collector has not come to: a part of the file, where all of it would be 157 MB at the least.
  assert.ok(most < 100e6, `${most} bytes`)
  assert.is((await served.get(`/v1/files/${card.id}`, { method: 'DELETE' })).status, 200)
})

test('after a restart there are the files that were complete, and nothing else', async () => {
  const kept = await list()
  await served.server.close()
  writeFileSync(join(files, 'file-aaaa.data.new'), 'half of')
  writeFileSync(join(files, 'file-bbbb.data'), 'whole, but without a card')
  writeFileSync(join(files, 'file-bbbb.json.new'), '{"id":"file-bb')
  writeFileSync(join(folder, 'batches', 'batch_cccc.json.new'), '{"id":"ba')
  await open()
  assert.equal(await list(), kept)
  assert.equal(readdirSync(files).sort(), kept.flatMap((id) => [`${id}.data`, `${id}.json`]).sort())
  assert.equal(readdirSync(join(folder, 'batches')), [])
})

test('asking for the head of a file leaves it closed', async () => {
  const [id = ''] = await list()
  const opened = (): number => readdirSync('/proc/self/fd').length
  await served.get(`/v1/files/${id}/content`, { method: 'HEAD' })
  const before = opened()
  for (let i = 0; i < 50; i++) assert.is((await served.get(`/v1/files/${id}/content`, { method: 'HEAD' })).status, 200)
  assert.ok(opened() < before + 10, `${opened()} after ${before}`)
})

test.run()
