// Where the time of a request goes, and what the steps of the engine are made of, as /metrics tells it.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Finished } from '../../src/answers.js'
import type { Model } from '../../src/index.js'
import { loadLamb, Served } from './served.js'

let model: Model
let served: Served
test.before(async () => {
  // One at a time and nothing kept, so that steps can be counted.
  model = await loadLamb({ maxBatch: 1, prefixCache: false })
  served = await Served.over(model)
})
test.after(async () => {
  await served.server.close()
  await model.dispose()
})

const ids = (count: number): number[] => Array.from({ length: count }, (_, i) => 100 + i)
const body = { model: 'lamb', prompt: ids(20), max_tokens: 4, temperature: 0, ignore_eos: true }

/** Values by name and labels, without that of the model. */
async function read(): Promise<Map<string, number>> {
  const { text } = await served.get('/metrics')
  return new Map([...text.matchAll(/^(\S+) (\S+)$/gm)].map(([, name = '', value]) => [name.replace(/,?model_name="lamb"/, '').replace('{}', ''), Number(value)]))
}

test('a request is counted once in the times of queue, prompt and answer, which are no longer than the whole', async () => {
  const before = await read()
  await served.json('/v1/completions', body)
  const now = await read()
  const grown = (name: string): number => now.get(name)! - before.get(name)!
  for (const [own, alias] of [['queue', 'queue_time'], ['prefill', 'prefill_time'], ['decode', 'decode_time']]) {
    for (const name of [`ewe_request_${own}_seconds`, `vllm:request_${alias}_seconds`]) {
      assert.is(grown(`${name}_count`), 1, name)
      assert.ok(grown(`${name}_sum`) > 0, name)
    }
  }
  const parts = ['queue', 'prefill', 'decode'].map((part) => grown(`ewe_request_${part}_seconds_sum`))
  assert.ok(parts.reduce((sum, part) => sum + part) <= grown('ewe_request_seconds_sum'))
})

test('the time in the queue is that of the requests before it', async () => {
  const ended: Finished[] = []
  const unwatch = model.watch({ token: () => {}, finished: (request) => ended.push(request) })
  const from = performance.now()
  const first = model.complete(ids(30), { maxNewTokens: 60, ignoreEos: true })
  const second = model.complete(ids(20), { maxNewTokens: 2, ignoreEos: true })
  // Requests are handed over in the microtasks that follow.
  await new Promise((resolve) => setImmediate(resolve))
  const apart = performance.now() - from
  await Promise.all([first, second])
  unwatch()
  const [long, short] = ended
  assert.equal([long?.generatedTokens, short?.generatedTokens], [60, 2])
  assert.ok(short!.queue! + apart >= long!.queue! + long!.prefill! + long!.decode!, JSON.stringify({ ended, apart }))
})

test('a request that is given up before its first step has no times, and one that waits for its first token only that of the queue', async () => {
  const ended: Finished[] = []
  const unwatch = model.watch({ token: () => {}, finished: (request) => ended.push(request) })
  const leaving = new AbortController()
  const running = model.complete(ids(20), { maxNewTokens: 400, ignoreEos: true, signal: leaving.signal })
  const waiting = model.complete(ids(20), { maxNewTokens: 4, ignoreEos: true, signal: leaving.signal })
  while (model.stats().running === 0) await new Promise((resolve) => setImmediate(resolve))
  leaving.abort()
  await Promise.allSettled([running, waiting])
  while (ended.length < 2) await new Promise((resolve) => setImmediate(resolve))
  unwatch()
  const never = ended.find(({ queue }) => queue === undefined)
  assert.equal([never?.queue, never?.prefill, never?.decode], [undefined, undefined, undefined])
  assert.type(ended.find((each) => each !== never)?.queue, 'number')
})

test('steps are counted by the tokens that they compute', async () => {
  const before = await read()
  await served.json('/v1/completions', body)
  const now = await read()
  for (const name of ['ewe_step_tokens', 'vllm:iteration_tokens_total']) {
    const grown = (rest: string): number => now.get(name + rest)! - before.get(name + rest)!
    // The prompt in one step, and one for each token after the first; the last one is not computed.
    assert.equal([grown('_count'), grown('_sum')], [4, 20 + 3], name)
    assert.equal([grown('_bucket{le="1"}'), grown('_bucket{le="16"}'), grown('_bucket{le="32"}'), grown('_bucket{le="+Inf"}')], [3, 3, 4, 4], name)
  }
})

test.run()
