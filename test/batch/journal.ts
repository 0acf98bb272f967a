import { appendFileSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Journal } from '../../src/batch/journal.js'
import { BatchMismatchError } from '../../src/errors.js'

const folder = mkdtempSync(join(tmpdir(), 'ewe-journal-'))
test.after(() => rmSync(folder, { recursive: true }))
const path = join(folder, 'out.journal')
const header = { seed: '7', input: { sha256: 'ab' } }
const answers = ['{"text":"Tōkyō"}', '{"text":"a\\tb"}', '{"error":null}', `{"text":"${'x'.repeat(300)}"}`].map((json, i) => ({ json, ok: i !== 2 }))
const places = [3, 0, 4, 1]

async function written(): Promise<Buffer> {
  rmSync(path, { force: true })
  const journal = await Journal.open(path, header, 6)
  for (const [i, place] of places.entries()) await journal.append(place, answers[i]!)
  await journal.close()
  return readFileSync(path)
}

async function contents(journal: Journal): Promise<[number, string][]> {
  const found: [number, string][] = []
  for (let i = 0; i < journal.size; i++) found.push([journal.finished.at(i), (await journal.read(journal.finished.at(i))).toString()])
  return found
}

const expected = places.map((place, i): [number, string] => [place, `${answers[i]!.json}\n`])

test('what was appended is there again, in order of finishing', async () => {
  await written()
  const journal = await Journal.open(path, header, 6)
  assert.equal(await contents(journal), expected)
  assert.is(journal.failed, 1)
  assert.is(journal.cut, 0)
  assert.equal([0, 1, 2, 3, 4, 5].map((record) => journal.has(record)), [true, true, false, true, true, false])
  await journal.close()
})

test('a journal that was torn at any byte keeps its whole lines, and goes on', async () => {
  const whole = await written()
  const firstEnd = whole.indexOf(10) + 1
  for (let length = 0; length <= whole.length; length++) {
    const torn = whole.subarray(0, length)
    writeFileSync(path, torn)
    const journal = await Journal.open(path, header, 6)
    const lines = length < firstEnd ? 0 : torn.subarray(firstEnd).filter((byte) => byte === 10).length
    assert.equal(await contents(journal), expected.slice(0, lines), `torn at ${length}`)
    assert.is(journal.cut, length < firstEnd ? length : length - (torn.lastIndexOf(10) + 1))
    for (const [i, place] of [...places.entries()].slice(lines)) await journal.append(place, answers[i]!)
    await journal.close()
    assert.equal(readFileSync(path), whole, `torn at ${length} and written on`)
  }
})

test('a byte that changed anywhere behind the header costs its line and those behind it, and nothing wrong is read', async () => {
  const whole = await written()
  for (let at = whole.indexOf(10) + 1; at < whole.length; at++) {
    const damaged = Buffer.from(whole)
    damaged[at] = damaged[at]! ^ 1
    writeFileSync(path, damaged)
    const journal = await Journal.open(path, header, 6)
    const found = await contents(journal)
    assert.equal(found, expected.slice(0, found.length), `byte ${at}`)
    assert.ok(found.length < expected.length)
    await journal.close()
  }
})

test('a line twice, or of a record that the input does not have, ends what is taken', async () => {
  const whole = await written()
  const lines = whole.toString().split('\n')
  appendFileSync(path, `${lines[1]}\n`)
  const journal = await Journal.open(path, header, 6)
  assert.is(journal.size, 4)
  await journal.close()
  assert.equal(readFileSync(path), whole)
  const smaller = await Journal.open(path, header, 4)
  assert.is(smaller.size, 2, 'record 4 is not one of 4')
  await smaller.close()
})

test('a journal of another job is refused, with what differs, and stays as it is', async () => {
  const whole = await written()
  try {
    await Journal.open(path, { ...header, seed: '8', text: true }, 6)
    assert.unreachable()
  } catch (error) {
    assert.instance(error, BatchMismatchError)
    assert.match((error as Error).message, /seed: "7" then, "8" now\n {2}text: nothing then, true now/)
  }
  assert.equal(readFileSync(path), whole)
})

test('a file that is no journal is refused and stays as it is', async () => {
  for (const text of ['my notes', 'my notes\nof a trip\n', '{}\n', '\0\0\0']) {
    writeFileSync(path, text)
    try {
      await Journal.open(path, header, 6)
      assert.unreachable()
    } catch (error) {
      assert.instance(error, BatchMismatchError)
    }
    assert.is(readFileSync(path, 'utf8'), text)
  }
})

test('answers that come together are all there, whole and in order', async () => {
  rmSync(path)
  const count = 2000
  const journal = await Journal.open(path, header, count)
  await Promise.all(Array.from({ length: count }, (_, i) => journal.append(i, { json: JSON.stringify({ i }), ok: true })))
  await journal.close()
  const again = await Journal.open(path, header, count)
  assert.equal(
    (await contents(again)).map(([record, line]) => [record, JSON.parse(line) as unknown]),
    Array.from({ length: count }, (_, i) => [i, { i }]),
  )
  await again.close()
  assert.is(again.cut, 0)
  assert.ok(statSync(path).size > 0)
})

test.run()
