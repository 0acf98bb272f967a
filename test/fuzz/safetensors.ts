// node build-test/test/fuzz/safetensors.js --count 1000000 --seed 1
import { layout, neoxConfig, neoxShapes, rawSafetensors, safetensors } from '../checkpoint/build.js'
import type { Entry } from '../checkpoint/build.js'
import { EDGES, fuzz, main, mutate, mutateJson } from './harness.js'
import type { Case, FuzzOptions, FuzzResult, Random } from './harness.js'

const config = JSON.stringify({ ...neoxConfig, num_hidden_layers: 1 })
const base = layout(neoxShapes('gpt_neox.', 1))
const file = safetensors(base)
const headerText = JSON.stringify(base)
const dataBytes = file.length - 8 - headerText.length
const DTYPES = ['BOOL', 'U8', 'I8', 'F8_E5M2', 'F8_E4M3', 'I16', 'U16', 'F16', 'BF16', 'I32', 'U32', 'F32', 'I64', 'U64', 'F64', 'F4', '']

function make(random: Random): Case {
  const kind = random.below(20)
  if (kind === 0) return { ...over(rawSafetensors(valid(random), dataBytes)), valid: true }
  if (kind === 1) return over(random.bytes(random.below(200)))
  if (kind < 6) return over(mutate(random, file))
  if (kind < 9) return over(rawSafetensors(mutate(random, Buffer.from(headerText)), dataBytes))
  if (kind < 14) return over(rawSafetensors(mutateJson(random, headerText), dataBytes))
  return over(rawSafetensors(falsified(random), dataBytes + (random.chance(0.1) ? random.below(9) - 4 : 0)))
}

function over(bytes: Buffer): Case {
  return { files: { 'config.json': config, 'model.safetensors': bytes } }
}

/** The header with its entries in another order, metadata and spaces. */
function valid(random: Random): string {
  const entries = shuffled(random, Object.entries(base))
  if (random.chance(0.5)) entries.splice(random.below(entries.length), 0, ['__metadata__', { format: 'pt' } as never])
  return JSON.stringify(Object.fromEntries(entries), null, random.below(3)) + ' '.repeat(random.below(9))
}

/** The header with one or two entries that say something else. */
function falsified(random: Random): string {
  const entries: [string, Entry][] = Object.entries(base).map(([name, entry]) => [
    name,
    { ...entry, shape: [...entry.shape], data_offsets: [...entry.data_offsets] },
  ])
  for (let times = 1 + random.below(2); times > 0; times--) {
    const [index, other] = [random.below(entries.length), random.below(entries.length)]
    const [name, entry] = entries[index] ?? random.pick(entries)
    const [otherName, otherEntry] = entries[other] ?? random.pick(entries)
    switch (random.below(9)) {
      case 0:
        entry.dtype = random.pick(DTYPES)
        break
      case 1:
        // The same bytes with half the size per element: a tensor of another shape.
        entry.dtype = random.pick(['F16', 'BF16'])
        entry.shape = entry.shape.map((size, i) => (i === 0 ? size * 2 : size))
        break
      case 2:
        entry.shape = Array.from({ length: random.below(10) }, () => 2 ** random.below(54))
        break
      case 3:
        entry.shape = entry.shape.toReversed()
        break
      case 4:
        entry.data_offsets[random.below(2) as 0 | 1] += random.pick([-8, -4, -1, 1, 4, 8, 2 ** 31, 2 ** 32, 2 ** 52])
        break
      case 5:
        ;[entry.data_offsets, otherEntry.data_offsets] = [otherEntry.data_offsets, entry.data_offsets]
        break
      case 6:
        entries[index] = [otherName, entry]
        break
      case 7:
        entries.splice(index, 1)
        break
      default:
        entries[index] = [random.pick([`${name}x`, name.slice(0, -1), '', '__metadata__', '__proto__', 'gpt_neox.layers.0.attention.bias']), entry]
    }
  }
  // Written by hand, because an object could not hold a name twice.
  const text = entries.map(([name, entry]) => `${JSON.stringify(name)}:${JSON.stringify(entry)}`).join(',')
  return random.chance(0.1) ? `{${text}}`.replace(/\d+/g, (digits) => (random.chance(0.02) ? random.pick(EDGES) : digits)) : `{${text}}`
}

function shuffled<T>(random: Random, items: T[]): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = random.below(i + 1)
    ;[items[i], items[j]] = [items[j] as T, items[i] as T]
  }
  return items
}

export function fuzzSafetensors(options: FuzzOptions): Promise<FuzzResult> {
  return fuzz(options, make)
}

if (process.argv[1]?.endsWith('fuzz/safetensors.js')) await main('safetensors', fuzzSafetensors)
