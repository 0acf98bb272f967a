import { CheckpointError } from '../errors.js'
import type { Source } from './files.js'
import { quote } from './json.js'
import { readPickle, storageBytes } from './pickle.js'
import type { PickledTensor } from './pickle.js'
import { checkTensorName, DTYPE_BYTES, elementCount, MOST_TENSORS } from './stored.js'
import type { StoredTensor } from './stored.js'
import { readZip } from './zip.js'
import type { ZipRecord } from './zip.js'

/** About 150 bytes per tensor are usual. */
const MOST_PICKLE_BYTES = 16 * 1024 * 1024

/** Lists the tensors of a file that torch.save wrote. Runs no code of it and reads no tensor data. Throws {@link CheckpointError}. */
export async function readTorch(source: Source): Promise<StoredTensor[]> {
  await checkKind(source)
  const records = await readZip(source)
  const pickle = findPickle(records, source.path)
  const root = pickle.name.slice(0, -'data.pkl'.length)
  await checkByteOrder(source, records.get(`${root}byteorder`))
  if (pickle.bytes > MOST_PICKLE_BYTES)
    throw new CheckpointError(`has a pickle of ${pickle.bytes} bytes, at most ${MOST_PICKLE_BYTES} are read`, { file: source.path })
  const pickled = readPickle(await source.read(pickle.offset, pickle.bytes), source.path)
  if (pickled.size > MOST_TENSORS) throw new CheckpointError(`names more than ${MOST_TENSORS} tensors`, { file: source.path })
  return Array.from(pickled, ([name, tensor]) => locate(name, tensor, records.get(`${root}data/${tensor.key}`), source.path))
}

/** Files that are no zip get an error that says what they are. */
async function checkKind(source: Source): Promise<void> {
  const file = source.path
  const start = await source.read(0, Math.min(4, source.size))
  if (start.toString('latin1') === 'PK\u0003\u0004') return
  if (start[0] === 0x80)
    throw new CheckpointError('was written by torch before 1.6, whose files are not read: load it with torch and save it again', { file })
  throw new CheckpointError('is no file of torch.save', { file })
}

function findPickle(records: ReadonlyMap<string, ZipRecord>, file: string): ZipRecord {
  const found = [...records.values()].filter((record) => /^[^/]+\/data\.pkl$/.test(record.name))
  const [pickle] = found
  if (pickle === undefined || found.length > 1) throw new CheckpointError(`holds ${found.length} records named data.pkl, expected one`, { file })
  return pickle
}

async function checkByteOrder(source: Source, record: ZipRecord | undefined): Promise<void> {
  if (record === undefined) return
  const order = (await source.read(record.offset, Math.min(record.bytes, 20))).toString('latin1')
  if (order !== 'little') throw new CheckpointError(`states the byte order ${quote(order)}, only "little" is read`, { file: source.path })
}

function locate(name: string, tensor: PickledTensor, record: ZipRecord | undefined, file: string): StoredTensor {
  checkTensorName(name, file)
  const where = { file, tensor: name }
  const { dtype, shape, strides, first } = tensor
  if (record === undefined) throw new CheckpointError(`lies in the storage ${tensor.key}, which the file does not hold`, where)
  const needed = storageBytes(tensor)
  if (record.bytes !== needed) {
    throw new CheckpointError(`states a storage of ${tensor.elements} ${dtype}, that is ${needed} bytes, but it has ${record.bytes}`, where)
  }
  const elements = elementCount(shape, where)
  const end = elements === 0 ? first : first + 1 + shape.reduce((sum, size, i) => sum + (size - 1) * (strides[i] ?? 0), 0)
  if (end > tensor.elements) throw new CheckpointError(`ends at element ${end} of a storage of ${tensor.elements}`, where)
  // Each element has a place of its own, so no tensor can be larger than its file. (Sums above 2^53 are inexact, but never below it.)
  if (elements > tensor.elements) throw new CheckpointError(`has ${elements} elements in a storage of ${tensor.elements}`, where)
  const size = DTYPE_BYTES[dtype]
  return { name, dtype, shape, strides, offset: record.offset + first * size, bytes: elements * size, file }
}
