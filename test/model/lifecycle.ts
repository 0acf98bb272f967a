// Models come and go: worker threads, processes that leave in the middle, garbage collection, and memory given back.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Model } from '../../src/index.js'
import { emulated, load, onCpu } from '../support/device.js'

const library = new URL('../support/device.js', import.meta.url).href
const long = emulated ? 12 : 500
const prelude = `import { load } from ${JSON.stringify(library)}; const endless = { maxNewTokens: ${long}, ignoreEos: true, temperature: 1 };`

/** Runs a module of its own in a process of its own. */
function run(source: string, ...flags: string[]): { status: number | null; signal: string | null; stdout: string; stderr: string } {
  const args = [...flags, '--input-type=module', '--eval', prelude + source]
  return spawnSync(process.execPath, args, { encoding: 'utf8', timeout: emulated ? 600_000 : 60_000 })
}

function works(source: string, ...flags: string[]): string {
  const { status, signal, stdout, stderr } = run(source, ...flags)
  assert.is(signal, null, `ended by ${signal}: ${stderr}`)
  assert.is(status, 0, `exit code ${status}: ${stderr}`)
  return stdout
}

/** Resident bytes of this process that no file backs: model memory, without the mapped files. */
function anonymousMemory(): number {
  return Number(/^RssAnon:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024
}

test('several worker threads generate at once, each on its own model, with the same bits as the main thread', async () => {
  const source = `${prelude}
    import { parentPort } from 'node:worker_threads'
    const model = await load('models/lamb')
    const texts = []
    for (let seed = 0; seed < 5; seed++) texts.push((await model.generate('Write a short story about a dog.', { seed })).text)
    await model.dispose()
    parentPort.postMessage(texts)`
  const worker = (): Promise<string[]> =>
    new Promise((resolve, reject) => {
      const thread = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`))
      let texts: string[] = []
      thread.on('message', (message: string[]) => (texts = message))
      thread.on('error', reject)
      thread.on('exit', (code) => (code === 0 ? resolve(texts) : reject(new Error(`exit code ${code}`))))
    })
  const results = await Promise.all([worker(), worker(), worker(), worker()])
  const model = await load('models/lamb')
  for (let seed = 0; seed < 5; seed++) {
    const { text } = await model.generate('Write a short story about a dog.', { seed })
    for (const texts of results) assert.is(texts[seed], text)
  }
  await model.dispose()
})

test('a worker that is terminated in mid-generation takes nothing with it', async () => {
  const source = `${prelude}
    import { parentPort } from 'node:worker_threads'
    const model = await load('models/lamb')
    for await (const piece of model.streamComplete([1, 2], endless)) parentPort.postMessage(piece.token)`
  for (let round = 0; round < (emulated ? 2 : 25); round++) {
    const thread = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`))
    await new Promise((resolve) => thread.once('message', resolve))
    await thread.terminate()
  }
  const model = await load('models/lamb')
  assert.match((await model.generate('What is the capital of Japan?', { temperature: 0 })).text, /Tokyo/)
  await model.dispose()
})

test('process.exit in mid-generation leaves with its code and no crash', () => {
  for (let delay = 0; delay < 12; delay += 3) {
    const { status, signal, stderr } = run(`
      const model = await load('models/lamb')
      for (let i = 0; i < 3; i++) model.complete([1, 2, i], endless).catch(() => {})
      setTimeout(() => process.exit(7), ${delay})`)
    assert.is(signal, null, stderr)
    assert.is(status, 7, stderr)
  }
})

test('process.exit while a model is loading leaves with its code and no crash', () => {
  for (let delay = 0; delay < 4; delay++) {
    const { status, signal, stderr } = run(`load('models/lamb').catch(() => {}); setTimeout(() => process.exit(7), ${delay})`)
    assert.is(signal, null, stderr)
    assert.is(status, 7, stderr)
  }
})

test('an uncaught exception in mid-generation ends the process as Node does', () => {
  const { status, signal, stderr } = run(`
    const model = await load('models/lamb')
    for await (const piece of model.streamComplete([1, 2], endless)) throw new Error('mine')`)
  assert.is(signal, null)
  assert.is(status, 1)
  assert.match(stderr, /mine/)
})

test('a process with an idle model ends by itself, and one with a request under way waits for it', () => {
  assert.is(works(`const model = await load('models/lamb'); console.log('end')`), 'end\n')
  assert.is(works(`const model = await load('models/lamb'); model.complete([1], endless).then(({ tokens }) => console.log(tokens.length))`), `${long}\n`)
})

test('garbage collection in mid-generation takes nothing that is waited for', () => {
  const stdout = works(
    `
    async function start() {
      const model = await load('models/lamb')
      return model.complete([1, 2], endless)
    }
    const pending = [start(), start(), start()]
    const timer = setInterval(() => gc(), 1)
    const results = await Promise.all(pending)
    clearInterval(timer)
    console.log(results.map(({ tokens }) => tokens.length).join())`,
    '--expose-gc',
  )
  assert.is(stdout, `${long},${long},${long}\n`)
})

test('a forgotten model is collected with its memory', () => {
  const stdout = works(
    `
    import { readFileSync } from 'node:fs'
    const memory = () => Number(/^RssAnon:\\s+(\\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))[1]) / 1024
    async function round() {
      const model = await load('models/lamb', { maxBatch: 64 })
      await model.complete([1, 2], { maxNewTokens: 5, n: 64 })
    }
    const collect = async () => { for (let i = 0; i < 5; i++) { gc(); await new Promise((resolve) => setTimeout(resolve, 10)) } }
    await round(); await collect()
    const before = memory()
    for (let i = 0; i < 20; i++) { await round(); await collect() }
    console.log(memory() - before)`,
    '--expose-gc',
  )
  // Twenty models that stayed would be 700 MB (weights, cache, tokenizer); two may wait for their finalizers.
  assert.ok(Number(stdout) < 70, `${stdout} MB more`)
})

test('dispose gives the memory back: twenty models one after the other take that of one', async () => {
  const round = async (): Promise<void> => {
    const model = await load('models/lamb', onCpu ? { weights: 'float32' } : {})
    await model.complete([1, 2, 3], { maxNewTokens: 50, n: 8, ignoreEos: true })
    await model.dispose()
  }
  for (let i = 0; i < 3; i++) await round()
  const before = anonymousMemory()
  for (let i = 0; i < 20; i++) await round()
  const more = anonymousMemory() - before
  assert.ok(more < 20e6, `${more} bytes more after 20 models of 27 MB`)
})

test('await using disposes', async () => {
  let kept: Model
  {
    await using model = await load('models/lamb')
    kept = model
    await model.complete([1], { maxNewTokens: 1 })
  }
  assert.throws(() => kept.stats())
})

test.run()
