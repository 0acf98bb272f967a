// Loads a checkpoint that a fuzzer's files were accepted as, and runs it: --accept build-test/test/fuzz/load.js. With an addon built with
// AddressSanitizer this is where a size that nobody checked would show.
import type { Checkpoint } from '../../src/checkpoint/checkpoint.js'
import { Engine } from '../../src/engine.js'

/** Every one is loaded by native code, which maps and checks the files again; what the config makes large is not worth its time. */
const MOST_PARAMETERS = 1 << 20

export default async function load({ native, dtype, parameters, spec }: Checkpoint): Promise<void> {
  if (parameters > MOST_PARAMETERS || spec.maxPositions < 2) return
  const options = {
    device: 'cpu',
    weights: dtype,
    instructionSet: 'auto',
    threads: 1,
    maxContext: Math.min(spec.maxPositions, 32),
    maxBatch: 1,
    pageSize: 16,
    pages: 0,
    stepRows: 8,
    maxQueue: 8,
    prefixCache: true,
    reserve: false,
  } as const
  const engine = await Engine.load(native, options, undefined, {})
  const logits = await engine.logits(Int32Array.of(0, spec.vocab - 1))
  await engine.dispose()
  if (logits.length !== 2 * spec.vocab) throw new Error(`${logits.length} logits of ${spec.vocab} ids`)
}
