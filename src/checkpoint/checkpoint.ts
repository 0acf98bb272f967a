import { CheckpointError } from '../errors.js'
import type { DTypeName, NativeCheckpoint } from '../native.js'
import { readConfig } from './config.js'
import type { ModelSpec } from './config.js'
import { diskFolder, withFile } from './files.js'
import type { Folder } from './files.js'
import { readGeneration } from './generation.js'
import type { GenerationConfig } from './generation.js'
import { place } from './placements.js'
import { readTensors } from './shards.js'
import { readValues } from './values.js'

/** A model folder whose files have been checked, ready to be loaded. */
export interface Checkpoint {
  /** Absolute path of the folder. */
  dir: string
  spec: ModelSpec
  generation: GenerationConfig
  native: NativeCheckpoint
  /** The files' dtype: the one that most bytes of the weights have. */
  dtype: DTypeName
  /** Weights, a shared table counted once. */
  parameters: number
  /** Bytes of the weights in the files. */
  tensorsBytes: number
}

export interface CheckpointOptions {
  /** Ends the reading; the promise then rejects with the signal's reason. */
  signal?: AbortSignal
}

/**
 * Reads a Hugging Face model folder: its configuration, and what lies where in its weight files. Reads no weights and runs no code of the folder.
 * Throws `CheckpointError` for whatever is damaged, hostile or of a kind that ewe does not run.
 */
export function readCheckpoint(dir: string, options: CheckpointOptions = {}): Promise<Checkpoint> {
  return readFolder(diskFolder(dir), options)
}

/** The same for any {@link Folder}. */
export async function readFolder(folder: Folder, options: CheckpointOptions = {}): Promise<Checkpoint> {
  const { signal } = options
  signal?.throwIfAborted()
  const config = await withFile(folder, 'config.json', readValues)
  if (config === undefined) throw new CheckpointError('is missing: this is no model folder', { file: `${folder.path}/config.json` })
  const spec = readConfig(config)
  const generation = await withFile(folder, 'generation_config.json', readValues)
  const stored = await readTensors(folder, signal)
  const { placements, parameters, tensorsBytes, dtype } = place(spec, stored)
  return {
    dir: folder.path,
    spec,
    generation: generation === undefined ? {} : readGeneration(generation),
    native: { spec, files: stored.files, placements },
    dtype,
    parameters,
    tensorsBytes,
  }
}
