import { createHash, timingSafeEqual } from 'node:crypto'

/**
 * A check of `Authorization` against keys. Hashes are compared, all of them each time: how long it takes tells nothing of the keys, not even their length.
 */
export function keyCheck(keys: readonly string[]): (authorization: string | null) => boolean {
  const hashes = keys.map(hash)
  return (authorization) => {
    const [, key = ''] = /^bearer +(\S+) *$/i.exec(authorization ?? '') ?? []
    const given = hash(key)
    return hashes.filter((known) => timingSafeEqual(known, given)).length > 0
  }
}

function hash(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
