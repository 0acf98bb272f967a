import { CheckpointError } from '../errors.js'
import { readWhole, withFile } from './files.js'
import type { Folder, Source } from './files.js'
import { JsonReader, quote } from './json.js'
import type { Stored } from './placements.js'
import { readSafetensors } from './safetensors.js'
import { checkTensorName, MOST_TENSORS } from './stored.js'
import type { StoredTensor } from './stored.js'
import { readTorch } from './torch.js'

type Reader = (source: Source) => Promise<StoredTensor[]>

/** What a folder may hold, in the order of preference: one file, or an index of several. */
const KINDS: readonly { file: string; read: Reader }[] = [
  { file: 'model.safetensors', read: readSafetensors },
  { file: 'pytorch_model.bin', read: readTorch },
]
const INDEX_ENDING = '.index.json'

const MOST_INDEX_BYTES = 32 * 1024 * 1024
const MOST_SHARDS = 4096

/** Finds the weight files of a folder and lists their tensors. Throws {@link CheckpointError}. */
export async function readTensors(folder: Folder, signal: AbortSignal | undefined): Promise<Stored> {
  for (const { file, read } of KINDS) {
    const single = await withFile(folder, file, (source) => readSingle(source, read))
    if (single !== undefined) return single
    const index = await withFile(folder, file + INDEX_ENDING, readIndex)
    if (index !== undefined) return readShards(folder, index, read, signal)
  }
  const names = KINDS.flatMap(({ file }) => [file, file + INDEX_ENDING]).join(', ')
  throw new CheckpointError(`holds no weights: none of ${names}`, { file: folder.path })
}

async function readSingle(source: Source, read: Reader): Promise<Stored> {
  return { tensors: byName(await read(source)), files: [source.path], bytes: source.size, list: source.path }
}

interface Index {
  path: string
  /** The tensors of each file. */
  shards: Map<string, string[]>
}

async function readIndex(source: Source): Promise<Index> {
  const file = source.path
  const shards = new Map<string, string[]>()
  const reader = new JsonReader(await readWhole(source, MOST_INDEX_BYTES), file, MOST_TENSORS)
  reader.object((key) => {
    if (key !== 'weight_map') return void reader.value()
    reader.object((name) => {
      checkTensorName(name, file)
      const shard = reader.string()
      if (!isPlainName(shard))
        throw new CheckpointError(`is in ${quote(shard)}, which is not the plain name of a file in this folder`, { file, tensor: name })
      const names = shards.get(shard)
      if (names === undefined) shards.set(shard, [name])
      else names.push(name)
    })
  })
  reader.end()
  if (shards.size === 0 || shards.size > MOST_SHARDS) throw new CheckpointError(`names ${shards.size} files, expected 1 to ${MOST_SHARDS}`, { file })
  return { path: file, shards }
}

function isPlainName(name: string): boolean {
  return name !== '' && name !== '.' && name.length <= 255 && !name.includes('..') && !/[/\\]|\p{Cc}/u.test(name)
}

/** The tensors that the index names, each from its file. What else a file holds is not used. */
async function readShards(folder: Folder, index: Index, read: Reader, signal: AbortSignal | undefined): Promise<Stored> {
  const stored = { tensors: new Map<string, StoredTensor>(), files: [] as string[], bytes: 0, list: index.path }
  for (const [shard, wanted] of index.shards) {
    signal?.throwIfAborted()
    const found = await withFile(folder, shard, (source) => readSingle(source, read))
    if (found === undefined)
      throw new CheckpointError(`names the file ${quote(shard)}, which does not exist`, { file: index.path, tensor: wanted[0] })
    for (const name of wanted) {
      const tensor = found.tensors.get(name)
      if (tensor === undefined)
        throw new CheckpointError(`is missing, though ${index.path} places it in this file`, { file: found.list, tensor: name })
      stored.tensors.set(name, tensor)
    }
    stored.files.push(...found.files)
    stored.bytes += found.bytes
  }
  return stored
}

function byName(tensors: readonly StoredTensor[]): Map<string, StoredTensor> {
  return new Map(tensors.map((tensor) => [tensor.name, tensor]))
}
