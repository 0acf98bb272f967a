// Nothing grows with the number of requests: after a warm-up, ten thousand more leave memory, handles, threads and pages where they were.
import { readFileSync, readdirSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Model } from '../../src/index.js'
import { emulated, load } from '../support/device.js'

const count = emulated ? 40 : 10_000
const atOnce = 64

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** One request of many kinds, by its number: of most tokens the cache knows some, and none all. */
async function ask(model: Model, i: number): Promise<void> {
  const prompt = Array.from({ length: 4 + (i % 29) }, (_, j) => (j < i % 7 ? j : i * 31 + j * 7) % 90)
  const length = { maxNewTokens: 1 + (i % 9), ignoreEos: true }
  const controller = new AbortController()
  switch (i % 8) {
    case 0: // everything that has state of its own
      await model.complete(prompt, { ...length, n: 3, temperature: 1, logprobs: 2, frequencyPenalty: 0.5, logitBias: { 5: 1 }, stop: ['never'] })
      break
    case 1:
      await model.score([prompt], { topLogprobs: 1 })
      break
    case 2:
      for await (const _ of model.streamComplete(prompt, length)) break
      break
    case 3: {
      const pending = model.complete(prompt, { ...length, signal: controller.signal }).catch(() => {})
      controller.abort(new Error('not wanted'))
      await pending
      break
    }
    case 4:
      await model.complete([999], length).catch(() => {})
      break
    case 5:
      await model.complete(prompt, { ...length, deadline: i % 16 === 5 ? 0.001 : 60_000 }).catch(() => {})
      break
    default:
      await model.complete(prompt, { ...length, signal: controller.signal })
  }
}

async function many(model: Model, from: number, to: number): Promise<void> {
  let next = from
  const row = async (): Promise<void> => {
    while (next < to) await ask(model, next++)
  }
  await Promise.all(Array.from({ length: atOnce }, row))
}

interface Counts {
  heap: number
  /** Memory of this process that no file backs. */
  anonymous: number
  files: number
  threads: number
  resources: string[]
}

async function counts(): Promise<Counts> {
  for (let i = 0; i < 3; i++) {
    await new Promise((resolve) => setTimeout(resolve, 50)) // finalizers and timers
    collect()
  }
  const status = readFileSync('/proc/self/status', 'utf8')
  const number = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)![1])
  return {
    heap: process.memoryUsage().heapUsed,
    anonymous: number('RssAnon') * 1024,
    files: readdirSync('/proc/self/fd').length,
    threads: number('Threads'),
    resources: process.getActiveResourcesInfo().toSorted(),
  }
}

test('ten thousand requests of every kind leave memory, handles, threads and pages where they were', async () => {
  const model = await load('test/fixtures/neox-parallel', { maxBatch: 16, pageSize: 16, pages: 64, ...(emulated ? {} : { threads: 1 }) })
  await many(model, 0, count / 2)
  const before = await counts()
  await many(model, count / 2, count / 2 + count)
  const after = await counts()
  const { pagesUsed, pages, queued, running } = model.stats()
  assert.equal({ pagesUsed, pages, queued, running }, { pagesUsed: 0, pages: 64, queued: 0, running: 0 })
  assert.equal([after.files, after.threads, after.resources], [before.files, before.threads, before.resources])
  // What a request leaves behind if it is forgotten is its options and an event here, more than 100 bytes, and its tokens, text and samples there, more than
  // 1 KB: 1 MB of the heap, and 10 MB in all. Half of either may be holes between other things.
  assert.ok(after.heap - before.heap < count * 50, `the heap holds ${after.heap - before.heap} bytes more`)
  assert.ok(after.anonymous - before.anonymous < Math.max(2e6, count * 500), `${after.anonymous - before.anonymous} bytes of memory more`)
  await model.dispose()
})

test.run()
