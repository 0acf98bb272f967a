import { randomBytes } from 'node:crypto'
import { mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises'
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

/** Writes beside, to the disk, and renames: a reader finds the old text or the new one, also after a crash. */
export async function writeSafely(path: string, text: string | Uint8Array): Promise<void> {
  const file = await open(`${path}.new`, 'w')
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(`${path}.new`, path)
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
    const files = new Files(dir)
    for (const name of (await readdir(dir)).filter((each) => each.endsWith('.json'))) {
      const card = JSON.parse(await readFile(join(dir, name), 'utf8')) as FileCard
      files.#cards.set(card.id, card)
    }
    return files
  }

  async add(bytes: Uint8Array, filename: string, purpose: string, id = newId('file')): Promise<FileCard> {
    await writeSafely(this.pathOf(id), bytes)
    const card: FileCard = { id, object: 'file', bytes: bytes.length, created_at: Math.floor(Date.now() / 1000), filename, purpose, status: 'processed' }
    await writeSafely(join(this.#dir, `${id}.json`), JSON.stringify(card))
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
