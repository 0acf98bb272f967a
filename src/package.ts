import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { InternalError } from './errors.js'

let folder: string | undefined
let version: string | undefined

/** The folder of the installed package: where package.json, models/ and the addon lie, whether this file runs from dist/ or from a build of the tests. */
export function packageFolder(): string {
  if (folder !== undefined) return folder
  for (let at = dirname(fileURLToPath(import.meta.url)); ; at = dirname(at)) {
    if (existsSync(join(at, 'package.json')) && readPackage(at).name === 'ewe') return (folder = at)
    if (at === dirname(at)) throw new InternalError(`No package.json of ewe above ${fileURLToPath(import.meta.url)}`)
  }
}

/** Folder of the small trained model that comes with ewe: it answers simple questions in English (models/lamb/README.md says which). */
export function shippedModel(): string {
  return join(packageFolder(), 'models', 'lamb')
}

/** The version in package.json. */
export function packageVersion(): string {
  return (version ??= readPackage(packageFolder()).version)
}

function readPackage(at: string): { name: string; version: string } {
  return JSON.parse(readFileSync(join(at, 'package.json'), 'utf8')) as { name: string; version: string }
}
