import { appendFileSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Input } from '../../src/batch/input.js'
import { lineLimit } from '../../src/batch/line.js'
import { BatchError } from '../../src/errors.js'

const folder = mkdtempSync(join(tmpdir(), 'ewe-input-'))
test.after(() => rmSync(folder, { recursive: true }))
const path = join(folder, 'in.jsonl')

/** Lines that are not blank, with their numbers. */
async function lines(bytes: Buffer, stream = false): Promise<[number, string][]> {
  writeFileSync(path, bytes)
  const source = async function* (): AsyncGenerator<Buffer> {
    for (let at = 0; at < bytes.length; at += 7) yield await Promise.resolve(bytes.subarray(at, at + 7))
  }
  const input = await Input.open(stream ? source() : path, folder)
  const found: [number, string][] = []
  for (let record = 0; record < input.size; record++) {
    const { number, bytes: line } = await input.read(record)
    found.push([number, line?.toString('latin1') ?? 'too long'])
  }
  await input.close()
  return found
}

test('lines are found as a plain split finds them, from files and streams', async () => {
  const texts = ['', '\n', 'a', 'a\n', 'a\nb', '\n\na\n \t\r\nb\n\n', 'a\r\nb\r\n', '\ufeffa\nb', '\ufeff\na', 'a\n\ufeff', ' \n', 'é\n\u2028\n']
  for (const text of texts) {
    const split = text.replace(/^\ufeff/, '').split('\n').map((line, i): [number, string] => [i + 1, Buffer.from(line).toString('latin1')])
    const expected = split.filter(([, line]) => /[^ \t\r]/.test(line))
    for (const stream of [false, true]) assert.equal(await lines(Buffer.from(text), stream), expected, JSON.stringify(text))
  }
})

test('lines that lie across reads are whole, and those above the limit are known by their length only', async () => {
  const long = ['x'.repeat((1 << 20) + 3), 'y'.repeat((1 << 20) - 5), 'z'.repeat(lineLimit), 'w'.repeat(lineLimit + 1), 'v']
  const found = await lines(Buffer.from(`${long.join('\n')}\n`))
  assert.equal(
    found.map(([number, text]) => [number, text.length]),
    [[1, (1 << 20) + 3], [2, (1 << 20) - 5], [3, lineLimit], [4, 'too long'.length], [5, 1]],
  )
  assert.equal(found.map(([, text]) => text.charAt(0)), ['x', 'y', 'z', 't', 'v'])
})

test('a custom_id that came before is known, whatever lies between', async () => {
  writeFileSync(path, ['{"custom_id":"a"}', '"a"', '{"custom_id":"b"}', 'broken "custom_id"', '{ "custom_id" : "a" }', '{"custom_id":1}', '{"custom_id":1}'].join('\n'))
  const input = await Input.open(path, folder)
  assert.equal(Array.from({ length: input.size }, (_, record) => input.repeats(record)), [false, false, false, false, true, false, false])
  await input.close()
})

test('the same bytes have the same hash, from a file or a stream, and a stream leaves no file behind', async () => {
  writeFileSync(path, 'a\nb\n')
  const input = await Input.open(path, folder)
  const stream = await Input.open((async function* () { yield await Promise.resolve(Buffer.from('a\nb\n')) })(), folder)
  assert.is(stream.hash, input.hash)
  assert.equal(readdirSync(folder), ['in.jsonl'])
  await input.close()
  await stream.close()
})

test('an input that changes while the job runs is refused', async () => {
  for (const change of [() => appendFileSync(path, 'c\n'), () => writeFileSync(path, 'b\na\n')]) {
    writeFileSync(path, 'a\nb\n')
    const input = await Input.open(path, folder)
    await input.checkUnchanged()
    await new Promise((resolve) => setTimeout(resolve, 20)) // a file's time has steps
    change()
    await input.checkUnchanged().then(
      () => assert.unreachable(),
      (error: unknown) => assert.instance(error, BatchError),
    )
    await input.close()
  }
})

test('a folder and a file that is not there are refused', async () => {
  for (const wrong of [folder, join(folder, 'gone')]) await Input.open(wrong, folder).then(() => assert.unreachable(), (error: unknown) => assert.instance(error, Error))
})

test.run()
