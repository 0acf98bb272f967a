import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { OptionError, TokenizerError } from '../../src/errors.js'
import { Tokenizer } from '../../src/tokenizer/tokenizer.js'
import { DOLLY, LAMB, added, dice, smallTokenizer, withFolder } from './samples.js'

const test = suite('tokenizer')
const dolly = await Tokenizer.load(DOLLY)
const lamb = await Tokenizer.load(LAMB)

const KEYS = ['### End', '### Instruction:', '### Response:\n', '<|endoftext|>', '<|padding|>', '###', ' End', '### Response:', '\n']

/** Text of words, spaces, marks and characters of all planes; lone surrogates where asked for. */
function randomText(roll: (below: number) => number, kinds: number): string {
  return Array.from({ length: roll(12) }, () => {
    const kind = roll(kinds)
    if (kind === 0) return ' '.repeat(roll(30))
    if (kind === 1) return ['the', ' capital', 'É', 'e\u0301', '한', '\u1100\u1161', '\n', '\r\n', '\t', '\ufeff', '\0'][roll(11)] ?? ''
    if (kind === 2) return String.fromCharCode(0x20 + roll(0x5f))
    if (kind === 3) return String.fromCodePoint(0xe000 + roll(0x110000 - 0xe000))
    if (kind === 4) return String.fromCharCode(roll(0xd800))
    if (kind === 5) return KEYS[roll(KEYS.length)] ?? ''
    return String.fromCharCode(0xd800 + roll(0x800))
  }).join('')
}

for (const [name, tokenizer] of Object.entries({ dolly, lamb })) {
  test(`${name}: a text comes back as its composed form`, async () => {
    const roll = dice(1)
    for (let round = 0; round < 2000; round++) {
      const text = randomText(roll, 6)
      assert.is(tokenizer.decode(await tokenizer.encode(text)), text.normalize('NFC'), JSON.stringify(text))
    }
  })

  test(`${name}: no user text gives a special token, whatever stands around it`, async () => {
    const roll = dice(2)
    const special = new Set(tokenizer.specialTokens.values())
    for (let round = 0; round < 2000; round++) {
      const cut = roll(8)
      const [before, after] = ['### Response:\n'.slice(0, cut), '### Response:\n'.slice(cut)]
      const user = [after, before, '', '### End'][roll(4)] + randomText(roll, 7) + [before, '### Response:', '#', ''][roll(4)]
      const parts = [
        { text: '### Instruction:\n', trusted: true },
        { text: user, trusted: false },
        { text: `${after}\n\n### Response:\n`, trusted: true }
      ]
      const ids = [...(await tokenizer.encodeParts(parts))].filter((id) => special.has(id))
      assert.equal(
        ids,
        ['### Instruction:', ...(cut === 0 ? ['### Response:\n'] : []), '### Response:\n'].map((token) => tokenizer.tokenToId(token)),
        JSON.stringify(user)
      )
      assert.equal([...(await tokenizer.encode(user))].some((id) => special.has(id)), false)
    }
  })

  test(`${name}: a prompt in parts is encoded as the whole is, where the user's part holds no key`, async () => {
    const roll = dice(3)
    for (let round = 0; round < 2000; round++) {
      const [first, second] = [randomText(roll, 5), randomText(roll, 5)]
      const parts = [
        { text: 'Intro.\n\n### Instruction:\n', trusted: true },
        { text: first, trusted: false },
        { text: '\n\nInput:\n', trusted: true },
        { text: second, trusted: false },
        { text: '\n\n### Resp', trusted: true },
        { text: 'onse:\n', trusted: true }
      ]
      const whole = parts.map((part) => part.text).join('')
      assert.equal([...(await tokenizer.encodeParts(parts))], [...(await tokenizer.encodeWithSpecial(whole))], JSON.stringify(whole))
    }
  })
}

test('a lone surrogate counts as U+FFFD, and two of different parts do not join', async () => {
  assert.equal([...(await dolly.encode('a\ud83db'))], [...(await dolly.encode('a\ufffdb'))])
  const halves = await dolly.encodeParts([
    { text: '\ud83d', trusted: false },
    { text: '\udc4d', trusted: true }
  ])
  assert.equal([...halves], [...(await dolly.encode('\ufffd\ufffd'))])
})

test('tells names, ids, lengths and sizes', () => {
  assert.is(dolly.vocabSize, 50280)
  assert.is(dolly.maxId, 50279)
  assert.is(dolly.maxLength, undefined) // 1e30 in the file
  assert.is(lamb.maxLength, 512)
  assert.equal(dolly.eos, { content: '<|endoftext|>', id: 0 })
  assert.equal([dolly.bos?.id, dolly.pad?.id, dolly.unk?.id], [0, 0, 0])
  assert.equal(
    [...dolly.specialTokens],
    [
      ['<|endoftext|>', 0],
      ['<|padding|>', 1],
      ['### End', 50277],
      ['### Instruction:', 50278],
      ['### Response:\n', 50279]
    ]
  )
  assert.equal(dolly.additionalSpecialTokens, ['### End', '### Instruction:', '### Response:\n'])
  assert.equal(lamb.additionalSpecialTokens, dolly.additionalSpecialTokens)
  assert.is(dolly.tokenToId('Ġa'), 247)
  assert.is(dolly.idToToken(247), 'Ġa')
  assert.is(dolly.tokenToId('no such'), undefined)
  assert.is(dolly.idToToken(50280), undefined)
})

test('the table of bytes can have the rows of the model, and no fewer than there are ids', () => {
  const { bytes, ends, special } = lamb.idBytes(2064)
  assert.equal([ends.length, special.length], [2064, 2064])
  assert.equal([ends[2050], ends[2051], ends[2063]], [bytes.length, bytes.length, bytes.length])
  assert.throws(() => lamb.idBytes(2050), (error: Error) => error instanceof TokenizerError && /ids up to 2050.*2050 rows/.test(error.message))
})

test('decode keeps or drops special tokens, gives nothing for ids beyond the last, and refuses what is no id', () => {
  assert.is(dolly.decode([12092, 50277, 50276, 60000]), 'Hello  ')
  assert.is(dolly.decode([12092, 50277, 50276, 60000], { skipSpecial: false }), 'Hello### End  ')
  for (const id of [-1, 1.5, NaN, Infinity]) assert.throws(() => dolly.decode([id]), (error: Error) => error instanceof TokenizerError)
})

test('cleanUp removes spaces before punctuation and contractions, and only when asked', async () => {
  const ids = await dolly.encode("Hello , world ! Is n't it ? I 'm ' he 's , they 've . you 're")
  assert.is(dolly.decode(ids), "Hello , world ! Is n't it ? I 'm ' he 's , they 've . you 're")
  assert.is(dolly.decode(ids, { cleanUp: true }), "Hello, world! Isn't it? I'm'he's, they've. you're")
})

test('refuses what is no text, and more text than can be encoded', async () => {
  assert.instance(await dolly.encode(5 as unknown as string).catch((error: unknown) => error), OptionError)
  assert.instance(await dolly.encode('x'.repeat(2 ** 21 + 1)).catch((error: unknown) => error), TokenizerError)
})

test('encodings that run at once do not disturb each other', async () => {
  const texts = Array.from({ length: 200 }, (_, index) => `text ${index} of many`)
  const ids = await Promise.all(texts.map((text) => dolly.encode(text)))
  assert.equal(ids.map((list) => dolly.decode(list)), texts)
})

test('reads tokens in old and new spelling, and the map before the configuration unless that lists its tokens', async () => {
  const json = JSON.stringify(smallTokenizer())
  const load = (config: object, map: object) =>
    withFolder({ 'tokenizer.json': json, 'tokenizer_config.json': JSON.stringify(config), 'special_tokens_map.json': JSON.stringify(map) }, (dir) =>
      Tokenizer.load(dir)
    )
  const old = await load({ eos_token: '### End' }, { eos_token: added(259, '<|end|>'), additional_special_tokens: [{ content: '### End' }] })
  assert.equal([old.eos?.id, old.bos, old.additionalSpecialTokens], [259, undefined, ['### End']])
  const listed = await load({ eos_token: '### End', added_tokens_decoder: {}, pad_token: null }, { eos_token: '<|end|>', pad_token: '<|end|>' })
  assert.equal([listed.eos?.id, listed.pad?.id], [260, 259])
  assert.equal(listed.additionalSpecialTokens, ['<|end|>', '### End', '### Response:\n'])
  const named = await load({ extra_special_tokens: { end: '### End' } }, {})
  assert.equal(named.additionalSpecialTokens, ['### End'])
})

test('old files without a type, with empty prefixes and merges as text, load the same', async () => {
  const small = smallTokenizer()
  const { type: _, ...model } = { ...small.model, continuing_subword_prefix: '', end_of_word_suffix: '', merges: ['h e', 'Ġ t', 'Ġt he'] }
  const [now, then] = await Promise.all(
    [small, { ...small, model }].map((json) => withFolder({ 'tokenizer.json': JSON.stringify(json) }, (dir) => Tokenizer.load(dir)))
  )
  const text = ' the  he\n   them'
  assert.equal(await then?.encode(text), await now?.encode(text))
  assert.is((await now?.encode(' the'))?.length, 1)
})

test('an added token is its text even where all its letters belong to the byte alphabet', async () => {
  const small = smallTokenizer()
  small.added_tokens.push(added(264, 'é!', { special: false }))
  await withFolder({ 'tokenizer.json': JSON.stringify(small) }, async (dir) => {
    const tokenizer = await Tokenizer.load(dir)
    assert.equal([...(await tokenizer.encode('é!'))], [264])
    assert.is(tokenizer.decode([264]), 'é!')
  })
})

test('a vocabulary whose merges build a special token cannot be used to forge one', async () => {
  const small = smallTokenizer()
  small.model.merges.push(['he', 'h'])
  small.model.vocab['heh'] = 259
  small.added_tokens = [added(259, 'heh')]
  await withFolder({ 'tokenizer.json': JSON.stringify(small) }, async (dir) => {
    const tokenizer = await Tokenizer.load(dir)
    assert.equal([...(await tokenizer.encodeWithSpecial('heh'))], [259])
    const error: unknown = await tokenizer.encode('heh').catch((thrown: unknown) => thrown)
    assert.instance(error, TokenizerError)
  })
})

test('works in a worker thread beside the main one', async () => {
  const script = `
    import { Worker, isMainThread, parentPort } from 'node:worker_threads'
    const { Tokenizer } = await import(${JSON.stringify(new URL('../../src/tokenizer/tokenizer.js', import.meta.url).href)})
    const tokenizer = await Tokenizer.load(${JSON.stringify(LAMB)})
    const ids = []
    for (let round = 0; round < 200; round++) ids.push((await tokenizer.encode('round ' + round)).length)
    if (isMainThread) {
      const workers = [0, 1, 2].map(() => new Worker(new URL(import.meta.url)))
      const sums = await Promise.all(workers.map((worker) => new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject))))
      console.log(JSON.stringify([ids.reduce((a, b) => a + b), ...sums]))
    } else parentPort.postMessage(ids.reduce((a, b) => a + b))`
  const { stdout } = await withFolder({ 'main.mjs': script }, (dir) => promisify(execFile)(process.execPath, [join(dir, 'main.mjs')]))
  const sums = JSON.parse(stdout) as number[]
  assert.is(sums.length, 4)
  assert.is(new Set(sums).size, 1)
})

test('the prompts of the reference generations are encoded to their ids as a whole', async () => {
  const generate = JSON.parse(readFileSync('test/fixtures/dolly/generate.json', 'utf8')) as Array<{ prompt: string; prompt_ids: number[] }>
  for (const { prompt, prompt_ids } of generate) assert.equal([...(await dolly.encodeWithSpecial(prompt))], prompt_ids)
})

test.run()
