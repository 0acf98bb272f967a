import { CheckpointError } from '../errors.js'
import { quote } from './json.js'
import { DTYPE_BYTES, MOST_TENSORS } from './stored.js'
import type { StoredDType } from './stored.js'

/** A tensor as a pickle describes it: nothing is checked against the records that hold the data yet. */
export interface PickledTensor {
  /** Key of the storage: the record `data/<key>` of its zip file. */
  key: string
  dtype: StoredDType
  /** Elements of the storage. */
  elements: number
  /** First element of the tensor within the storage. */
  first: number
  shape: number[]
  strides: number[]
}

/** Objects (tuples, lists, dictionaries, tensors) that one pickle may make: torch makes up to eleven per tensor. */
const MOST_OBJECTS = 12 * MOST_TENSORS
/** Values kept for later use: torch keeps about ten per tensor. */
const MOST_KEPT = 16 * MOST_TENSORS
/** Values on the stack: torch writes dictionaries in pieces of a thousand items. */
const MOST_STACKED = 1 << 16
/** The longest integer, in bytes, that can still be a size. */
const LONGEST_INTEGER = 8

/** The classes of storages, and what their elements are. */
const STORAGES: ReadonlyMap<string, StoredDType> = new Map([
  ['torch FloatStorage', 'F32'],
  ['torch HalfStorage', 'F16'],
  ['torch BFloat16Storage', 'BF16'],
  ['torch DoubleStorage', 'F64'],
  ['torch BoolStorage', 'BOOL'],
  ['torch ByteStorage', 'U8'],
  ['torch CharStorage', 'I8'],
  ['torch ShortStorage', 'I16'],
  ['torch IntStorage', 'I32'],
  ['torch LongStorage', 'I64'],
])
const DICT = 'collections OrderedDict'
const TENSOR = 'torch._utils _rebuild_tensor_v2'
const PARAMETER = 'torch._utils _rebuild_parameter'

const NOTHING: Value[] = []

class Global {
  constructor(readonly name: string) {}
}
class Tuple {
  constructor(readonly items: readonly Value[]) {}
}
class Dict {
  /** Keys and values in turn; most dictionaries of a file stay empty. */
  items: Value[] = NOTHING
}
class Storage {
  constructor(
    readonly key: string,
    readonly dtype: StoredDType,
    readonly elements: number,
  ) {}
}
class Tensor {
  constructor(readonly tensor: PickledTensor) {}
}
const MARK = Symbol('mark')
/** Lists mean nothing in a dictionary of tensors, so nothing of them is kept. */
const LIST = Symbol('list')
type Value = null | boolean | number | string | Global | Tuple | Dict | Storage | Tensor | typeof MARK | typeof LIST

/**
 * Reads the `data.pkl` of a torch file: a dictionary of names and tensors. A pickle is a program; this machine knows the few instructions that such
 * dictionaries are made of, builds plain values, calls nothing, and refuses everything else with a {@link CheckpointError}.
 */
export function readPickle(bytes: Buffer, file: string): Map<string, PickledTensor> {
  const result = new Machine(bytes, file).run()
  if (!(result instanceof Dict)) throw new CheckpointError('its pickle holds no dictionary of tensors', { file })
  const tensors = new Map<string, PickledTensor>()
  for (let i = 0; i < result.items.length; i += 2) {
    const [name, value] = result.items.slice(i, i + 2)
    if (typeof name !== 'string') throw new CheckpointError('its pickle has a key that is no text', { file })
    if (tensors.has(name)) throw new CheckpointError('stands in its pickle twice', { file, tensor: quote(name) })
    if (!(value instanceof Tensor))
      throw new CheckpointError(`is no tensor: only a plain dictionary of tensors is read`, { file, tensor: quote(name) })
    tensors.set(name, value.tensor)
  }
  return tensors
}

class Machine {
  private at = 0
  private objects = 0
  private readonly stack: Value[] = []
  private readonly memo = new Map<number, Value>()

  constructor(
    private readonly bytes: Buffer,
    private readonly file: string,
  ) {}

  run(): Value {
    if (this.byte() !== 0x80 || this.byte() !== 2) this.fail('it does not begin as a pickle of protocol 2')
    for (;;) {
      const code = this.byte()
      if (code === 0x2e /* STOP */) return this.pop()
      this.step(code)
    }
  }

  private step(code: number): void {
    switch (code) {
      case 0x63 /* GLOBAL */:
        return this.push(this.global(`${this.line()} ${this.line()}`))
      case 0x28 /* MARK */:
        return this.push(MARK)
      case 0x29 /* EMPTY_TUPLE */:
        return this.push(this.tuple(NOTHING))
      case 0x74 /* TUPLE */:
        return this.push(this.tuple(this.popToMark()))
      case 0x85 /* TUPLE1 */:
      case 0x86 /* TUPLE2 */:
      case 0x87 /* TUPLE3 */:
        return this.push(this.tuple(this.popItems(code - 0x84)))
      case 0x7d /* EMPTY_DICT */:
        return this.push(this.made(new Dict()))
      case 0x5d /* EMPTY_LIST */:
        return this.push(LIST)
      case 0x61 /* APPEND */:
        return this.append(this.popItems(1))
      case 0x65 /* APPENDS */:
        return this.append(this.popToMark())
      case 0x73 /* SETITEM */:
        return this.set(this.popItems(2))
      case 0x75 /* SETITEMS */:
        return this.set(this.popToMark())
      case 0x58 /* BINUNICODE */:
        return this.push(this.text())
      case 0x4a /* BININT */:
        return this.push(this.take(4).readInt32LE(0))
      case 0x4b /* BININT1 */:
        return this.push(this.byte())
      case 0x4d /* BININT2 */:
        return this.push(this.take(2).readUInt16LE(0))
      case 0x8a /* LONG1 */:
        return this.push(this.long())
      case 0x4e /* NONE */:
        return this.push(null)
      case 0x88 /* NEWTRUE */:
        return this.push(true)
      case 0x89 /* NEWFALSE */:
        return this.push(false)
      case 0x71 /* BINPUT */:
        return this.put(this.byte())
      case 0x72 /* LONG_BINPUT */:
        return this.put(this.take(4).readUInt32LE(0))
      case 0x68 /* BINGET */:
        return this.get(this.byte())
      case 0x6a /* LONG_BINGET */:
        return this.get(this.take(4).readUInt32LE(0))
      case 0x51 /* BINPERSID */:
        return this.push(this.storage(this.pop()))
      case 0x52 /* REDUCE */: {
        const [callee, args] = this.popItems(2)
        return this.push(this.reduce(callee, args))
      }
      case 0x62 /* BUILD */:
        return this.build()
      default:
        return this.fail(`instruction 0x${code.toString(16)} is not one of those that tensors are made of`)
    }
  }

  // Reading

  private byte(): number {
    const byte = this.bytes[this.at]
    if (byte === undefined) this.fail('it ends before its STOP')
    this.at++
    return byte
  }

  private take(count: number): Buffer {
    if (count > this.bytes.length - this.at) this.fail(`${count} bytes are wanted, ${this.bytes.length - this.at} are left`)
    this.at += count
    return this.bytes.subarray(this.at - count, this.at)
  }

  private line(): string {
    const end = this.bytes.indexOf(0x0a, this.at)
    if (end < 0 || end - this.at > 200) this.fail('a name without an end')
    const text = this.take(end - this.at).toString('latin1')
    this.at++
    return text
  }

  private text(): string {
    const text = this.take(this.take(4).readUInt32LE(0)).toString('utf8')
    // The decoder puts U+FFFD where bytes are no UTF-8, and two such names could become one.
    if (text.includes('\ufffd')) this.fail('a string is not UTF-8')
    return text
  }

  private long(): number {
    const bytes = this.take(this.byte())
    if (bytes.length > LONGEST_INTEGER) this.fail(`an integer of ${bytes.length} bytes`)
    let value = 0n
    for (const [i, byte] of bytes.entries()) value |= BigInt(byte) << BigInt(8 * i)
    const number = Number(BigInt.asIntN(8 * bytes.length, value))
    if (!Number.isSafeInteger(number)) this.fail(`the integer ${number} is beyond 2^53`)
    return number
  }

  // The stack and the memo

  private push(value: Value): void {
    if (this.stack.length === MOST_STACKED) this.fail(`more than ${MOST_STACKED} values at once`)
    this.stack.push(value)
  }

  private pop(): Value {
    const value = this.stack.pop()
    if (value === undefined || value === MARK) this.fail('its stack is empty')
    return value
  }

  private popItems(count: number): Value[] {
    if (this.stack.length < count) this.fail(`${count} values are wanted, the stack holds ${this.stack.length}`)
    const items = this.stack.splice(this.stack.length - count)
    if (items.includes(MARK)) this.fail('a mark where a value is wanted')
    return items
  }

  private popToMark(): Value[] {
    const mark = this.stack.lastIndexOf(MARK)
    if (mark < 0) this.fail('there is no mark')
    const items = this.stack.splice(mark)
    items.shift()
    return items
  }

  private top(): Value {
    const value = this.stack.at(-1)
    if (value === undefined || value === MARK) this.fail('its stack is empty')
    return value
  }

  private put(index: number): void {
    this.memo.set(index, this.top())
    if (this.memo.size > MOST_KEPT) this.fail(`more than ${MOST_KEPT} values kept`)
  }

  private get(index: number): void {
    const value = this.memo.get(index)
    if (value === undefined) this.fail(`nothing was kept under ${index}`)
    this.push(value)
  }

  // Values

  private made<T>(value: T): T {
    if (++this.objects > MOST_OBJECTS) this.fail(`more than ${MOST_OBJECTS} objects`)
    return value
  }

  private tuple(items: readonly Value[]): Tuple {
    return this.made(new Tuple(items))
  }

  private append(items: readonly Value[]): void {
    if (this.top() !== LIST) this.fail(`${items.length} items for something that is no list`)
  }

  private set(items: readonly Value[]): void {
    const dict = this.top()
    if (!(dict instanceof Dict) || items.length % 2 !== 0) this.fail('an item for something that is no dictionary, or a key without a value')
    if (dict.items === NOTHING) dict.items = []
    for (const item of items) dict.items.push(item)
  }

  private global(name: string): Global {
    if (name !== DICT && name !== TENSOR && name !== PARAMETER && !STORAGES.has(name)) {
      this.fail(`it names ${quote(name.replace(' ', '.'))}, which is not one of the few things that tensors are made of; nothing of it was run`)
    }
    return new Global(name)
  }

  /** ('storage', class, key, location, elements) */
  private storage(id: Value): Storage {
    if (!(id instanceof Tuple) || id.items.length !== 5) this.fail('a storage that is not described by five values')
    const [kind, type, key, location, elements] = id.items
    const dtype = type instanceof Global ? STORAGES.get(type.name) : undefined
    if (kind !== 'storage' || dtype === undefined || typeof location !== 'string') this.fail('a storage of no known class')
    if (typeof key !== 'string' || !/^[\w-]{1,64}$/.test(key)) this.fail('a storage whose key is no plain name')
    return this.made(new Storage(key, dtype, this.size(elements)))
  }

  private reduce(callee: Value | undefined, args: Value | undefined): Value {
    if (!(callee instanceof Global) || !(args instanceof Tuple)) this.fail('a call of something that cannot be called')
    if (callee.name === DICT && args.items.length === 0) return this.made(new Dict())
    if (callee.name === TENSOR && args.items.length === 6) return this.made(this.tensor(args.items))
    if (callee.name === PARAMETER && args.items.length === 3 && args.items[0] instanceof Tensor) return args.items[0]
    return this.fail(`a call of ${callee.name.replace(' ', '.')} with ${args.items.length} arguments of other kinds than torch writes`)
  }

  /** (storage, first element, shape, strides, requires_grad, hooks) */
  private tensor(args: readonly Value[]): Tensor {
    const [storage, first, shape, strides] = args
    if (!(storage instanceof Storage)) this.fail('a tensor without a storage')
    const { key, dtype, elements } = storage
    const tensor = { key, dtype, elements, first: this.size(first), shape: this.sizes(shape), strides: this.sizes(strides) }
    if (tensor.shape.length !== tensor.strides.length)
      this.fail(`a tensor of ${tensor.shape.length} dimensions with ${tensor.strides.length} strides`)
    return new Tensor(tensor)
  }

  private sizes(value: Value | undefined): number[] {
    if (!(value instanceof Tuple)) this.fail('sizes that are no tuple')
    return value.items.map((item) => this.size(item))
  }

  private size(value: Value | undefined): number {
    if (typeof value !== 'number' || value < 0) this.fail(`${typeof value === 'number' ? value : 'another value'} where a size is wanted`)
    return value
  }

  /** Attributes of an object: torch adds `_metadata` to a dictionary, which says nothing about tensors. */
  private build(): void {
    const [, state] = [this.pop(), this.top()]
    if (!(state instanceof Dict)) this.fail('attributes of something that is no dictionary')
  }

  private fail(message: string): never {
    throw new CheckpointError(`its pickle cannot be read: ${message} (byte ${this.at} of ${this.bytes.length})`, { file: this.file })
  }
}

/** Bytes of a storage. */
export function storageBytes(tensor: PickledTensor): number {
  return tensor.elements * DTYPE_BYTES[tensor.dtype]
}
