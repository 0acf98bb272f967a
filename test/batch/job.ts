// What a batch job promises, on a model that is really run. The process that is killed is in test/cli/batch.ts.
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { identityOf } from '../../src/batch/identity.js'
import { runBatch, type BatchOptions, type Progress } from '../../src/batch/job.js'
import { lineLimit } from '../../src/batch/line.js'
import { BatchError, BatchMismatchError, type Model, OptionError } from '../../src/index.js'
import { load } from '../support/device.js'

const folder = mkdtempSync(join(tmpdir(), 'ewe-job-'))
const input = join(folder, 'in.jsonl')
const output = join(folder, 'out.jsonl')
let model: Model
let identity: BatchOptions['identity']

test.before(async () => {
  model = await load('models/lamb')
  identity = await identityOf(model, 'models/lamb')
})
test.after(async () => {
  await model.dispose()
  rmSync(folder, { recursive: true })
})
test.before.each(() => {
  for (const name of readdirSync(folder)) rmSync(join(folder, name), { recursive: true })
})

const defaults = { text: false, raw: false, order: 'input', shard: { index: 1, count: 1 }, seed: 0n, sampling: {}, modelName: 'lamb', created: 0, concurrency: 4 } as const

function run(more: Partial<BatchOptions> = {}, on = model): Promise<Progress> {
  return runBatch(on, { ...defaults, input, output, identity, ...more })
}

/** Writes the input; a string is a line as it is. */
function give(lines: readonly unknown[]): void {
  writeFileSync(input, lines.map((line) => `${typeof line === 'string' ? line : JSON.stringify(line)}\n`).join(''))
}

interface Line {
  line: number
  text: string
  finishReason: string
  error: { code: string; message: string; line: number } | null
  id: string
  custom_id: string | null
  response: { status_code: number; body: { id: string; created: number; error?: { message: string; param: string }; choices: { text: string; message: { content: string } }[] } } | null
}

function answers(path = output): Line[] {
  return readFileSync(path, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line) as Line)
}

async function rejection(promise: Promise<unknown>): Promise<Error> {
  return await promise.then(
    () => assert.unreachable('should have been refused') as never,
    (error: unknown) => error as Error,
  )
}

const japan = 'What is the capital of Japan?'
const openai = (custom_id: unknown, url: string, body: object): object => ({ custom_id, method: 'POST', url: `/v1/${url}`, body })
const rows = Array.from({ length: 24 }, (_, i) => ({ instruction: `Tell me a story about ${'a very '.repeat((i * 7) % 5)}large dog number ${i}.`, context: '' }))

test('rows, texts and lines of OpenAI are answered as the model answers them alone', async () => {
  const chat = { messages: [{ role: 'user', content: japan }], temperature: 0 }
  give([{ instruction: japan, context: '', response: 'ignored' }, JSON.stringify(japan), openai('q', 'chat/completions', chat), openai('r', 'completions', { prompt: [japan, 'A dog'], seed: 4 })])
  const sampling = { temperature: 0 }
  assert.equal(await run({ sampling }), { total: 4, finished: 4, failed: 0, resumed: 0, cut: 0 })
  const [row, text, chatted, completed] = answers()
  const alone = await model.generate(japan, sampling)
  assert.equal(row, { line: 1, text: alone.text, finishReason: 'stop', promptTokens: alone.promptTokens, generatedTokens: alone.tokens.length })
  assert.is(text!.text, alone.text)
  assert.is(chatted!.custom_id, 'q')
  assert.is(chatted!.response!.body.choices[0]!.message.content, alone.text)
  assert.is(chatted!.response!.body.created, 0)
  for (const [i, prompt] of [japan, 'A dog'].entries()) {
    assert.is(completed!.response!.body.choices[i]!.text, (await model.complete(prompt, { seed: 4, temperature: 1, topP: 1, maxNewTokens: 16 })).text)
  }
  assert.equal(readdirSync(folder).sort(), ['in.jsonl', 'out.jsonl'])
})

test('the context of a row is read, by either name, and two of them are refused', async () => {
  give([{ instruction: 'What is it about?', context: 'The cat sleeps.' }, { instruction: 'What is it about?', input: 'The cat sleeps.' }, { instruction: 'a', input: 'b', context: 'c' }])
  await run({ sampling: { temperature: 0 } })
  const [one, other, both] = answers()
  assert.is(one!.text, (await model.generate('What is it about?', { input: 'The cat sleeps.', temperature: 0 })).text)
  assert.is(other!.text, one!.text)
  assert.match(both!.error!.message, /two names of one thing/)
})

test('lines of text need not be JSON, and raw ones are continued', async () => {
  give(['{"instruction":"not read"}', '', 'Once upon a time\r'])
  await run({ text: true, raw: true, sampling: { temperature: 0, maxNewTokens: 5 } })
  const found = answers()
  assert.equal(found.map(({ line }) => line), [1, 3])
  assert.is(found[1]!.text, (await model.complete('Once upon a time', { temperature: 0, maxNewTokens: 5 })).text)
})

test('a bad line gives an error record in its place, and the others their answers', async () => {
  const deep = `${'['.repeat(200_000)}${']'.repeat(200_000)}`
  const bad: [unknown, RegExp][] = [
    ['broken {', /Expected JSON/],
    [deep, /Expected a text, an object/],
    [`{"instruction":"a","b":${deep}`, /Expected JSON/],
    ['"x'.padEnd(lineLimit + 10, 'x'), /at most 4194304 bytes/],
    [JSON.stringify('long '.repeat(1000)), /context is 512/],
    [{ instruction: 5 }, /a string for `instruction`/],
    [{ instruction: ' ' }, /not empty/],
    [{ instruction: 'a', context: [] }, /`context`/],
    ['""', /not empty/],
    ['null', /Expected a text/],
    [{ __proto__: null, text: 'a' }, /Expected a text/],
    [openai('', 'completions', { prompt: 'a' }), /`custom_id`/],
    [openai(5, 'completions', { prompt: 'a' }), /`custom_id`/],
    [openai('u', 'embeddings', { prompt: 'a' }), /`url`/],
    [{ ...openai('m', 'completions', { prompt: 'a' }), method: 'GET' }, /`method`/],
    [openai('b', 'completions', [] as object), /`body`/],
  ]
  const good = { instruction: japan }
  give(bad.flatMap(([line]) => [line, good]))
  const { failed } = await run({ sampling: { temperature: 0 } })
  assert.is(failed, bad.length)
  const found = answers()
  bad.forEach(([, message], i) => {
    assert.match(found[2 * i]!.error!.message, message, `bad line ${i}`)
    assert.is(found[2 * i]!.line ?? found[2 * i]!.error!.line, 2 * i + 1)
    assert.match(found[2 * i + 1]!.text, /Tokyo/)
  })
})

test('bytes that are no UTF-8 give an error record', async () => {
  writeFileSync(input, Buffer.concat([Buffer.from('"a'), Buffer.from([0xff, 0xfe]), Buffer.from(`"\n"${japan}"\n`)]))
  await run({ sampling: { temperature: 0 } })
  assert.match(answers()[0]!.error!.message, /text in UTF-8/)
  assert.match(answers()[1]!.text, /Tokyo/)
})

test("a body that is refused has OpenAI's error, and a custom_id that came before is one", async () => {
  const good = { prompt: 'a', max_tokens: 1 }
  give([openai('a', 'completions', { prompt: [] }), openai('b', 'completions', { ...good, stream: true }), openai('c', 'completions', good), openai('c', 'completions', good)])
  assert.is((await run()).failed, 3)
  const found = answers()
  assert.equal(found.map(({ response }) => response?.status_code), [400, 400, 200, undefined])
  assert.is(found[0]!.response!.body.error!.param, 'prompt')
  assert.is(found[0]!.error, null)
  assert.match(found[3]!.error!.message, /no line before 4 has/)
  assert.is(new Set(found.map(({ id }) => id)).size, 4)
})

test('an empty input gives an empty output', async () => {
  for (const text of ['', '\n \n']) {
    writeFileSync(input, text)
    assert.is((await run()).total, 0)
    assert.is(readFileSync(output, 'utf8'), '')
  }
})

test('sampled answers depend on neither neighbours nor concurrency nor order, but on the seed and the line', async () => {
  give(rows)
  await run({ concurrency: 1 })
  const alone = readFileSync(output, 'utf8')
  await run({ concurrency: 50 })
  assert.is(readFileSync(output, 'utf8'), alone)
  await run({ order: 'finished' })
  const finished = readFileSync(output, 'utf8')
  assert.is.not(finished, alone, 'answers of different lengths finish in another order')
  assert.equal(finished.split('\n').sort(), alone.split('\n').sort())
  await run({ seed: 1n })
  assert.is.not(readFileSync(output, 'utf8'), alone)
  give(['"same"', '"same"', '"same"'])
  await run()
  assert.ok(new Set(answers().map(({ text }) => text)).size > 1, 'equal lines have seeds of their own')
})

test('shards cover all lines exactly once, and joined they are the whole', async () => {
  give(rows)
  await run()
  const whole = readFileSync(output, 'utf8')
  for (const count of [2, 5, 24, 30]) {
    let joined = ''
    for (let index = 1; index <= count; index++) {
      await run({ shard: { index, count } })
      joined += readFileSync(output, 'utf8')
    }
    assert.is(joined, whole, `${count} shards`)
  }
})

test('a stream gets the same lines as a file, in order or as they finish', async () => {
  give(rows)
  await run()
  for (const order of ['input', 'finished'] as const) {
    let text = ''
    const stream = new Writable({
      highWaterMark: 1,
      write(chunk: Buffer, _, done) {
        text += chunk.toString()
        setImmediate(done)
      },
    })
    await run({ output: stream, order })
    const whole = readFileSync(output, 'utf8')
    if (order === 'input') assert.is(text, whole)
    assert.equal(text.split('\n').sort(), whole.split('\n').sort())
  }
})

test('a job that is given up goes on later from its journal, and its output is the same', async () => {
  give(rows)
  await run()
  const whole = readFileSync(output, 'utf8')
  rmSync(output)
  let resumed = 0
  for (let stopAt = 3; ; stopAt += 3) {
    const controller = new AbortController()
    const onProgress = (progress: Progress): void => {
      if (progress.finished >= stopAt && progress.finished < progress.total) controller.abort(new Error('enough'))
    }
    try {
      const progress = await run({ signal: controller.signal, onProgress })
      resumed = progress.resumed
      break
    } catch (error) {
      assert.is((error as Error).message, 'enough')
      assert.equal(readdirSync(folder).sort(), ['in.jsonl', 'out.jsonl.journal'])
    }
  }
  assert.ok(resumed > 0)
  assert.is(readFileSync(output, 'utf8'), whole)
})

test('a journal of other options or another input is refused, and stays', async () => {
  give(rows)
  const interrupt = async (): Promise<void> => {
    const controller = new AbortController()
    const onProgress = ({ finished }: Progress): void => void (finished > 0 && controller.abort(new Error('stop')))
    assert.is((await rejection(run({ signal: controller.signal, onProgress }))).message, 'stop')
  }
  await interrupt()
  const journal = readFileSync(`${output}.journal`)
  const others: Partial<BatchOptions>[] = [
    { seed: 5n },
    { sampling: { temperature: 0 } },
    { shard: { index: 1, count: 2 } },
    { raw: true },
    { identity: { ...identity, device: { ...identity.device, path: 'plain' } } },
    { identity: { ...identity, model: { ...identity.model, sha256: 'other' } } },
  ]
  for (const other of others) assert.instance(await rejection(run(other)), BatchMismatchError)
  give([...rows, { instruction: 'one more' }])
  assert.instance(await rejection(run()), BatchMismatchError)
  assert.equal(readFileSync(`${output}.journal`), journal)
  assert.not.ok(existsSync(output))
})

test('two jobs on one output: the second is refused, the first ends well', async () => {
  give(rows)
  // Of two that begin at the same moment both may be refused.
  const holding = async (): Promise<void> => {
    while (!existsSync(`${output}.journal`)) await new Promise((resolve) => setImmediate(resolve))
  }
  const first = run()
  await holding()
  const link = join(folder, 'link.jsonl')
  assert.instance(await rejection(run()), BatchError)
  await first
  symlinkSync(output, link)
  const again = run()
  await holding()
  assert.instance(await rejection(run({ output: link })), BatchError, 'by another name')
  await again
  assert.is(answers().length, rows.length)
})

test('an output that is the input, a folder or a device is refused', async () => {
  give(rows)
  for (const wrong of [input, folder, '/dev/null']) assert.instance(await rejection(run({ output: wrong })), OptionError)
  assert.equal(readFileSync(input, 'utf8').split('\n').length, rows.length + 1)
})

test('a full queue of the model makes lines wait, not fail', async () => {
  give(rows)
  await run()
  const small = await load('models/lamb', { maxQueue: 1, maxBatch: 2 })
  const other = join(folder, 'other.jsonl')
  assert.is((await run({ output: other, concurrency: 16 }, small)).failed, 0)
  await small.dispose()
  assert.is(readFileSync(other, 'utf8'), readFileSync(output, 'utf8'))
})

test('a model that is gone ends the job with an error, and the journal holds what is finished', async () => {
  give(rows)
  const lost = await load('models/lamb', { maxBatch: 2 })
  const onProgress = ({ finished }: Progress): void => void (finished >= 3 && lost.dispose())
  assert.match((await rejection(run({ onProgress }, lost))).message, /disposed/)
  assert.is((await run()).resumed >= 3, true)
  assert.is(answers().length, rows.length)
})

test('a model trained further is another one, also where it begins as the old one does', async () => {
  const other = join(folder, 'lamb')
  cpSync('models/lamb', other, { recursive: true })
  const before = await identityOf(model, other)
  assert.equal(before, identity, 'wherever it lies')
  const weights = readFileSync(join(other, 'model.safetensors'))
  for (let at = weights.length >> 1; at < weights.length; at += 2) weights[at]! ^= 1
  writeFileSync(join(other, 'model.safetensors'), weights)
  assert.is.not((await identityOf(model, other)).model.sha256, before.model.sha256)
})

test.run()
