import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bytesOf } from '../../src/tokenizer/bytes.js'

export const DOLLY = 'test/fixtures/dolly/model'
export const LAMB = 'models/lamb'

/** Whole numbers from 0 to `below` - 1, the same for the same seed. */
export function dice(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

/** Runs `use` with a folder that holds these files, and removes it. */
export async function withFolder<T>(files: Record<string, string | Uint8Array>, use: (dir: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), 'ewe-tokenizer-'))
  try {
    for (const [name, content] of Object.entries(files)) await writeFile(join(dir, name), content)
    return await use(dir)
  } finally {
    await rm(dir, { recursive: true })
  }
}

export interface Added {
  id: number
  content: string
  special: boolean
  single_word: boolean
  lstrip: boolean
  rstrip: boolean
  normalized: boolean
}

export function added(id: number, content: string, flags: Partial<Added> = {}): Added {
  return { id, content, special: true, single_word: false, lstrip: false, rstrip: false, normalized: false, ...flags }
}

/** The smallest useful tokenizer.json: the byte alphabet, three merges and five added tokens. */
export function smallTokenizer() {
  const alphabet = Array.from({ length: 0x144 }, (_, code) => String.fromCharCode(code)).filter((character) => bytesOf(character) !== undefined)
  const merges: unknown[] = [
    ['h', 'e'],
    ['Ġ', 't'],
    ['Ġt', 'he']
  ]
  const entries = [...alphabet, 'he', 'Ġt', 'Ġthe']
  return {
    version: '1.0',
    truncation: null as unknown,
    padding: null as unknown,
    added_tokens: [
      added(259, '<|end|>'),
      added(260, '### End'),
      added(261, '  ', { special: false, normalized: true }),
      added(262, '### Response:\n'),
      added(263, '   ', { special: false, normalized: true })
    ] as unknown[],
    normalizer: { type: 'NFC' } as unknown,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true } as unknown,
    post_processor: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true } as unknown,
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true } as unknown,
    model: {
      type: 'BPE' as unknown,
      dropout: null as unknown,
      unk_token: null as unknown,
      continuing_subword_prefix: null as unknown,
      end_of_word_suffix: null as unknown,
      fuse_unk: false as unknown,
      byte_fallback: false as unknown,
      ignore_merges: false as unknown,
      vocab: Object.fromEntries(entries.map((entry, id): [string, unknown] => [entry, id])),
      merges
    }
  }
}
