// Against the reference library: its ids and texts recorded in fixtures, and its decoder called side by side.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { Tokenizer as Library } from 'tokenizers'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Tokenizer } from '../../src/tokenizer/tokenizer.js'
import { DOLLY, LAMB, added, dice, smallTokenizer, withFolder } from './samples.js'

const test = suite('tokenizer against the reference library')
const dolly = await Tokenizer.load(DOLLY)
const lamb = await Tokenizer.load(LAMB)

interface Case {
  text: string
  ids: number[]
  decoded: string
  decoded_skip: string
}

const cases = JSON.parse(readFileSync('test/fixtures/dolly/tokenizer-cases.json', 'utf8')) as Case[]

test('encodes every reference case to the same ids', async () => {
  assert.is(cases.length, 83)
  for (const { text, ids } of cases) assert.equal([...(await dolly.encodeWithSpecial(text))], ids, JSON.stringify(text))
})

test('decodes every reference case to the same text, with and without special tokens', () => {
  for (const { ids, decoded, decoded_skip } of cases) {
    assert.is(dolly.decode(ids, { skipSpecial: false }), decoded)
    assert.is(dolly.decode(ids), decoded_skip)
  }
})

test('encodes the worked examples of runs of spaces, composition and keys', async () => {
  const examples: Array<[string, number[]]> = [
    [' a', [247]],
    ['  a', [50276, 66]],
    ['   a', [50275, 66]],
    ['    a', [50274, 66]],
    [`${' '.repeat(30)}x`, [50254, 50272, 89]],
    ['\n    def f', [187, 50274, 1545, 269]],
    [' \t  x', [28910, 50276, 89]],
    ['e\u0301', [860]],
    ['x\n\n### Response:\nHi\n\n### End', [89, 535, 50279, 12764, 535, 50277]],
    ['### Response: \n', [4118, 19371, 27, 2490]]
  ]
  for (const [text, ids] of examples) assert.equal([...(await dolly.encodeWithSpecial(text))], ids, JSON.stringify(text))
})

test('encodes the texts whose log-probabilities are recorded to the same ids', async () => {
  const { texts } = JSON.parse(readFileSync('test/fixtures/lamb/logprobs.json', 'utf8')) as { texts: Array<{ text: string; ids: number[] }> }
  assert.ok(texts.length > 0)
  for (const { text, ids } of texts) assert.equal([...(await lamb.encodeWithSpecial(text))], ids)
})

type Row = [text: string, dolly: number[], dollyPlain: number[] | null, lamb: number[], lambPlain: number[] | null]
const rows = JSON.parse(gunzipSync(readFileSync('test/fixtures/tokenizer/fuzz.json.gz')).toString()) as Row[]

for (const [name, tokenizer, column] of [
  ['Dolly', dolly, 1],
  ['lamb', lamb, 3]
] as const) {
  test(`encodes 3000 random texts to the reference ids of ${name}, with special tokens on and off`, async () => {
    assert.is(rows.length, 3000)
    let differing = 0
    for (const row of rows) {
      const ids = row[column]
      const plain = row[column === 1 ? 2 : 4] ?? ids
      if (plain !== ids) differing++
      assert.equal([...(await tokenizer.encodeWithSpecial(row[0]))], ids, JSON.stringify(row[0]))
      assert.equal([...(await tokenizer.encode(row[0]))], plain, JSON.stringify(row[0]))
    }
    assert.ok(differing > 500, `only ${differing} texts hold a special token`)
  })

  test(`decodes random ids as the library does for ${name}, broken UTF-8 included`, async () => {
    const library = Library.fromFile(join(column === 1 ? DOLLY : LAMB, 'tokenizer.json'))
    const roll = dice(7)
    let broken = 0
    for (let round = 0; round < 3000; round++) {
      // Small ids are single bytes, which rarely make whole characters.
      const below = roll(2) === 0 ? 260 : tokenizer.maxId + 20
      const ids = Array.from({ length: roll(12) }, () => (roll(8) === 0 ? tokenizer.maxId - roll(3) : roll(below)))
      for (const skipSpecial of [true, false]) {
        const text = tokenizer.decode(ids, { skipSpecial })
        assert.is(text, await library.decode(ids, skipSpecial), String(ids))
        if (text.includes('\ufffd')) broken++
      }
    }
    assert.ok(broken > 1000)
  })
}

test('the table of bytes holds what the library decodes for each id alone', async () => {
  const library = Library.fromFile(join(LAMB, 'tokenizer.json'))
  const { bytes, ends, special } = lamb.idBytes()
  assert.is(ends.length, 2051)
  for (let id = 0; id < ends.length; id++) {
    const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes.subarray(ends[id - 1] ?? 0, ends[id]))
    assert.is(text, await library.decode([id], false))
    assert.is(special[id] === 1, (await library.decode([id], true)) !== text, String(id))
  }
})

test('special tokens among the added ones leave the ids of the others as the library has them, and the longest holds', async () => {
  const small = smallTokenizer()
  small.added_tokens.push(added(264, '### Response:'), added(265, '### Response:\n\n'))
  const json = JSON.stringify(small)
  const library = Library.fromString(json)
  await withFolder({ 'tokenizer.json': json }, async (dir) => {
    const tokenizer = await Tokenizer.load(dir)
    const responses = '### Response:\n\n\n### Response:x### Response:\n### Response: '
    for (const text of ['a  the   he', '  ### End   ', 'x### Response:\n<|end|>  y', responses]) {
      assert.equal([...(await tokenizer.encodeWithSpecial(text))], (await library.encode(text)).getIds())
    }
    assert.equal([...(await tokenizer.encode('  ### End'))].includes(260), false)
  })
})

test.run()
