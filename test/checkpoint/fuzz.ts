// A short run of each fuzzer; their files say how to run them long.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Checkpoint } from '../../src/checkpoint/checkpoint.js'
import { fuzzConfig } from '../fuzz/config.js'
import { fuzzPickle } from '../fuzz/pickle.js'
import { fuzzSafetensors } from '../fuzz/safetensors.js'

for (const [name, run] of Object.entries({ safetensors: fuzzSafetensors, pickle: fuzzPickle, config: fuzzConfig })) {
  test(`${name}: whatever a file holds, it is read or refused with a CheckpointError`, async () => {
    const { accepted, refused } = await run({ count: 5000, seed: 7 })
    // A fuzzer that only makes rubbish, or nothing wrong, tests nothing.
    assert.ok(accepted > 200 && refused > 2000, `${accepted} accepted, ${refused} refused`)
  })
}

test('accepted checkpoints are handed on', async () => {
  const seen: Checkpoint[] = []
  const { accepted } = await fuzzSafetensors({ count: 200, seed: 3, accept: (checkpoint) => seen.push(checkpoint) })
  assert.is(seen.length, accepted)
  assert.ok(seen.length > 0 && seen.every((checkpoint) => checkpoint.native.placements.length === 16))
})

test.run()
