// The pack of compiled kernels: one file beside the addon, prebuilds/PLATFORM/ewe.kernels, that native/cuda/images.cc maps and checks. Little-endian:
//
//   header   64 bytes: "ewe kern", version u32, entries u32, SHA-256 of the kernels' sources (32 bytes), bytes of the file u64, zero u64
//   entries  80 bytes each: stem (32 bytes, zero-padded), architecture u32 (80 for sm_80), path u32 (kernels/plan.h), kind u32 (1 cubin, 2 PTX),
//            kernels u32, then u64 offset and bytes of its kernels' names, u64 offset and bytes of its data
//   names    of the kernels, each ended by a zero
//   data     each image at a multiple of 64; PTX ended by a zero, as the driver wants it
//
// The hash ties a pack to an addon: both builds take it from the same files (sources.mjs), since a kernel receives the structs of args.h as bytes and
// relies on the tile constants of its plan. SHA-256, because only the build computes it (Node has it); the addon compares 32 bytes.
// Images are plain cubins, one architecture each: any driver that knows the card takes them, they are mapped and not copied, and what is not this
// card's is never read. Fat binaries with compressed images would take less of the disk, but an old driver knows only the compression of its time, and
// the package is compressed as a whole.
import { closeSync, openSync, readSync, renameSync, statSync, writeFileSync } from 'node:fs'

const magic = 'ewe kern'
const version = 1
const kinds = { cubin: 1, ptx: 2 }
const headerBytes = 64
const entryBytes = 80
const align = (offset) => Math.ceil(offset / 64) * 64

/**
 * @param {string} path
 * @param {string} hash SHA-256 of the sources, in hexadecimal
 * @param {{ stem: string, architecture: number, path: number, kind: 'cubin' | 'ptx', kernels: string[], data: Buffer }[]} images
 */
export function writePack(path, hash, images) {
  const names = images.map((image) => Buffer.from(image.kernels.map((name) => `${name}\0`).join('')))
  const data = images.map((image) => (image.kind === 'ptx' ? Buffer.concat([image.data, Buffer.alloc(1)]) : image.data))
  let at = headerBytes + entryBytes * images.length
  const place = (bytes) => {
    const offset = at
    at += bytes
    return offset
  }
  const nameOffsets = names.map((text) => place(text.length))
  const dataOffsets = data.map((bytes) => {
    at = align(at)
    return place(bytes.length)
  })
  const pack = Buffer.alloc(at)
  pack.write(magic, 0, 'latin1')
  pack.writeUInt32LE(version, 8)
  pack.writeUInt32LE(images.length, 12)
  pack.write(hash, 16, 32, 'hex')
  pack.writeBigUInt64LE(BigInt(at), 48)
  for (const [i, image] of images.entries()) {
    const entry = headerBytes + entryBytes * i
    if (Buffer.byteLength(image.stem) > 31) throw new Error(`${image.stem}: a stem has at most 31 characters`)
    pack.write(image.stem, entry, 'latin1')
    const numbers = [image.architecture, image.path, kinds[image.kind], image.kernels.length]
    const places = [nameOffsets[i], names[i].length, dataOffsets[i], data[i].length]
    for (const [j, value] of numbers.entries()) pack.writeUInt32LE(value, entry + 32 + 4 * j)
    for (const [j, value] of places.entries()) pack.writeBigUInt64LE(BigInt(value), entry + 48 + 8 * j)
    names[i].copy(pack, nameOffsets[i])
    data[i].copy(pack, dataOffsets[i])
  }
  // Beside and renamed: a process that has the old file mapped keeps it.
  writeFileSync(`${path}.new`, pack)
  renameSync(`${path}.new`, path)
  return pack.length
}

/** The hash of the sources that a pack was made from, or undefined where there is no whole pack of this version. */
export function hashOfPack(path) {
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0
  if (size < headerBytes) return undefined
  const header = Buffer.alloc(headerBytes)
  const file = openSync(path, 'r')
  readSync(file, header, 0, headerBytes, 0)
  closeSync(file)
  const whole = header.toString('latin1', 0, 8) === magic && header.readUInt32LE(8) === version && header.readBigUInt64LE(48) === BigInt(size)
  return whole ? header.toString('hex', 16, 48) : undefined
}

/** Names of the kernels in a cubin: the functions of its symbol table that are marked as entries. */
export function kernelsOfCubin(elf) {
  if (elf.readUInt32BE(0) !== 0x7f454c46) throw new Error('not an ELF file')
  const sectionTable = Number(elf.readBigUInt64LE(40))
  const section = (index) => sectionTable + elf.readUInt16LE(58) * index
  const offsetOf = (at) => Number(elf.readBigUInt64LE(at + 24))
  const names = []
  for (let i = 0; i < elf.readUInt16LE(60); i++) {
    const at = section(i)
    if (elf.readUInt32LE(at + 4) !== 2) continue // SHT_SYMTAB
    const strings = offsetOf(section(elf.readUInt32LE(at + 40)))
    const end = offsetOf(at) + Number(elf.readBigUInt64LE(at + 32))
    for (let symbol = offsetOf(at); symbol < end; symbol += 24) {
      const entry = (elf[symbol + 4] & 15) === 2 && (elf[symbol + 5] & 0x10) !== 0 // STT_FUNC, STO_CUDA_ENTRY
      const start = strings + elf.readUInt32LE(symbol)
      if (entry) names.push(elf.toString('latin1', start, elf.indexOf(0, start)))
    }
  }
  return names
}

/** Names of the kernels in PTX. */
export function kernelsOfPtx(ptx) {
  return [...ptx.matchAll(/\.entry\s+([\w$]+)/g)].map((match) => match[1])
}
