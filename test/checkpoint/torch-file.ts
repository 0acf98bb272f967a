// Writes zip files and pickles as torch.save does, and wrong ones on request.

export interface Item {
  name: string
  data: Uint8Array
  /** Values to write instead of the true ones. */
  method?: number
  flags?: number
  stored?: number
  size?: number
  headerOffset?: number
  localName?: string
  /** Write the directory's sizes and offset with 64 bits, behind an extra field of another kind. */
  wide?: boolean
}

export interface ZipChanges {
  records?: number
  directoryOffset?: number
  directoryBytes?: number
  /** Write the end of a zip64 file, with this offset of its end record if it is a number. */
  zip64?: boolean | bigint
  comment?: string
}

const utf8Flag = 0x800

/** A zip file of stored records; each item's data begin at a multiple of 64, as torch pads them. */
export function zip(items: readonly Item[], changes: ZipChanges = {}): Buffer {
  const parts: Buffer[] = []
  const directory: Buffer[] = []
  let at = 0
  for (const item of items) {
    const name = Buffer.from(item.localName ?? item.name)
    const pad = (64 - ((at + 30 + name.length + 4) % 64)) % 64
    const local = Buffer.alloc(30)
    local.writeUInt32LE(0x04034b50, 0)
    local.writeUInt16LE(item.flags ?? utf8Flag, 6)
    local.writeUInt16LE(item.method ?? 0, 8)
    local.writeUInt32LE(item.data.length, 18)
    local.writeUInt32LE(item.data.length, 22)
    local.writeUInt16LE(name.length, 26)
    local.writeUInt16LE(pad + 4, 28)
    const extra = Buffer.alloc(4 + pad, 0x5a)
    extra.write('FB', 0, 'latin1')
    extra.writeUInt16LE(pad, 2)
    directory.push(centralEntry(item, at))
    parts.push(local, name, extra, Buffer.from(item.data))
    at += local.length + name.length + extra.length + item.data.length
  }
  const central = Buffer.concat(directory)
  return Buffer.concat([...parts, central, zipEnd(items.length, central.length, at, changes)])
}

function centralEntry(item: Item, headerOffset: number): Buffer {
  const name = Buffer.from(item.name)
  const entry = Buffer.alloc(46)
  entry.writeUInt32LE(0x02014b50, 0)
  entry.writeUInt16LE(item.flags ?? utf8Flag, 8)
  entry.writeUInt16LE(item.method ?? 0, 10)
  entry.writeUInt32LE(item.stored ?? item.size ?? item.data.length, 20)
  entry.writeUInt32LE(item.size ?? item.data.length, 24)
  entry.writeUInt16LE(name.length, 28)
  entry.writeUInt32LE(item.headerOffset ?? headerOffset, 42)
  if (item.wide !== true) return Buffer.concat([entry, name])
  const extra = Buffer.alloc(6 + 28)
  extra.writeUInt16LE(0x9999, 0)
  extra.writeUInt16LE(2, 2)
  extra.writeUInt16LE(1, 6)
  extra.writeUInt16LE(24, 8)
  for (const [i, at] of [24, 20, 42].entries()) {
    extra.writeBigUInt64LE(BigInt(entry.readUInt32LE(at)), 10 + 8 * i)
    entry.writeUInt32LE(0xffffffff, at)
  }
  entry.writeUInt16LE(extra.length, 30)
  return Buffer.concat([entry, name, extra])
}

function zipEnd(count: number, bytes: number, offset: number, changes: ZipChanges): Buffer {
  const records = changes.records ?? count
  const directoryBytes = changes.directoryBytes ?? bytes
  const directoryOffset = changes.directoryOffset ?? offset
  const parts: Buffer[] = []
  if (changes.zip64 !== undefined) {
    const end64 = Buffer.alloc(56)
    end64.writeUInt32LE(0x06064b50, 0)
    end64.writeBigUInt64LE(44n, 4)
    end64.writeBigUInt64LE(BigInt(records), 24)
    end64.writeBigUInt64LE(BigInt(records), 32)
    end64.writeBigUInt64LE(BigInt(directoryBytes), 40)
    end64.writeBigUInt64LE(BigInt(directoryOffset), 48)
    const locator = Buffer.alloc(20)
    locator.writeUInt32LE(0x07064b50, 0)
    locator.writeBigUInt64LE(typeof changes.zip64 === 'bigint' ? changes.zip64 : BigInt(offset + bytes), 8)
    locator.writeUInt32LE(1, 16)
    parts.push(end64, locator)
  }
  const comment = Buffer.from(changes.comment ?? '')
  const end = Buffer.alloc(22)
  end.writeUInt32LE(0x06054b50, 0)
  end.writeUInt16LE(Math.min(records, 0xffff), 8)
  end.writeUInt16LE(Math.min(records, 0xffff), 10)
  end.writeUInt32LE(directoryBytes, 12)
  end.writeUInt32LE(directoryOffset, 16)
  end.writeUInt16LE(comment.length, 20)
  return Buffer.concat([...parts, end, comment])
}

/** Bytes of pickle instructions. */
export const op = {
  text: (text: string): Buffer => {
    const bytes = Buffer.from(text)
    const head = Buffer.from('X\0\0\0\0', 'latin1')
    head.writeUInt32LE(bytes.length, 1)
    return Buffer.concat([head, bytes])
  },
  integer: (value: number): Buffer => {
    if (value >= 0 && value < 256) return Buffer.from([0x4b, value])
    const long = Buffer.from('\x8a\x08\0\0\0\0\0\0\0\0', 'latin1')
    long.writeBigInt64LE(BigInt(value), 2)
    return long
  },
  global: (module: string, name: string): Buffer => Buffer.from(`c${module}\n${name}\n`),
  tuple: (...items: Buffer[]): Buffer => Buffer.concat([Buffer.from('('), ...items, Buffer.from('t')]),
  call: (callee: Buffer, args: Buffer): Buffer => Buffer.concat([callee, args, Buffer.from('R')]),
}

export interface Described {
  storage?: string
  key?: string
  elements?: number
  first?: number
  shape: number[]
  strides?: number[]
}

export function tensorOps(tensor: Described, key: string): Buffer {
  const { shape } = tensor
  const strides = tensor.strides ?? shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1))
  const elements = tensor.elements ?? shape.reduce((a, b) => a * b, 1)
  const storage = op.tuple(
    op.text('storage'),
    op.global('torch', tensor.storage ?? 'FloatStorage'),
    op.text(tensor.key ?? key),
    op.text('cpu'),
    op.integer(elements),
  )
  const sizes = (values: number[]) => op.tuple(...values.map((value) => op.integer(value)))
  const hooks = op.call(op.global('collections', 'OrderedDict'), Buffer.from(')'))
  const args = op.tuple(
    Buffer.concat([storage, Buffer.from('Q')]),
    op.integer(tensor.first ?? 0),
    sizes(shape),
    sizes(strides),
    Buffer.from('\x89', 'latin1'),
    hooks,
  )
  return op.call(op.global('torch._utils', '_rebuild_tensor_v2'), args)
}

/** A pickle of an ordered dictionary; values are instructions. */
export function dictionary(entries: readonly (readonly [name: string, value: Buffer])[]): Buffer {
  const items = entries.flatMap(([name, value]) => [op.text(name), value])
  const dict = op.call(op.global('collections', 'OrderedDict'), Buffer.from(')'))
  return Buffer.concat([Buffer.from('\x80\x02', 'latin1'), dict, Buffer.from('('), ...items, Buffer.from('u.')])
}

const SIZES: Record<string, number> = { FloatStorage: 4, HalfStorage: 2, BFloat16Storage: 2, DoubleStorage: 8, LongStorage: 8, ByteStorage: 1 }

/** A file as torch.save writes it; `items` and `changes` add to it or falsify it. */
export function torchFile(tensors: Record<string, Described>, items: readonly Item[] = [], changes: ZipChanges = {}): Buffer {
  const entries = Object.entries(tensors)
  const pickle = dictionary(entries.map(([name, tensor], i) => [name, tensorOps(tensor, String(i))]))
  const storages = new Map<string, Item>()
  for (const [i, [, tensor]] of entries.entries()) {
    const elements = tensor.elements ?? tensor.shape.reduce((a, b) => a * b, 1)
    const name = `archive/data/${tensor.key ?? i}`
    storages.set(name, { name, data: Buffer.alloc(elements * (SIZES[tensor.storage ?? 'FloatStorage'] ?? 4), 0x3c) })
  }
  return zip(
    [{ name: 'archive/data.pkl', data: pickle }, { name: 'archive/byteorder', data: Buffer.from('little') }, ...storages.values(), ...items],
    changes,
  )
}
