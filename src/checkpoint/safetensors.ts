import { CheckpointError } from '../errors.js'
import type { Source } from './files.js'
import { JsonReader, quote } from './json.js'
import { checkTensorName, DTYPE_BYTES, elementCount, MOST_TENSORS, rowMajor } from './stored.js'
import type { StoredDType, StoredTensor } from './stored.js'

/** The format's own limit. */
const LONGEST_HEADER = 100_000_000
const LENGTH_BYTES = 8

/** Reads the header of a safetensors file: what it holds and where. Throws {@link CheckpointError}; never reads tensor data. */
export async function readSafetensors(source: Source): Promise<StoredTensor[]> {
  if (source.size < LENGTH_BYTES) throw new CheckpointError(`has ${source.size} bytes, too few for a header`, { file: source.path })
  const length = (await source.read(0, LENGTH_BYTES)).readBigUInt64LE(0)
  const most = Math.min(LONGEST_HEADER, source.size - LENGTH_BYTES)
  if (length > BigInt(most)) {
    throw new CheckpointError(`states a header of ${length} bytes, but at most ${most} are possible in a file of ${source.size} bytes`, {
      file: source.path,
    })
  }
  return parseHeader(await source.read(LENGTH_BYTES, Number(length)), source.size, source.path)
}

/** Checks the header's JSON against the size of its file. */
export function parseHeader(header: Buffer, fileSize: number, file: string): StoredTensor[] {
  const dataBegin = LENGTH_BYTES + header.length
  if (header[0] !== 0x7b) throw new CheckpointError('its header does not begin with "{": this is no safetensors file', { file })
  const tensors: StoredTensor[] = []
  // Per tensor: its entry, three fields, two offsets and its dimensions.
  const reader = new JsonReader(header, file, MOST_TENSORS * 14)
  reader.object((name) => {
    if (name === '__metadata__') return reader.object(() => void reader.string())
    if (tensors.length === MOST_TENSORS) throw new CheckpointError(`names more than ${MOST_TENSORS} tensors`, { file })
    checkTensorName(name, file)
    tensors.push(readEntry(reader, name, dataBegin, fileSize, file))
  })
  reader.end()
  checkCoverage(tensors, dataBegin, fileSize, file)
  return tensors
}

function readEntry(reader: JsonReader, name: string, dataBegin: number, fileSize: number, file: string): StoredTensor {
  const where = { file, tensor: name }
  const shape: number[] = []
  const offsets: number[] = []
  let dtype: string | undefined
  const seen = new Set<string>()
  reader.object((field) => {
    seen.add(field)
    if (field === 'dtype') dtype = reader.string()
    else if (field === 'shape') reader.array(() => shape.push(reader.integer()))
    else if (field === 'data_offsets') reader.array(() => offsets.push(reader.integer()))
    else throw new CheckpointError(`has an unknown field ${quote(field)}, expected dtype, shape and data_offsets`, where)
  })
  if (dtype === undefined || !seen.has('shape')) throw new CheckpointError('has no dtype or no shape', where)
  if (!isDType(dtype)) throw new CheckpointError(`has the unknown dtype ${quote(dtype)}`, where)
  const [begin, end] = offsets
  if (begin === undefined || end === undefined || offsets.length !== 2) {
    throw new CheckpointError(`has ${offsets.length} data_offsets, expected a begin and an end`, where)
  }
  const dataSize = fileSize - dataBegin
  if (begin > end || end > dataSize) throw new CheckpointError(`lies at bytes ${begin} to ${end} of ${dataSize} bytes of data`, where)
  const bytes = elementCount(shape, where) * DTYPE_BYTES[dtype]
  if (bytes !== end - begin) throw new CheckpointError(`has ${end - begin} bytes, but ${dtype} [${shape.join(', ')}] needs ${bytes}`, where)
  return { name, dtype, shape, strides: rowMajor(shape), offset: dataBegin + begin, bytes, file }
}

function isDType(text: string): text is StoredDType {
  return Object.hasOwn(DTYPE_BYTES, text)
}

/** The tensors must cover the data part exactly: nothing twice, nothing hidden between or behind them. */
function checkCoverage(tensors: readonly StoredTensor[], dataBegin: number, fileSize: number, file: string): void {
  const sorted = tensors.toSorted((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let end = dataBegin
  for (const tensor of sorted) {
    const problem = tensor.offset < end ? 'overlaps the tensor before it' : 'leaves a gap after the tensor before it'
    if (tensor.offset !== end)
      throw new CheckpointError(`begins at byte ${tensor.offset}, expected ${end}: it ${problem}`, { file, tensor: tensor.name })
    end += tensor.bytes
  }
  if (end !== fileSize)
    throw new CheckpointError(`has ${fileSize - end} bytes after its last tensor, which ends at byte ${end} of ${fileSize}`, { file })
}
