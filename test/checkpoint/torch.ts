import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readCheckpoint, readFolder } from '../../src/checkpoint/checkpoint.js'
import { readPickle } from '../../src/checkpoint/pickle.js'
import { readTorch } from '../../src/checkpoint/torch.js'
import { CheckpointError } from '../../src/errors.js'
import { assertRefused, fill, memoryFolder, memorySource, neoxConfig, neoxShapes, placementOf } from './build.js'
import { dictionary, op, tensorOps, torchFile, zip } from './torch-file.js'
import type { Described } from './torch-file.js'

const read = async (bytes: Uint8Array) => readTorch(memorySource('/model/pytorch_model.bin', bytes))
// In a callback, so that what it throws becomes a rejection.
const unpickle = (pickle: Buffer) => Promise.resolve(pickle).then((taken) => readPickle(taken, '/model/pytorch_model.bin'))
const bytes = (text: string) => Buffer.from(text, 'latin1')
const start = bytes('\x80\x02')

test('a real file of torch.save gives the same weights as the safetensors file, old buffers passed over', async () => {
  const torch = await readCheckpoint('test/fixtures/torch/neox-parallel')
  const safe = await readCheckpoint('test/fixtures/neox-parallel')
  assert.equal([torch.dtype, torch.parameters, torch.tensorsBytes], [safe.dtype, safe.parameters, safe.tensorsBytes])
  for (const { slot, layer } of safe.native.placements) assert.equal(fill(torch, slot, layer), fill(safe, slot, layer), `${slot} ${layer}`)
})

test('real shards: parameters, transposed and sliced tensors, several tensors in one storage', async () => {
  const torch = await readCheckpoint('test/fixtures/torch/gptj-shards')
  const safe = await readCheckpoint('test/fixtures/gptj')
  assert.is(torch.dtype, 'float16')
  assert.is(torch.native.files.length, 2)
  assert.equal([placementOf(torch, 'up').tensors[0]?.rowStride, placementOf(torch, 'up').tensors[0]?.columnStride], [1, 128])
  assert.equal([placementOf(torch, 'out', 2).tensors[0]?.rowStride, placementOf(torch, 'out', 2).tensors[0]?.columnStride], [64, 2])
  const [q, k] = placementOf(torch, 'qkv').tensors
  assert.is((k?.offset ?? 0) - (q?.offset ?? 0), 32 * 32 * 2)
  for (const { slot, layer } of safe.native.placements) {
    const [half, full] = [fill(torch, slot, layer), fill(safe, slot, layer)]
    // float16 rounds to 11 bits; below 2^-14 its numbers are 2^-24 apart.
    for (const [i, value] of full.entries()) {
      assert.ok(
        Math.abs((half[i] ?? NaN) - value) <= Math.max(Math.abs(value) * 2 ** -11, 2 ** -25),
        `${slot} ${layer} ${i}: ${half[i]} for ${value}`,
      )
    }
  }
})

test('a real file with a tied head: one storage with two names', async () => {
  const torch = await readCheckpoint('test/fixtures/torch/neox-tied')
  assert.is(torch.dtype, 'bfloat16')
  assert.equal(placementOf(torch, 'head').tensors, placementOf(torch, 'embed').tensors)
  assert.is(torch.parameters, 40864)
})

test('a file from before the zip format is refused with a hint', () =>
  assertRefused(readCheckpoint('test/fixtures/torch/legacy'), 'pytorch_model.bin', /torch before 1.6.*load it with torch and save it again/))

test('a zip64 end, a comment, and tensors of every dtype are read', async () => {
  const tensors = {
    a: { shape: [2, 3] },
    b: { shape: [], storage: 'LongStorage' },
    c: { shape: [4], storage: 'BFloat16Storage', elements: 9, first: 5 },
  }
  for (const changes of [{}, { zip64: true }, { comment: 'written by a test' }]) {
    const found = await read(torchFile(tensors, [], changes))
    assert.equal(
      found.map(({ name, dtype, shape, strides, bytes: size }) => ({ name, dtype, shape, strides, size })),
      [
        { name: 'a', dtype: 'F32', shape: [2, 3], strides: [3, 1], size: 24 },
        { name: 'b', dtype: 'I64', shape: [], strides: [], size: 8 },
        { name: 'c', dtype: 'BF16', shape: [4], strides: [1], size: 8 },
      ],
    )
    for (const tensor of found) assert.is((tensor.offset - (tensor.name === 'c' ? 10 : 0)) % 64, 0)
  }
})

test('64-bit sizes and offsets of a zip directory are read, behind other extra fields', async () => {
  const data = dictionary([['a', tensorOps({ shape: [2] }, '0')]])
  const storage = { name: 'x/data/0', data: Buffer.alloc(8) }
  const narrow = await read(zip([{ name: 'x/data.pkl', data }, storage]))
  const wide = await read(
    zip(
      [
        { name: 'x/data.pkl', data, wide: true },
        { ...storage, wide: true },
      ],
      { zip64: true },
    ),
  )
  assert.equal(wide, narrow)
})

test('a whole model in a pickle written here is resolved', async () => {
  const tensors = Object.fromEntries(Object.entries(neoxShapes()).map(([name, shape]) => [name, { shape }]))
  const checkpoint = await readFolder(memoryFolder({ 'config.json': JSON.stringify(neoxConfig), 'pytorch_model.bin': torchFile(tensors) }))
  assert.is(checkpoint.native.placements.length, 28)
})

const tensorRefused: [name: string, tensor: Described, says: RegExp][] = [
  ['an element beyond its storage', { shape: [4], elements: 3 }, /ends at element 4 of a storage of 3/],
  ['an offset beyond its storage', { shape: [1], elements: 3, first: 3 }, /ends at element 4 of a storage of 3/],
  ['an offset of 2^53 - 1', { shape: [1], elements: 3, first: 2 ** 53 - 1 }, /of a storage of 3/],
  ['an empty tensor beyond its storage', { shape: [0], elements: 3, first: 4 }, /ends at element 4 of a storage of 3/],
  ['strides beyond its storage', { shape: [2, 2], strides: [4, 1], elements: 5 }, /ends at element 6 of a storage of 5/],
  ['strides whose product overflows', { shape: [2 ** 30, 2], strides: [2 ** 52, 2 ** 52], elements: 5 }, /of a storage of 5/],
  ['a shape whose product overflows', { shape: [2 ** 30, 2 ** 30], strides: [0, 0], elements: 1 }, /more than 2\^53 elements/],
  ['a huge tensor in one element', { shape: [2 ** 20, 2 ** 20], strides: [0, 0], elements: 1 }, /has 1099511627776 elements in a storage of 1/],
  ['nine dimensions', { shape: new Array<number>(9).fill(1), elements: 1 }, /9 dimensions/],
]
for (const [name, tensor, says] of tensorRefused) {
  test(`a tensor of a pickle is refused: ${name}`, () => assertRefused(read(torchFile({ weight: tensor })), 'pytorch_model.bin', says, 'weight'))
}

test('a tensor of a pickle is refused: a storage that the file does not hold, or of another size', async () => {
  const pickle = { name: 'archive/data.pkl', data: dictionary([['weight', tensorOps({ shape: [2] }, '0')]]) }
  await assertRefused(read(zip([pickle])), 'pytorch_model.bin', /lies in the storage 0, which the file does not hold/, 'weight')
  for (const size of [4, 9]) {
    const data = Buffer.alloc(size)
    await assertRefused(read(zip([pickle, { name: 'archive/data/0', data }])), 'pytorch_model.bin', /2 F32, that is 8 bytes, but it has \d/, 'weight')
  }
  await assertRefused(read(zip([pickle, { name: 'other/data/0', data: Buffer.alloc(8) }])), 'pytorch_model.bin', /does not hold/, 'weight')
})

test('integer weights of a pickle are refused, integer buffers are not', async () => {
  const tensors: Record<string, Described> = Object.fromEntries(Object.entries(neoxShapes()).map(([name, shape]) => [name, { shape }]))
  const folder = () => memoryFolder({ 'config.json': JSON.stringify(neoxConfig), 'pytorch_model.bin': torchFile(tensors) })
  tensors['gpt_neox.layers.0.attention.bias'] = { shape: [1, 1, 4, 4], storage: 'ByteStorage' }
  await readFolder(folder())
  tensors['embed_out.weight'] = { shape: [6, 8], storage: 'LongStorage' }
  await assertRefused(readFolder(folder()), 'pytorch_model.bin', /dtype I64, expected F32, F16 or BF16/, 'embed_out.weight')
})

const persistent = (...id: Buffer[]) => Buffer.concat([start, op.tuple(...id), bytes('Q.')])
const storageOps = Buffer.concat([
  op.tuple(op.text('storage'), op.global('torch', 'FloatStorage'), op.text('0'), op.text('cpu'), op.integer(1)),
  bytes('Q'),
])
const rebuild = op.global('torch._utils', '_rebuild_tensor_v2')
const rebuilt = (...args: Buffer[]) => Buffer.concat([start, op.call(rebuild, op.tuple(...args, bytes('\x89'), bytes('N'))), bytes('.')])

/** One value kept under so many numbers. */
function kept(count: number): Buffer {
  const pickle = Buffer.alloc(3 + 5 * count, 'r')
  pickle.write('\x80\x02N', 'latin1')
  for (let i = 0; i < count; i++) pickle.writeUInt32LE(i, 4 + 5 * i)
  return pickle
}

const pickleRefused: [name: string, pickle: Buffer, says: RegExp][] = [
  ['nothing', Buffer.alloc(0), /ends before its STOP/],
  ['no STOP', bytes('\x80\x02}'), /ends before its STOP/],
  ['protocol 4', bytes('\x80\x04}.'), /protocol 2/],
  ['a STOP with nothing', bytes('\x80\x02.'), /stack is empty/],
  ['a mark as result', bytes('\x80\x02(.'), /stack is empty/],
  ['a number as result', bytes('\x80\x02K\x01.'), /no dictionary of tensors/],
  [
    'a system call',
    Buffer.concat([start, op.call(op.global('os', 'system'), op.tuple(op.text('exit 1'))), bytes('.')]),
    /names "os.system".*nothing of it was run/,
  ],
  ['eval', Buffer.concat([start, op.global('builtins', 'eval'), bytes('.')]), /names "builtins.eval"/],
  ['a known name in another module', Buffer.concat([start, op.global('evil', 'OrderedDict'), bytes('.')]), /names "evil.OrderedDict"/],
  ['a storage class that torch has not', Buffer.concat([start, op.global('torch', 'EvilStorage'), bytes('.')]), /names "torch.EvilStorage"/],
  ['a name without an end', bytes(`\x80\x02c${'a'.repeat(1000)}`), /name without an end/],
  ['STACK_GLOBAL', bytes('\x80\x02\x93.'), /instruction 0x93/],
  ['INST', bytes('\x80\x02ios\nsystem\n.'), /instruction 0x69/],
  ['OBJ', bytes('\x80\x02(o.'), /instruction 0x6f/],
  ['NEWOBJ', bytes('\x80\x02)\x81.'), /instruction 0x81/],
  ['EXT1', bytes('\x80\x02\x82\x01.'), /instruction 0x82/],
  [
    'a storage class called',
    Buffer.concat([start, op.call(op.global('torch', 'FloatStorage'), op.tuple(op.integer(9))), bytes('.')]),
    /call of torch.FloatStorage/,
  ],
  [
    'a dictionary called with values',
    Buffer.concat([start, op.call(op.global('collections', 'OrderedDict'), op.tuple(bytes(']'))), bytes('.')]),
    /OrderedDict with 1 arg/,
  ],
  ['a call of text', bytes('\x80\x02X\x01\0\0\0a)R.'), /cannot be called/],
  ['a text longer than the file', bytes('\x80\x02X\xff\xff\xff\xffabc'), /4294967295 bytes are wanted, 3 are left/],
  ['a text that is no UTF-8', bytes('\x80\x02X\x01\0\0\0\xff.'), /not UTF-8/],
  ['nothing kept', bytes('\x80\x02q\x00.'), /stack is empty/],
  [
    'a storage of another kind',
    persistent(op.text('module'), op.global('torch', 'FloatStorage'), op.text('0'), op.text('cpu'), op.integer(1)),
    /no known class/,
  ],
  ['a storage of no class', persistent(op.text('storage'), op.text('torch'), op.text('0'), op.text('cpu'), op.integer(1)), /no known class/],
  [
    'a storage in no place',
    persistent(op.text('storage'), op.global('torch', 'FloatStorage'), op.text('0'), bytes('N'), op.integer(1)),
    /no known class/,
  ],
  [
    'a storage of half an element',
    persistent(op.text('storage'), op.global('torch', 'FloatStorage'), op.text('0'), op.text('cpu'), bytes('\x88')),
    /another value where a size/,
  ],
  ['a tensor without a storage', rebuilt(bytes('N'), op.integer(0), bytes(')'), bytes(')')), /a tensor without a storage/],
  ['a tensor with a number as shape', rebuilt(storageOps, op.integer(0), op.integer(1), bytes(')')), /sizes that are no tuple/],
  [
    'a tensor with four arguments',
    Buffer.concat([start, op.call(rebuild, op.tuple(storageOps, op.integer(0), bytes(')'), bytes(')'))), bytes('.')]),
    /with 4 arguments/,
  ],
  [
    'a parameter of nothing',
    Buffer.concat([start, op.call(op.global('torch._utils', '_rebuild_parameter'), bytes('N\x88N\x87')), bytes('.')]),
    /_rebuild_parameter with 3 arguments/,
  ],
  ['an integer of 255 bytes', Buffer.concat([start, bytes(`\x8a\xff${'\x7f'.repeat(255)}.`)]), /integer of 255 bytes/],
  ['an integer of 2^62', Buffer.concat([start, bytes('\x8a\x08\0\0\0\0\0\0\0\x40.')]), /beyond 2\^53/],
  ['a value that was not kept', bytes('\x80\x02h\x07.'), /nothing was kept under 7/],
  ['a tuple without a mark', bytes('\x80\x02t.'), /no mark/],
  ['a tuple of what is not there', bytes('\x80\x02N\x86.'), /2 values are wanted, the stack holds 1/],
  ['a mark in a tuple', bytes('\x80\x02N(\x86.'), /mark where a value is wanted/],
  ['a key without a value', bytes('\x80\x02}(X\x01\0\0\0au.'), /key without a value/],
  ['a key that is no text', bytes('\x80\x02}K\x01K\x02s.'), /key that is no text/],
  ['more values kept than torch keeps', kept(2 ** 20 + 1), /more than 1048576 values kept/],
  ['an item of a number', bytes('\x80\x02K\x01X\x01\0\0\0aK\x02s.'), /no dictionary/],
  ['an item appended to a dictionary', bytes('\x80\x02}Na.'), /1 items for something that is no list/],
  ['attributes of a number', bytes('\x80\x02K\x01Nb.'), /attributes of something/],
  ['a persistent id that is text', bytes('\x80\x02X\x01\0\0\0aQ.'), /five values/],
  ['a negative offset', dictionary([['a', tensorOps({ shape: [1], first: -1 }, '0')]]), /-1 where a size is wanted/],
  ['a negative size', dictionary([['a', tensorOps({ shape: [-1], strides: [1], elements: 1 }, '0')]]), /-1 where a size is wanted/],
  ['a negative stride', dictionary([['a', tensorOps({ shape: [1], strides: [-1] }, '0')]]), /-1 where a size is wanted/],
  ['strides for other dimensions', dictionary([['a', tensorOps({ shape: [1, 1], strides: [1] }, '0')]]), /2 dimensions with 1 strides/],
  ['a key that leads out of the file', dictionary([['a', tensorOps({ shape: [1] }, '../0')]]), /key is no plain name/],
  ['a million marks', Buffer.concat([start, Buffer.alloc(1 << 20, '('), bytes('.')]), /more than 65536 values at once/],
  [
    'a million tuples in each other',
    Buffer.concat([start, bytes('N'), Buffer.alloc(1 << 20, '\x85', 'latin1'), bytes('.')]),
    /more than 786432 objects/,
  ],
]
for (const [name, pickle, says] of pickleRefused) {
  test(`a pickle is refused: ${name}`, () => assertRefused(unpickle(pickle), 'pytorch_model.bin', says))
}

test('a pickle is refused: values that are no tensors, or two of one name', async () => {
  await assertRefused(unpickle(dictionary([['model', bytes('}')]])), 'pytorch_model.bin', /only a plain dictionary of tensors/, '"model"')
  await assertRefused(
    unpickle(
      dictionary([
        ['a', tensorOps({ shape: [1] }, '0')],
        ['a', tensorOps({ shape: [1] }, '0')],
      ]),
    ),
    'pytorch_model.bin',
    /twice/,
    '"a"',
  )
  await assertRefused(unpickle(dictionary([['epoch', op.integer(3)]])), 'pytorch_model.bin', /is no tensor/, '"epoch"')
})

const item = { name: 'archive/data/0', data: Buffer.alloc(8) }
const good = { weight: { shape: [2] } }
const zipRefused: [name: string, file: Buffer, says: RegExp][] = [
  ['an empty file', Buffer.alloc(0), /no file of torch.save/],
  ['random bytes', bytes('k3Jx91mQpZ0aLw72vNc8Tb5yRs4dFg6hUo'), /no file of torch.save/],
  ['a zip cut off', torchFile(good).subarray(0, -1), /no end of a zip directory/],
  ['a zip cut off before its directory', torchFile(good).subarray(0, 200), /no end of a zip directory/],
  ['a name twice', torchFile(good, [item]), /record "archive\/data\/0" twice/],
  ['two pickles', torchFile(good, [{ name: 'other/data.pkl', data: bytes('.') }]), /holds 2 records named data.pkl/],
  ['no pickle', zip([item]), /holds 0 records named data.pkl/],
  ['a compressed record', torchFile(good, [{ ...item, name: 'archive/x', method: 8 }]), /compresses the record "archive\/x" \(method 8\)/],
  ['an encrypted record', torchFile(good, [{ ...item, name: 'archive/x', flags: 1 }]), /encrypts the record/],
  ['two sizes of one record', torchFile(good, [{ ...item, name: 'archive/x', stored: 4 }]), /states 4 and 8 bytes/],
  ['a record longer than its place', torchFile(good, [{ ...item, name: 'archive/x', size: 9 }]), /but what follows begins at byte/],
  ['a record of 4 GB', torchFile(good, [{ ...item, name: 'archive/x', size: 0xfffffffe }]), /but what follows begins at byte/],
  ['a record beyond the file', torchFile(good, [{ ...item, name: 'archive/x', headerOffset: 0xfffffff0 }]), /what follows begins at byte/],
  ['a record over another', torchFile(good, [{ ...item, name: 'archive/x', headerOffset: 0 }]), /what follows begins at byte/],
  ['a record inside another', torchFile(good, [{ ...item, name: 'archive/x', headerOffset: 70 }]), /what follows begins at byte|no zip record/],
  ['64-bit sizes that are not there', torchFile(good, [{ ...item, name: 'archive/x', size: 0xffffffff }]), /no 64-bit size/],
  ['another name before the data', torchFile(good, [{ ...item, name: 'archive/x', localName: 'archive/y' }]), /no zip record "archive\/x"/],
  ['more records than the directory has', torchFile(good, [], { records: 9 }), /states 9 zip records, but its directory has 3/],
  ['fewer records than the directory has', torchFile(good, [], { records: 1 }), /states 1 zip records/],
  ['200,000 records', torchFile(good, [], { zip64: true, records: 200_000 }), /states 200000 zip records, at most 131072/],
  ['a directory beyond the file', torchFile(good, [], { directoryOffset: 0x7fffffff }), /must end before/],
  ['a directory in the data', torchFile(good, [], { directoryOffset: 1 }), /broken zip directory at its byte 0/],
  ['a directory too long', torchFile(good, [], { directoryBytes: 0x7fffffff }), /must end before/],
  ['a directory cut off', torchFile(good, [], { directoryBytes: 50 }), /is cut off/],
  ['a zip64 end beyond the file', torchFile(good, [], { zip64: 2n ** 40n }), /zip64 end record at byte 1099511627776/],
  ['a zip64 end near 2^63', torchFile(good, [], { zip64: 2n ** 63n - 1n }), /states 9223372036854775807/],
  ['a zip64 end in the data', torchFile(good, [], { zip64: 0n }), /no zip64 end record at byte 0/],
  [
    'big-endian data',
    zip([
      { name: 'a/data.pkl', data: dictionary([]) },
      { name: 'a/byteorder', data: bytes('big') },
    ]),
    /byte order "big"/,
  ],
]
for (const [name, file, says] of zipRefused) {
  test(`a torch file is refused: ${name}`, () => assertRefused(read(file), 'pytorch_model.bin', says))
}

test('a torch file is refused: every truncation', async () => {
  const file = torchFile({ a: { shape: [3] }, b: { shape: [2, 2] } }, [], { zip64: true })
  for (let length = 0; length < file.length; length++) {
    const result = await read(file.subarray(0, length)).catch((error: unknown) => error)
    assert.instance(result, CheckpointError, `${length} of ${file.length} bytes`)
  }
})

test('every instruction and kind of value that torch may write is understood', async () => {
  const list = bytes('](K\x01M\x00\x01J\xff\xff\xff\xff\x8a\x00\x8a\x01\xffN\x88\x89eNa')
  const memo = bytes('q\x00h\x00r\x00\x01\x00\x00j\x00\x01\x00\x00')
  // As attributes of an empty dictionary, which are dropped.
  const pickle = Buffer.concat([start, bytes('}'), list, memo, bytes('\x87\x85)N\x87b.')])
  assert.is((await unpickle(pickle)).size, 0)
})

test('a parameter is the tensor that it wraps', async () => {
  const hooks = op.call(op.global('collections', 'OrderedDict'), bytes(')'))
  const args = op.tuple(tensorOps({ shape: [2] }, '0'), bytes('\x88'), hooks)
  const found = await unpickle(dictionary([['a', op.call(op.global('torch._utils', '_rebuild_parameter'), args)]]))
  assert.equal(found.get('a'), { key: '0', dtype: 'F32', elements: 2, first: 0, shape: [2], strides: [1] })
})

test('a torch file is refused: a pickle of 17 MB, or with more tensors than any model has', async () => {
  const long = { name: 'archive/data.pkl', data: Buffer.alloc(17 * 2 ** 20, 'N') }
  await assertRefused(read(zip([long])), 'pytorch_model.bin', /pickle of 17825792 bytes, at most 16777216/)
  const again = bytes('h\x00')
  const first = Buffer.concat([tensorOps({ shape: [1] }, '0'), bytes('q\x00')])
  const many = (count: number) => {
    // In pieces, as torch writes them: the stack is bounded.
    const items = Array.from({ length: count }, (_, i) => Buffer.concat([op.text(String(i)), i === 0 ? first : again, bytes('s')]))
    const data = Buffer.concat([start, bytes('}'), ...items, bytes('.')])
    return zip([
      { name: 'archive/data.pkl', data },
      { name: 'archive/data/0', data: Buffer.alloc(4) },
    ])
  }
  assert.is((await read(many(65_536))).length, 65_536)
  await assertRefused(read(many(65_537)), 'pytorch_model.bin', /more than 65536 tensors/)
})

test('no hostile pickle makes the process grow beyond a bound', async () => {
  const before = process.resourceUsage().maxRSS
  for (const [, pickle] of pickleRefused) await unpickle(pickle).catch(() => undefined)
  for (const [, file] of zipRefused) await read(file).catch(() => undefined)
  for (const [, tensor] of tensorRefused) await read(torchFile({ weight: tensor })).catch(() => undefined)
  const grown = (process.resourceUsage().maxRSS - before) / 1024
  // A million kept values, and half a million tuples, take about 80 MB each until they are collected.
  assert.ok(grown < 250, `${grown} MB`)
})

test.run()
