// node build-test/test/fuzz/pickle.js --count 200000 --seed 1
import { neoxConfig, neoxShapes } from '../checkpoint/build.js'
import { dictionary, op, tensorOps, torchFile, zip } from '../checkpoint/torch-file.js'
import type { Described, Item } from '../checkpoint/torch-file.js'
import { fuzz, main, mutate } from './harness.js'
import type { Case, FuzzOptions, FuzzResult, Random } from './harness.js'

const config = JSON.stringify({ ...neoxConfig, num_hidden_layers: 1 })
const shapes = Object.entries(neoxShapes('gpt_neox.', 1))
const base: Record<string, Described> = Object.fromEntries(shapes.map(([name, shape]) => [name, { shape }]))
const file = torchFile(base)
const pickle = dictionary(shapes.map(([name, shape], i) => [name, tensorOps({ shape }, String(i))]))
const storages: Item[] = shapes.map(([, shape], i) => ({ name: `archive/data/${i}`, data: Buffer.alloc(4 * shape.reduce((a, b) => a * b, 1), 0x3c) }))
/** Bytes of the data that stand before the directory; mutations of the zip itself belong behind it, or at a record's start. */
const directoryAt = file.readUInt32LE(file.length - 6)

function make(random: Random): Case {
  const kind = random.below(20)
  if (kind === 0) return { ...over(torchFile(regrouped(random))), valid: true }
  if (kind === 1) return over(random.bytes(random.below(300)))
  if (kind < 6) return over(Buffer.concat([file.subarray(0, directoryAt), mutate(random, file.subarray(directoryAt))]))
  if (kind < 8) return over(mutate(random, file))
  if (kind < 13) return over(archive(mutate(random, pickle)))
  if (kind < 16) return over(archive(program(random)))
  return over(torchFile(falsified(random)))
}

function over(bytes: Buffer): Case {
  return { files: { 'config.json': config, 'pytorch_model.bin': bytes } }
}

function archive(data: Buffer): Buffer {
  return zip([{ name: 'archive/data.pkl', data }, ...storages])
}

/** The same tensors, some transposed, some at an offset, some with wider rows. */
function regrouped(random: Random): Record<string, Described> {
  return Object.fromEntries(
    shapes.map(([name, shape]): [string, Described] => {
      const [rows = 1, columns = 1] = shape
      const first = random.below(5)
      if (shape.length === 2 && random.chance(0.3)) return [name, { shape, strides: [1, rows], first, elements: rows * columns + first }]
      if (shape.length === 2 && random.chance(0.3)) return [name, { shape, strides: [2 * columns, 2], first, elements: 2 * rows * columns + first }]
      if (random.chance(0.3))
        return [name, { shape, storage: random.pick(['HalfStorage', 'BFloat16Storage']), first, elements: rows * columns + first }]
      return [name, { shape }]
    }),
  )
}

const SIZES = [-1, 0, 1, 2, 3, 7, 8, 9, 64, 255, 256, 2 ** 20, 2 ** 31, 2 ** 32, 2 ** 52, 2 ** 53 - 1]

function falsified(random: Random): Record<string, Described> {
  const tensors: Record<string, Described> = Object.fromEntries(Object.entries(base).map(([name, tensor]) => [name, { ...tensor }]))
  const names = Object.keys(tensors)
  for (let times = 1 + random.below(2); times > 0; times--) {
    const tensor = tensors[random.pick(names)] ?? { shape: [] }
    // The storage keeps its true size unless that is what is falsified.
    tensor.elements ??= tensor.shape.reduce((a, b) => a * b, 1)
    switch (random.below(7)) {
      case 0:
        tensor.first = random.pick(SIZES)
        break
      case 1:
        tensor.strides = tensor.shape.map(() => random.pick(SIZES))
        break
      case 2:
        tensor.strides = new Array<number>(random.below(4)).fill(0)
        break
      case 3:
        tensor.shape = tensor.shape.map(() => random.pick(SIZES))
        break
      case 4:
        tensor.key = random.pick(['0', '1', 'x', '../0', '', 'byteorder', '99'])
        break
      case 5:
        tensor.storage = random.pick(['HalfStorage', 'DoubleStorage', 'LongStorage', 'BFloat16Storage', 'UntypedStorage', 'ByteStorage'])
        break
      default:
        tensor.elements = random.below(2000)
    }
  }
  return tensors
}

const PIECES: ((random: Random) => Buffer)[] = [
  ...'()}]tRbQseuaN.0'.split('').map((code) => () => Buffer.from(code)),
  ...[0x85, 0x86, 0x87, 0x88, 0x89, 0x81, 0x93].map((code) => () => Buffer.from([code])),
  (random) => Buffer.from([0x71, random.below(8)]),
  (random) => Buffer.from([0x68, random.below(8)]),
  (random) => Buffer.from([0x72, random.below(256), 0, 0, random.below(256)]),
  (random) => Buffer.from([0x4b, random.below(256)]),
  (random) => Buffer.concat([Buffer.from([0x8a, random.below(12)]), random.bytes(8)]),
  (random) => op.integer(random.pick(SIZES)),
  (random) => op.text(random.pick(['storage', 'cpu', '0', 'embed_out.weight', '_metadata', ''])),
  () => op.global('collections', 'OrderedDict'),
  () => op.global('torch._utils', '_rebuild_tensor_v2'),
  () => op.global('torch._utils', '_rebuild_parameter'),
  () => op.global('torch', 'FloatStorage'),
  () => op.global('posix', 'system'),
  () => op.call(op.global('collections', 'OrderedDict'), Buffer.from(')')),
  (random) => tensorOps({ shape: random.pick(shapes)[1] }, String(random.below(shapes.length))),
  (random) =>
    Buffer.concat([
      op.text(random.pick(shapes)[0]),
      tensorOps({ shape: random.pick(shapes)[1] }, String(random.below(shapes.length))),
      Buffer.from('s'),
    ]),
]

/** Instructions at random. */
function program(random: Random): Buffer {
  const pieces = Array.from({ length: random.below(60) }, () => random.pick(PIECES)(random))
  return Buffer.concat([Buffer.from([0x80, 2, 0x7d]), ...pieces, Buffer.from('.')])
}

export function fuzzPickle(options: FuzzOptions): Promise<FuzzResult> {
  return fuzz(options, make)
}

if (process.argv[1]?.endsWith('fuzz/pickle.js')) await main('pickle', fuzzPickle)
