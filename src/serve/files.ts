import { randomBytes } from 'node:crypto'
import { mkdir, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { RequestError } from './failures.js'

/** As OpenAI shows a file. */
export interface FileCard {
  id: string
  object: 'file'
  bytes: number
  created_at: number
  filename: string
  purpose: string
  status: 'processed'
}

export function newId(kind: 'file' | 'batch'): string {
  return `${kind}${kind === 'file' ? '-' : '_'}${randomBytes(12).toString('hex')}`
}

/** Ends the names of files that are not complete: nothing else has them. */
const unfinished = '.new'

/** Writes beside, to the disk, and renames: a reader finds the old text or the new one, also after a crash. Returns the bytes that it wrote. */
export async function writeSafely(path: string, text: string | AsyncIterable<string> | AsyncIterable<Uint8Array>): Promise<number> {
  const beside = path + unfinished
  try {
    const file = await open(beside, 'w')
    let size: number
    try {
      await writeFile(file, text)
      await file.sync()
      size = (await file.stat()).size
    } finally {
      await file.close()
    }
    await rename(beside, path)
    return size
  } catch (error) {
    await rm(beside, { force: true })
    throw error
  }
}

/** Removes what a process that was killed had begun to write. */
export async function removeUnfinished(dir: string): Promise<void> {
  for (const name of await readdir(dir)) if (name.endsWith(unfinished)) await rm(join(dir, name))
}

/** The bytes of a file on the disk, which has no card yet. */
export interface Stored {
  id: string
  bytes: number
}

/** Files in a folder: each with a card beside it, written last. */
export class Files {
  readonly #dir: string
  readonly #cards = new Map<string, FileCard>()

  private constructor(dir: string) {
    this.#dir = dir
  }

  static async open(dir: string): Promise<Files> {
    await mkdir(dir, { recursive: true })
    await removeUnfinished(dir)
    const files = new Files(dir)
    const names = await readdir(dir)
    for (const name of names.filter((each) => each.endsWith('.json'))) {
      const card = JSON.parse(await readFile(join(dir, name), 'utf8')) as FileCard
      files.#cards.set(card.id, card)
    }
    for (const name of names) if (name.endsWith('.data') && !files.#cards.has(name.slice(0, -'.data'.length))) await rm(join(dir, name))
    return files
  }

  /** Writes bytes to the disk as they come. They are no file before {@link keep}. When it fails, nothing is left. */
  async store(bytes: AsyncIterable<string> | AsyncIterable<Uint8Array>, id = newId('file')): Promise<Stored> {
    return { id, bytes: await writeSafely(this.pathOf(id), bytes) }
  }

  /** Removes what was stored and shall be no file. */
  async discard({ id }: Stored): Promise<void> {
    await rm(this.pathOf(id))
  }

  /** Makes a file of what was stored. When it fails, nothing is left. */
  async keep(stored: Stored, filename: string, purpose: string): Promise<FileCard> {
    const { id, bytes } = stored
    const card: FileCard = { id, object: 'file', bytes, created_at: Math.floor(Date.now() / 1000), filename, purpose, status: 'processed' }
    try {
      await writeSafely(join(this.#dir, `${id}.json`), JSON.stringify(card))
    } catch (error) {
      await this.discard(stored)
      throw error
    }
    this.#cards.set(id, card)
    return card
  }

  /** Newest first. */
  list(): FileCard[] {
    return [...this.#cards.values()].sort((a, b) => b.created_at - a.created_at || (a.id < b.id ? 1 : -1))
  }

  /** @throws RequestError with status 404. */
  card(id: string, param?: string): FileCard {
    const card = this.#cards.get(id)
    if (card === undefined) throw new RequestError(404, 'file_not_found', 'There is no file of that id', param === undefined ? {} : { param })
    return card
  }

  pathOf(id: string): string {
    return join(this.#dir, `${id}.data`)
  }

  async remove(id: string): Promise<void> {
    this.card(id)
    this.#cards.delete(id)
    await rm(join(this.#dir, `${id}.json`))
    await rm(this.pathOf(id))
  }
}
