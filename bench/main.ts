// npm run bench [-- NAME ...] [--model DIR] [--weights DTYPE] [--threads N] [--instruction-set SET] [--seconds S] [--json]
//
// Names: machine load prefill decode timer text requests (default: all), or one of peers, agree, batch and server, which have options of their own.
// bench/README.md says what the figures mean.
import { parseArgs } from 'node:util'
import { shippedModel, type Model } from '../src/index.js'
import { agree } from './agree.js'
import { batch } from './batch.js'
import { facts, limits } from './machine.js'
import { counts, decode, load, open, prefill, requests, text, timer, type Counts, type Lateness, type Rate, type Report, type Setting, type Weights } from './model.js'
import { compare } from './peers.js'
import { serving } from './server.js'

const names = ['machine', 'load', 'prefill', 'decode', 'timer', 'text', 'requests']

async function main(): Promise<void> {
  const [first, ...rest] = process.argv.slice(2)
  if (first === 'peers') return await compare(rest)
  if (first === 'agree') return await agree(rest)
  if (first === 'batch') return await batch(rest)
  if (first === 'server') return await serving(rest)
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      model: { type: 'string' },
      weights: { type: 'string', default: 'auto' },
      threads: { type: 'string' },
      'instruction-set': { type: 'string', default: 'auto' },
      seconds: { type: 'string', default: '3' },
      json: { type: 'boolean', default: false },
    },
  })
  const unknown = positionals.find((name) => !names.includes(name))
  if (unknown !== undefined) throw new Error(`There is no bench "${unknown}": ${names.join(', ')}, peers, agree, batch, server`)
  const chosen = positionals.length === 0 ? names : positionals
  const setting: Setting = {
    model: values.model ?? shippedModel(),
    weights: values.weights as Weights,
    instructionSet: values['instruction-set'] as Setting['instructionSet'],
    threads: values.threads === undefined ? undefined : Number(values.threads),
    seconds: Number(values.seconds),
  }
  const report = await run(chosen, setting)
  console.log(values.json ? JSON.stringify(report) : readable(report))
}

async function run(chosen: readonly string[], setting: Setting): Promise<Report> {
  await using model = await open(setting)
  const { weights, threads } = model.plan
  const report: Report = { machine: facts(), model: { folder: setting.model, weights, threads, instructionSet: setting.instructionSet } }
  const { seconds } = setting
  if (chosen.includes('machine')) report.machine.limits = await limits(threads)
  if (chosen.includes('load')) report.load = await load(setting)
  if (chosen.includes('prefill')) report.prefill = await prefill(model, seconds)
  if (chosen.includes('decode')) report.decode = await each(model, seconds, decode)
  if (chosen.includes('timer')) report.timer = await timer(model, seconds)
  if (chosen.includes('text')) report.text = await each(model, seconds, text)
  if (chosen.includes('requests')) report.requests = await each(model, seconds, requests)
  return report
}

async function each<T>(model: Model, seconds: number, bench: (model: Model, count: number, seconds: number) => Promise<T>): Promise<Counts<T>> {
  const found: Record<string, T> = {}
  for (const count of counts) found[count] = await bench(model, count, seconds)
  return found as Counts<T>
}

function readable({ machine, model, ...report }: Report): string {
  const { limits: most } = machine
  const threads = String(model.threads)
  const set = model.instructionSet === 'auto' ? machine.instructionSet : model.instructionSet
  const pairs = model.weights === 'bfloat16' && set === 'avx512bf16'
  const share = (value: number | undefined, limit: Record<string, number> | undefined, unit: string): string => {
    if (value === undefined) return ''
    const of = limit?.[threads]
    return `  ${value.toFixed(1)} ${unit}${of === undefined || of === 0 ? '' : `, ${((100 * value) / of).toFixed(0)} % of what the machine can do`}`
  }
  const busy = (others: number): string => (others > 0.2 ? `, others used ${others.toFixed(1)} processors` : '')
  const spread = ({ least, most: top, runs }: Rate): string => `(${least.toFixed(1)} to ${top.toFixed(1)} in ${runs} runs)`
  const line = (name: string, rate: Rate): string =>
    `${name.padEnd(12)}${rate.median.toFixed(1)} ${rate.unit} ${spread(rate)}${busy(rate.others)}` +
    share(rate.gbs, most?.readGBs, 'GB/s') +
    share(rate.gflops, pairs ? most?.bfloat16Gflops : most?.float32Gflops, 'GFLOP/s')
  const lateness = (name: string, { p50, p99, most: latest, timers }: Lateness): string =>
    `${name.padEnd(12)}p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms, latest ${latest.toFixed(2)} ms of ${timers} timers`
  const { cpu, processors, versions, date } = machine
  const lines = [
    `${cpu}, ${processors} processors, ${set}; ewe ${versions.ewe}, Node ${versions.node}, ${date}`,
    `${model.folder}: ${model.weights}, ${model.threads === 1 ? '1 thread' : `${model.threads} threads`}`,
  ]
  if (most !== undefined) {
    const peaks = `${most.float32Gflops[threads]} GFLOP/s float32, ${most.bfloat16Gflops[threads]} GFLOP/s bfloat16`
    lines.push(`machine     reads ${most.readGBs[threads]} GB/s; ${peaks}`)
  }
  if (report.load !== undefined) {
    const { median, mb, mbs, others } = report.load
    lines.push(`load        ${median.toFixed(0)} ms, ${mbs.toFixed(0)} MB/s of ${mb.toFixed(0)} MB${busy(others)}`)
  }
  if (report.prefill !== undefined) lines.push(line('prefill', report.prefill))
  for (const [count, rate] of Object.entries(report.decode ?? {})) lines.push(line(`decode ${count}`, rate))
  if (report.timer !== undefined) lines.push(lateness('timer idle', report.timer.idle), lateness('generating', report.timer.generating))
  for (const [count, rate] of Object.entries(report.text ?? {})) lines.push(line(`text ${count}`, rate))
  const percent = (value: number): string => `${(100 * value).toFixed(1)} %`
  for (const [count, rate] of Object.entries(report.requests ?? {})) {
    lines.push(`${line(`requests ${count}`, rate)}  scheduling ${percent(rate.scheduling)} of the loop, JavaScript busy ${percent(rate.javascript)}`)
  }
  return lines.join('\n')
}

await main()
