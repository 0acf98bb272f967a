// What a job's answers depend on beside its lines and options: two runs fit together only where this is equal.
import { createHash } from 'node:crypto'
import { open, readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { devices } from '../devices.js'
import type { Model } from '../model.js'
import { packageVersion } from '../package.js'

/**
 * Of a large file its size, its beginning (names and shapes) and so many slices at even distances count: to read all of it would take as long as to load
 * it, and a model that was trained further differs in nearly every matrix, but often not in the first one.
 */
const slices = 64
const sliceBytes = 1 << 16

export interface Identity {
  version: string
  model: { name: string; sha256: string }
  device: { name: string; path: string; weights: string }
  maxContext: number
}

/** @param instructionSet that the model was loaded with. */
export async function identityOf(model: Model, dir: string, instructionSet = 'auto'): Promise<Identity> {
  const { device: id, weights, maxContext } = model.plan
  const device = devices().find((one) => one.id === id)
  const best = instructionSet === 'auto' ? (device?.instructionSets?.[0] ?? 'plain') : instructionSet
  const path = device?.kind === 'cpu' ? best : `sm_${device?.computeCapability ?? 0}`
  const name = device?.kind === 'cpu' ? 'cpu' : (device?.name ?? id)
  return { version: packageVersion(), model: { name: basename(dir), sha256: await hashFolder(dir) }, device: { name, path, weights }, maxContext }
}

/** Wherever the folder lies and whenever it was copied. */
async function hashFolder(dir: string): Promise<string> {
  const hash = createHash('sha256')
  const names = (await readdir(dir)).filter((name) => /\.(json|safetensors|bin)$/.test(name)).sort()
  const buffer = Buffer.alloc(sliceBytes)
  for (const name of names) {
    const file = await open(join(dir, name), 'r')
    try {
      const { size } = await file.stat()
      hash.update(`${name} ${size} `)
      const step = Math.max(sliceBytes, Math.ceil(size / slices))
      for (let at = 0; at < size; at += step) {
        const { bytesRead } = await file.read(buffer, 0, sliceBytes, at)
        hash.update(buffer.subarray(0, bytesRead))
      }
    } finally {
      await file.close()
    }
  }
  return hash.digest('hex')
}
