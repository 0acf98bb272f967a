import { stat } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { CheckpointError, ModelNotFoundError } from '../errors.js'
import { openRegular, readWhole } from './files.js'

/** `org/name`, with `@revision` where it is not the default branch. */
interface HubId {
  id: string
  revision: string
}

/** The variables that say where the Hub cache is. */
export type HubEnvironment = Readonly<Record<'HF_HUB_CACHE' | 'HUGGINGFACE_HUB_CACHE' | 'HF_HOME' | 'XDG_CACHE_HOME', string | undefined>>

const DEFAULT_REVISION = 'main'
const COMMIT = /^[0-9a-f]{40}$/

/**
 * Finds the folder of a model: an existing folder, or a Hub id `org/name` or `org/name@revision` that a Hugging Face tool has downloaded into its
 * local cache. Nothing is downloaded. Throws {@link ModelNotFoundError} that says where it looked and which command downloads the model, and
 * {@link CheckpointError} for a cache that is damaged.
 *
 * @param environment where the cache is; default is that of the process
 */
export async function resolveModel(given: string, environment: Partial<HubEnvironment> = process.env): Promise<string> {
  const folder = resolve(given)
  if (given !== '' && !given.includes('\0') && (await isFolder(folder))) return folder
  const hub = parseHubId(given)
  if (hub === undefined) {
    throw new ModelNotFoundError(
      `There is no model folder ${JSON.stringify(given)} (looked for ${folder}), and it is no Hub id like databricks/dolly-v2-3b`,
    )
  }
  const cache = hubCache(environment)
  const repository = join(cache, `models--${hub.id.replace('/', '--')}`)
  const commit = COMMIT.test(hub.revision) ? hub.revision : await readReference(join(repository, 'refs', hub.revision))
  const snapshot = commit === undefined ? undefined : join(repository, 'snapshots', commit)
  if (snapshot !== undefined && (await isFolder(snapshot))) return snapshot
  const revision = hub.revision === DEFAULT_REVISION ? '' : ` --revision ${hub.revision}`
  throw new ModelNotFoundError(
    [
      `There is no copy of ${given} on this machine. Looked for`,
      `  ${folder} (a folder of that name)`,
      `  ${snapshot ?? join(repository, 'refs', hub.revision)} (the Hub cache; HF_HUB_CACHE and HF_HOME move it)`,
      `Download it with one of`,
      `  hf download ${hub.id}${revision}`,
      `  huggingface-cli download ${hub.id}${revision}`,
    ].join('\n'),
  )
}

/** The folder of the Hub cache, by the rules of the Hugging Face libraries. */
export function hubCache(environment: Partial<HubEnvironment>): string {
  const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = environment
  const direct = HF_HUB_CACHE || HUGGINGFACE_HUB_CACHE
  if (direct) return resolve(direct)
  if (HF_HOME) return resolve(HF_HOME, 'hub')
  return resolve(XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface', 'hub')
}

/** What is no Hub id gives undefined; nothing that passes can lead out of the cache. */
function parseHubId(text: string): HubId | undefined {
  const [, id, revision = DEFAULT_REVISION] = /^([\w.-]{1,96}\/[\w.-]{1,96})(?:@([\w./-]{1,200}))?$/.exec(text) ?? []
  if (id === undefined || id.includes('--') || id.includes('..')) return undefined
  if (id.split('/').some((part) => /^[.-]|[.-]$/.test(part))) return undefined
  return revision.split('/').every((part) => /^\w[\w.-]*$/.test(part)) && !revision.includes('..') ? { id, revision } : undefined
}

/** The commit that a branch or tag stands for. */
async function readReference(path: string): Promise<string | undefined> {
  const source = await openRegular(path)
  if (source === undefined) return undefined
  try {
    const commit = (await readWhole(source, 1000)).toString('latin1').trim()
    if (!COMMIT.test(commit))
      throw new CheckpointError('names no commit of 40 hexadecimal digits: delete it and download the model again', { file: path })
    return commit
  } finally {
    await source.close()
  }
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory()
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ENAMETOOLONG') return false
    throw error
  }
}
