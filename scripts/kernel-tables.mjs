// The generated sections of kernels/README.md: each kernel's figures for every architecture, and what the planned launches should reach of the roofline.
import { architectureOf, occupancy } from './kernel-facts.mjs'

const reach = 1280 / 2048 // what the instructions that path 900 has so far come to of the rate of H100 and H200
const boundary = 2.5e-6 // seconds from one kernel of a graph to the next: 1.3 us between empty ones, and the ramp and tail of a real one

const row = (cells) => `| ${cells.join(' | ')} |`
const table = (head, lines) => [row(head), row(head.map((_, i) => (i === 0 ? '---' : '---:'))), ...lines.map(row)].join('\n')

const digits = (value) => value.toLocaleString('en', { maximumSignificantDigits: 3 })

const range = (values) => [...new Set([Math.min(...values), Math.max(...values)])].join('-')
const kilobytes = (bytes) => digits(bytes / 1024)

/** A kernel's name without its types: linear_i8_bf16_64x32 is of linear_64x32, attend_decode_d80_f16 of attend_decode_d80. */
export function familyOf(name) {
  return name.replace(/_(i8_bf16|i8_f16|bf16|f16|f32)(?=_|$)/, '')
}

/** A row for each family of kernels; for each architecture their registers, and the blocks that a multiprocessor of its cards holds. */
export function kernelTable(kernels, architectures, planned) {
  const cardsOf = (architecture) => planned.cards.filter((card) => architectureOf(card.computeCapability, architectures) === architecture)
  const title = (architecture) => [`sm_${architecture}`, ...cardsOf(architecture).map((card) => card.name)].join(' ')
  const head = ['kernel', 'threads', 'shared KB', ...architectures.map(title)]
  const families = new Map()
  for (const [name, { on }] of kernels) {
    const family = families.get(familyOf(name)) ?? []
    families.set(familyOf(name), [...family, { on, launches: planned.launches.filter((launch) => launch.kernel === name) }])
  }
  const lines = [...families].map(([family, members]) => {
    const facts = members.flatMap(({ on }) => [...on.values()])
    const shared = members.flatMap(({ on, launches }) => launches.map((launch) => launch.shared + Math.max(...[...on.values()].map((fact) => fact.shared))))
    const cells = architectures.map((architecture) => {
      const compiled = members.filter(({ on }) => on.has(architecture))
      if (compiled.length === 0) return ''
      const registers = range(compiled.map(({ on }) => on.get(architecture).registers))
      const blocks = compiled.flatMap(({ on, launches }) =>
        cardsOf(architecture).flatMap((card) =>
          launches
            .filter((launch) => launch.card === card.name)
            .map((launch) => occupancy(card, { ...on.get(architecture), threads: launch.threads, shared: launch.shared + on.get(architecture).shared }).blocks),
        ),
      )
      return blocks.length === 0 ? registers : `${registers} (${range(blocks)})`
    })
    const least = shared.length === 0 ? '' : kilobytes(Math.min(...shared))
    const most = shared.length === 0 ? '' : kilobytes(Math.max(...shared))
    return [`\`${family}\``, range(facts.map((fact) => fact.threads)), least === most ? least : `${least}-${most}`, ...cells]
  })
  const spills = [...kernels.values()].flatMap(({ on }) => [...on.values()]).reduce((sum, fact) => sum + fact.spills, 0)
  return `${kernels.size} kernels; bytes of spilled registers on all architectures together: ${spills}.\n\n${table(head, lines)}`
}

/**
 * Seconds that a step should take, and that its bytes or its FLOPs alone would take. An op takes the longer of the two; its bytes take longer where there are
 * fewer blocks than multiprocessors, its FLOPs where the last round of blocks leaves some idle; each launch adds the boundary to the next.
 */
export function predict(card, ops) {
  let predicted = 0
  let bytes = 0
  let flops = 0
  for (const op of ops) {
    const blocks = op.launches.at(-1)[1] // what comes before the last launch prepares it
    const memory = (op.bytes / (card.bandwidth * 1e9)) * Math.max(1, card.sms / blocks)
    const multiply = (op.flops / (card.multiply * (card.computeCapability >= 90 ? reach : 1) * 1e12)) * ((Math.ceil(blocks / card.sms) * card.sms) / blocks)
    predicted += op.count * (Math.max(memory, multiply) + op.launches.length * boundary)
    bytes += op.count * op.bytes
    flops += op.count * op.flops
  }
  return { predicted, floor: Math.max(bytes / (card.bandwidth * 1e9), flops / (card.multiply * 1e12)) }
}

export function rooflineTable(planned) {
  const rows = new Map() // name -> card -> cell
  for (const step of planned.steps) {
    const weights = step.weights === 'int8' ? 'int8' : '16-bit'
    const name = `Dolly ${step.model}, ${weights}, ${step.prompt ? `prompt of ${step.rows}` : 'one token at context 512'}`
    const card = planned.cards.find((one) => one.name === step.card)
    const { predicted, floor } = predict(card, step.ops)
    const speed = step.prompt ? `${digits(predicted * 1e3)} ms` : `${digits(1 / predicted)} /s`
    if (!rows.has(name)) rows.set(name, new Map())
    rows.get(name).set(step.card, step.memory > card.memory ? 'does not fit' : `${Math.round((100 * floor) / predicted)}% (${speed})`)
  }
  const cards = planned.cards.map((card) => card.name)
  return table(['', ...cards], [...rows].map(([name, cells]) => [name, ...cards.map((card) => cells.get(card) ?? '')]))
}

const mark = (name) => [`<!-- ${name}: written by scripts/kernel-gates.mjs --update -->`, `<!-- end of ${name} -->`]

export const emptySection = (name) => mark(name).join('\n\n')

/** The text with a section's content replaced, or undefined where the section's marks are missing. */
export function replaceSection(text, name, content) {
  const [begin, end] = mark(name)
  const from = text.indexOf(begin)
  const to = text.indexOf(end)
  return from < 0 || to < from ? undefined : `${text.slice(0, from + begin.length)}\n\n${content}\n\n${text.slice(to)}`
}
