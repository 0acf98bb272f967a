import { constants } from 'node:fs'
import { lstat, open, stat } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { CheckpointError } from '../errors.js'

/** A file, or bytes that stand for one. */
export interface Source {
  readonly path: string
  /** Bytes. */
  readonly size: number
  /** Exactly these bytes; the caller has checked that they lie inside. */
  read(offset: number, length: number): Promise<Buffer>
  close(): Promise<void>
}

/** Where the files of a checkpoint come from. */
export interface Folder {
  readonly path: string
  /** Opens a file by its plain name, or gives nothing where there is none. */
  open(name: string): Promise<Source | undefined>
}

/** A folder of the file system. */
export function diskFolder(path: string): Folder {
  const root = resolve(path)
  return { path: root, open: (name) => openRegular(join(root, name)) }
}

/**
 * Opens a regular file, through links. Anything else (a folder, pipe, socket or device, or a link to one or to nothing) is a {@link CheckpointError};
 * a name that does not exist gives undefined.
 */
export async function openRegular(path: string): Promise<Source | undefined> {
  if (!(await exists(path))) return undefined
  try {
    // Looked at before it is opened, because opening a device can already have effects; and opened without blocking, because the name may lead to a
    // pipe by then.
    if (!(await stat(path)).isFile()) throw irregular(path)
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const info = await handle.stat()
    if (info.isFile()) return new OpenFile(path, info.size, handle)
    await handle.close()
    throw irregular(path)
  } catch (error) {
    if (error instanceof CheckpointError) throw error
    throw new CheckpointError(`cannot be opened: ${reason(error)}`, { file: path, cause: error })
  }
}

/** Opens a file for as long as `read` takes; gives undefined where there is no such file. */
export async function withFile<T>(folder: Folder, name: string, read: (source: Source) => Promise<T>): Promise<T | undefined> {
  const source = await folder.open(name)
  if (source === undefined) return undefined
  try {
    return await read(source)
  } finally {
    await source.close()
  }
}

/** The bytes of a small file, which must not be larger than `most`. */
export async function readWhole(source: Source, most: number): Promise<Buffer> {
  if (source.size > most) throw new CheckpointError(`has ${source.size} bytes, at most ${most} are read`, { file: source.path })
  return source.read(0, source.size)
}

class OpenFile implements Source {
  constructor(
    readonly path: string,
    readonly size: number,
    private readonly handle: FileHandle,
  ) {}

  async read(offset: number, length: number): Promise<Buffer> {
    const buffer = Buffer.allocUnsafe(length)
    let done = 0
    while (done < length) {
      const { bytesRead } = await this.handle.read(buffer, done, length - done, offset + done)
      if (bytesRead === 0)
        throw new CheckpointError(`ended at byte ${offset + done} while it was read, ${this.size} were there before`, { file: this.path })
      done += bytesRead
    }
    return buffer
  }

  async close(): Promise<void> {
    await this.handle.close()
  }
}

/** Whether there is an entry of this name, be it a link to nothing. */
async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path)
    return true
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ENOTDIR') return false
    throw new CheckpointError(`cannot be looked at: ${reason(error)}`, { file: path, cause: error })
  }
}

function irregular(path: string): CheckpointError {
  return new CheckpointError('is not a regular file', { file: path })
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
