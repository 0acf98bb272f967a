// Damaged and hostile tokenizer files: each one ends as a TokenizerError or as a tokenizer that works. The number of random files may be given as the
// first argument.
import { execFileSync } from 'node:child_process'
import { mkdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { TokenizerError } from '../../src/errors.js'
import { Tokenizer } from '../../src/tokenizer/tokenizer.js'
import { LAMB, added, dice, smallTokenizer, withFolder } from './samples.js'

const test = suite('hostile tokenizer files')
type Small = ReturnType<typeof smallTokenizer>

async function refusal(files: Record<string, string | Uint8Array>): Promise<string> {
  return withFolder(files, async (dir) => {
    const error: unknown = await Tokenizer.load(dir).catch((thrown: unknown) => thrown)
    assert.instance(error, TokenizerError)
    assert.ok((error as Error).message.includes(dir), 'the message names the file')
    return (error as Error).message
  })
}

const SLOW = { Regex: '(a*)*b' }
const TEXT = { Sequence: { id: 'A', type_id: 0 } }

/** What is wrong, how it gets into the file, and what the error must say. */
const broken: Array<[string, (json: Small) => unknown, RegExp]> = [
  ['no model', (json) => ({ ...json, model: undefined }), /`model` is nothing/],
  ['a model of another type', (json) => (json.model.type = 'Unigram'), /`model` is type "Unigram"/],
  ['dropout', (json) => (json.model.dropout = 0.1), /`model.dropout` is 0.1/],
  ['a prefix for continuing entries', (json) => (json.model.continuing_subword_prefix = '##'), /continuing_subword_prefix/],
  ['byte fallback', (json) => (json.model.byte_fallback = true), /byte_fallback/],
  ['a list as vocabulary', (json) => Object.assign(json.model, { vocab: ['a'] }), /`model.vocab` but found an array of 1/],
  ['a negative id', (json) => (json.model.vocab['!'] = -1), /gives "!" the id -1/],
  ['a fraction as id', (json) => (json.model.vocab['!'] = 0.5), /the id 0.5/],
  ['a text as id', (json) => (json.model.vocab['!'] = '0'), /the id "0"/],
  ['an id that would make a table of gigabytes', (json) => (json.model.vocab['!'] = 2 ** 31), /the id 2147483648: .* from 0 to 1048575/],
  ['an id twice', (json) => (json.model.vocab['!'] = 77), /the id 77 to both/],
  ['an empty entry', (json) => (json.model.vocab[''] = 259), /empty entry/],
  ['a missing byte', (json) => delete json.model.vocab['Ġ'], /lacks 1 bytes of UTF-8/],
  ['an entry beyond the byte alphabet', (json) => replaceThe(json, '日本'), /"日本", which is not written in the byte alphabet/],
  ['merges that are no list', (json) => Object.assign(json.model, { merges: {} }), /`model.merges` but found an object/],
  ['a merge of three', (json) => json.model.merges.push(['a', 'b', 'c']), /`model.merges\[3\]` is an array of 3/],
  ['a merge text without a space', (json) => json.model.merges.push('ab'), /`model.merges\[3\]` is "ab"/],
  ['a merge of numbers', (json) => json.model.merges.push([1, 2]), /`model.merges\[3\]`/],
  ['a merge without a result', (json) => json.model.merges.push(['a', 'b']), /`model.merges\[3\]` needs "ab"/],
  ['a merge of an unknown entry', (json) => json.model.merges.push(['zz', 'b']), /needs "zz"/],
  ['no added tokens', (json) => ({ ...json, added_tokens: undefined }), /`added_tokens` but found nothing/],
  ['an added token that is null', (json) => (json.added_tokens[0] = null), /`added_tokens\[0\]` is not a token/],
  ['an added token without a flag', (json) => (json.added_tokens[0] = { ...added(259, '<|end|>'), special: undefined }), /`added_tokens\[0\]`/],
  ['an added token with a huge id', (json) => (json.added_tokens[0] = added(2 ** 30, '<|end|>')), /`added_tokens\[0\]`/],
  ['an added token with the id of an entry', (json) => (json.added_tokens[0] = added(5, '<|end|>')), /the id 5, but its place .* is 259/],
  ['an added token behind a gap', (json) => json.added_tokens.push(added(300, 'x!')), /the id 300, but its place in the vocabulary is 264/],
  ['an added token twice', (json) => json.added_tokens.push(added(264, '### End')), /repeats "### End"/],
  ["an added token with an entry's place in a vocabulary with gaps", (json) => shiftEntry(json), /the id 258 of another entry/],
  ['an empty added token', (json) => json.added_tokens.push(added(264, '')), /content "", which no text can hold/],
  ['an added token of half a character', (json) => json.added_tokens.push(added(264, '\ud83d')), /which no text can hold/],
  ['a special token that eats spaces', (json) => json.added_tokens.push(added(264, 'x!', { rstrip: true })), /`rstrip` set/],
  ['a normaliser by pattern', (json) => (json.normalizer = { type: 'Replace', pattern: SLOW, content: '' }), /`normalizer` has "Replace"/],
  ['a list of normalisers that is none', (json) => (json.normalizer = { type: 'Sequence', normalizers: 5 }), /`normalizer` has nothing/],
  ['splitting by pattern', (json) => (json.pre_tokenizer = { type: 'Split', pattern: SLOW }), /`pre_tokenizer` is type "Split"/],
  ['no splitting', (json) => (json.pre_tokenizer = null), /`pre_tokenizer` is null/],
  ['a prefix space that is no boolean', (json) => (json.pre_tokenizer = { type: 'ByteLevel', add_prefix_space: 1 }), /`add_prefix_space`/],
  ['another decoder', (json) => (json.decoder = { type: 'Metaspace' }), /`decoder` is type "Metaspace"/],
  ['a template that adds tokens', (json) => (json.post_processor = template([{ SpecialToken: { id: 'x' } }, TEXT])), /adds tokens to every text/],
  ['another post-processor', (json) => (json.post_processor = { type: 'BertProcessing' }), /`post_processor` has type "BertProcessing"/]
]

function replaceThe(json: Small, entry: string): void {
  delete json.model.vocab['Ġthe']
  json.model.merges.pop()
  json.model.vocab[entry] = 258
}

function shiftEntry(json: Small): void {
  delete json.model.vocab['Ġthe']
  json.model.merges.pop()
  json.model.vocab['Ġt'] = 258 // 258 entries, so that the next added token takes this place
  json.added_tokens = [added(258, '<|end|>')]
}

function template(single: unknown[]) {
  return { type: 'TemplateProcessing', single, pair: [], special_tokens: {} }
}

for (const [name, damage, message] of broken) {
  test(`refused: ${name}`, async () => {
    const json = smallTokenizer()
    const result = damage(json)
    const whole = typeof result === 'object' && result !== null && 'version' in result ? result : json
    assert.match(await refusal({ 'tokenizer.json': JSON.stringify(whole) }), message)
  })
}

test('a template that adds no token, and one more normaliser, are no obstacle', async () => {
  const normalizer = { type: 'Sequence', normalizers: [{ type: 'NFKC' }] }
  const json = { ...smallTokenizer(), post_processor: template([TEXT]), normalizer }
  await withFolder({ 'tokenizer.json': JSON.stringify(json) }, async (dir) => {
    const tokenizer = await Tokenizer.load(dir)
    assert.is(tokenizer.decode(await tokenizer.encode('ﬁ the')), 'fi the')
  })
})

const small = JSON.stringify(smallTokenizer())

test('refused: files that are no JSON object in UTF-8', async () => {
  for (const content of ['', '{', '[]', 'null', '5', small.slice(0, -1), `${small}x`]) await refusal({ 'tokenizer.json': content })
  assert.match(await refusal({ 'tokenizer.json': Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d) }), /not valid JSON in UTF-8/)
  assert.match(await refusal({ 'tokenizer.json': '['.repeat(4_000_000) + ']'.repeat(4_000_000) }), /expected a JSON object/)
})

test('refused: a file beyond the size limit, before it is read', async () => {
  assert.match(await refusal({ 'tokenizer.json': ' '.repeat(16 * 2 ** 20 + 1) }), /16777217 bytes, more than the 16777216/)
  const config = ' '.repeat(4 * 2 ** 20 + 1)
  assert.match(await refusal({ 'tokenizer.json': small, 'tokenizer_config.json': config }), /tokenizer_config.json: 4194305 bytes/)
})

test('refused: no file, a folder, a named pipe, a device', async () => {
  assert.match(await refusal({}), /no such file/)
  await withFolder({}, async (dir) => {
    const load = async () => (await Tokenizer.load(dir).catch((error: unknown) => error)) as Error
    const file = join(dir, 'tokenizer.json')
    await mkdir(file)
    assert.match((await load()).message, /not a regular file/)
  })
  await withFolder({}, async (dir) => {
    execFileSync('mkfifo', [join(dir, 'tokenizer.json')])
    const error: unknown = await Tokenizer.load(dir).catch((thrown: unknown) => thrown)
    assert.match((error as Error).message, /not a regular file/)
  })
  await withFolder({}, async (dir) => {
    await symlink('/dev/zero', join(dir, 'tokenizer.json'))
    const error: unknown = await Tokenizer.load(dir).catch((thrown: unknown) => thrown)
    assert.match((error as Error).message, /not a regular file/)
  })
})

test('a link to a regular file is followed, as in the cache of the Hub', async () => {
  await withFolder({ blob: small }, async (dir) => {
    await symlink('blob', join(dir, 'tokenizer.json'))
    assert.is((await Tokenizer.load(dir)).vocabSize, 264)
  })
})

function refuse(config: unknown, map: unknown = {}): Promise<string> {
  return refusal({ 'tokenizer.json': small, 'tokenizer_config.json': JSON.stringify(config), 'special_tokens_map.json': JSON.stringify(map) })
}

test('refused: names in the files beside it that are no tokens, or that the tokenizer does not have', async () => {
  assert.match(await refuse({ eos_token: 5 }), /tokenizer_config.json: expected a token for `eos_token` but found 5/)
  assert.match(await refuse({}, { eos_token: { text: 'x' } }), /special_tokens_map.json: expected a token for `eos_token`/)
  assert.match(await refuse({ eos_token: '<|no|>' }), /names the token "<\|no\|>"/)
  assert.match(await refuse({ additional_special_tokens: ['### End', 3] }), /`additional_special_tokens\[1\]` but found 3/)
  assert.match(await refuse({ additional_special_tokens: 'x' }), /an array of special tokens but found "x"/)
  assert.match(await refuse({ model_max_length: -1 }), /`model_max_length` but found -1/)
  assert.match(await refuse({ add_prefix_space: 'no' }), /`add_prefix_space` but found "no"/)
  assert.match(await refuse({ add_prefix_space: true }), /`add_prefix_space` is false here and true in tokenizer_config.json/)
  assert.match(await refuse([]), /expected a JSON object/)
})

test('keys such as __proto__ are entries like any other', async () => {
  const json = small.replace('"he":256', '"he":256,"__proto__":264,"constructor":265').replace(
    '"added_tokens":[',
    `"added_tokens":[${['__proto__', 'constructor'].map((content, index) => JSON.stringify(added(264 + index, content, { special: false }))).join()},`
  )
  await withFolder({ 'tokenizer.json': json.replace(/"id":(259|26[0-3]),/g, (_, id) => `"id":${Number(id) + 7},`) }, async (dir) => {
    const tokenizer = await Tokenizer.load(dir)
    assert.equal([...(await tokenizer.encode('__proto__constructor'))], [264, 265])
  })
})

const NUMBERS = [0, -1, 1, 77, 258, 264, 2 ** 31, 2 ** 53, 1e300, 0.5]
const TEXTS = ['', 'a', '### End', '\ud800', 'ByteLevel', 'Sequence']
const VALUES: unknown[] = [...NUMBERS, ...TEXTS, null, true, false, [], {}, ['a', 'b'], ['he', 'he']]

const CONFIG = {
  eos_token: { content: '<|end|>' },
  additional_special_tokens: ['### End', '### Response:\n'],
  model_max_length: 512,
  add_prefix_space: false
}

/** A JSON value changed in one place that chance chooses. */
function mutate(value: unknown, roll: (below: number) => number): unknown {
  if (typeof value !== 'object' || value === null || roll(6) === 0) return VALUES[roll(VALUES.length)]
  const keys = Object.keys(value)
  const key = keys[roll(Math.max(1, keys.length))] ?? ''
  const copy = Array.isArray(value) ? ([...value] as unknown[]) : { ...value }
  const fields = copy as Record<string, unknown>
  const action = roll(8)
  if (action === 0) Reflect.deleteProperty(fields, key)
  else if (action === 1 && Array.isArray(copy)) copy.push(copy[roll(Math.max(1, copy.length))])
  else if (action === 1) fields[keys[roll(Math.max(1, keys.length))] ?? 'x'] = fields[key]
  else fields[key] = mutate(fields[key], roll)
  return copy
}

const count = Number(process.argv[2] ?? 3000)
test(`${count} random files are refused with a TokenizerError, or work`, async () => {
  const roll = dice(4)
  const text = 'Hello,the###End<|e|>!'
  let loaded = 0
  await withFolder({}, async (dir) => {
    for (let round = 0; round < count; round++) {
      let json: unknown = smallTokenizer()
      for (let change = roll(3); change >= 0; change--) json = mutate(json, roll)
      let bytes = Buffer.from(JSON.stringify(json))
      const harm = roll(6)
      if (harm === 0) bytes = bytes.subarray(0, roll(bytes.length + 1))
      if (harm === 1) for (let change = roll(4); change >= 0; change--) bytes[roll(bytes.length)] = roll(256)
      await writeFile(join(dir, 'tokenizer.json'), bytes)
      await writeFile(join(dir, 'tokenizer_config.json'), JSON.stringify(roll(4) === 0 ? mutate(CONFIG, roll) : CONFIG))
      try {
        const tokenizer = await Tokenizer.load(dir)
        assert.is(tokenizer.decode(await tokenizer.encode(text)).trim(), text)
        loaded++
      } catch (error) {
        if (!(error instanceof TokenizerError)) throw new Error(`round ${round}: ${bytes.toString('latin1').slice(0, 2000)}`, { cause: error })
      }
    }
  })
  assert.ok(loaded > count / 50 && loaded < count, `${loaded} of ${count} loaded`)
})

test('the files of the shipped model load', async () => {
  assert.is((await Tokenizer.load(LAMB)).vocabSize, 2051)
})

test.run()
