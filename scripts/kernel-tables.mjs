// The generated sections of kernels/README.md: each kernel's figures for every architecture, and what the planned launches should reach of the roofline.
import { architectureOf, occupancy } from './kernel-facts.mjs'

const boundary = 2.5e-6 // seconds from one kernel of a graph to the next: 1.3 us between empty ones, and the ramp and tail of a real one

const row = (cells) => `| ${cells.join(' | ')} |`
const table = (head, lines) => [row(head), row(head.map((_, i) => (i === 0 ? '---' : '---:'))), ...lines.map(row)].join('\n')

const digits = (value) => value.toLocaleString('en', { maximumSignificantDigits: 3 })

/** Registers per architecture, then threads, shared memory and blocks per multiprocessor per card. */
export function kernelTable(kernels, architectures, planned) {
  const head = ['kernel', 'threads', ...architectures.map((one) => `sm_${one}`), 'spills', 'shared', ...planned.cards.map((card) => card.name)]
  const lines = [...kernels].map(([name, { on }]) => {
    const facts = [...on.values()]
    const shared = planned.launches.filter((launch) => launch.kernel === name).map((launch) => launch.shared + Math.max(...facts.map((fact) => fact.shared)))
    const bytes = [...new Set([Math.min(...shared), Math.max(...shared)])].map((value) => value.toLocaleString('en')).join(' - ')
    const blocks = planned.cards.map((card) => {
      const launches = planned.launches.filter((launch) => launch.kernel === name && launch.card === card.name)
      const fact = on.get(architectureOf(card.computeCapability, architectures))
      if (launches.length === 0 || fact === undefined) return ''
      const most = launches.map((launch) => occupancy(card, { ...fact, threads: launch.threads, shared: launch.shared + fact.shared }).blocks)
      return [...new Set([Math.min(...most), Math.max(...most)])].join(' - ')
    })
    const registers = architectures.map((one) => on.get(one)?.registers ?? '')
    const spills = facts.reduce((sum, fact) => sum + fact.spills, 0)
    return [`\`${name}\``, [...new Set(facts.map((fact) => fact.threads))].join(', '), ...registers, spills, shared.length > 0 ? bytes : '', ...blocks]
  })
  return table(head, lines)
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
    const multiply = (op.flops / (card.multiply * 1e12)) * ((Math.ceil(blocks / card.sms) * card.sms) / blocks)
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

/** The text with a section's content replaced, or undefined where the section's marks are missing. */
export function replaceSection(text, name, content) {
  const [begin, end] = mark(name)
  const from = text.indexOf(begin)
  const to = text.indexOf(end)
  return from < 0 || to < from ? undefined : `${text.slice(0, from + begin.length)}\n\n${content}\n\n${text.slice(to)}`
}
