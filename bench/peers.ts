// npm run bench -- peers --peers DIR --model DIR [--python PATH] [--weights LIST] [--threads LIST] [--rounds N] [--seconds S] [--out FILE]
//
// ewe, llama.cpp and PyTorch on the same weights, each trial in a process of its own, one engine after the other and all of that several times over,
// so that a busy minute of the machine meets all of them. What the folder of peers must hold: bench/README.md.
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'
import { packageFolder } from '../src/package.js'
import { facts, limits, type Limits } from './machine.js'
import type { Report } from './model.js'
import { quantile } from './measure.js'

const dtypes = ['float32', 'bfloat16', 'float16'] as const
type Dtype = (typeof dtypes)[number]
const engines = ['ewe', 'llama.cpp', 'PyTorch'] as const
type EngineName = (typeof engines)[number]
const tasks = ['prompt', 'decode1', 'decode8', 'decode32'] as const
type Task = (typeof tasks)[number]
type Rates = Record<Task, number> & { others?: Record<Task, number> }

const ggufOf: Record<Dtype, string> = { float32: 'f32', bfloat16: 'bf16', float16: 'f16' }
// PyTorch has no fast float16 on a CPU: one prompt takes minutes.
const enginesOf = (dtype: Dtype): readonly EngineName[] => (dtype === 'float16' ? ['ewe', 'llama.cpp'] : engines)

/** One line of the table: medians of the rounds, tokens a second. */
interface Row {
  weights: Dtype
  threads: number
  rates: Partial<Record<EngineName, Rates>>
  rounds: Partial<Record<EngineName, Rates[]>>
}

interface Comparison {
  machine: ReturnType<typeof facts> & { limits: Limits[] }
  peers: Partial<Record<EngineName, string>>
  model: string
  rows: Row[]
}

interface Trial {
  peers: string
  model: string
  python: string
  weights: Dtype
  threads: number
  seconds: number
}

export async function compare(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      peers: { type: 'string' },
      model: { type: 'string' },
      python: { type: 'string', default: 'python3' },
      weights: { type: 'string', default: dtypes.join(',') },
      threads: { type: 'string', default: [...new Set([1, availableParallelism()])].join(',') },
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '2' },
      out: { type: 'string' },
    },
  })
  if (values.peers === undefined || values.model === undefined) throw new Error('--peers DIR and --model DIR are needed: see bench/README.md')
  const threads = values.threads.split(',').map(Number)
  const weights = dtypes.filter((dtype) => values.weights.split(',').includes(dtype))
  const common = { peers: resolve(values.peers), model: resolve(values.model), python: values.python, seconds: Number(values.seconds) }
  const rows: Row[] = weights.flatMap((dtype) => threads.map((count): Row => ({ weights: dtype, threads: count, rates: {}, rounds: {} })))
  const found: Comparison = { machine: { ...facts(), limits: [] }, peers: {}, model: basename(common.model), rows }
  for (const dtype of weights) await makeGguf(common, dtype)

  const out = values.out ?? join(packageFolder(), 'bench/results', `${slug(found.machine.cpu)}-${found.machine.date}.json`)
  await mkdir(dirname(out), { recursive: true })
  for (let round = 1; round <= Number(values.rounds); round++) {
    found.machine.limits.push(await limits(Math.max(...threads)))
    for (const row of rows) {
      for (const engine of enginesOf(row.weights)) {
        const { rates, version } = await trials[engine]({ ...common, weights: row.weights, threads: row.threads })
        found.peers[engine] = version
        const rounds = (row.rounds[engine] ??= [])
        rounds.push(rates)
        row.rates[engine] = medians(rounds)
        const shown = tasks.map((task) => `${task} ${rates[task].toFixed(1)}`).join(', ')
        console.error(`round ${round}, ${row.weights}, threads ${row.threads}, ${engine}: ${shown}`)
      }
    }
    await writeFile(out, `${JSON.stringify(found, undefined, 1)}\n`) // after each round: a long run that is cut short has not been for nothing
  }
  console.log(table(found))
  console.error(`written to ${out}`)
}

const exec = promisify(execFile)

async function run(command: string, args: string[]): Promise<string> {
  const { stdout } = await exec(command, args, { maxBuffer: 2 ** 26 })
  return stdout
}

const trials: Record<EngineName, (trial: Trial) => Promise<{ rates: Rates; version: string }>> = {
  async ewe({ model, weights, threads, seconds }) {
    const main = fileURLToPath(new URL('main.js', import.meta.url))
    const options = ['--model', model, '--weights', weights, '--threads', String(threads), '--seconds', String(seconds)]
    const report = JSON.parse(await run(process.execPath, [main, 'prefill', 'decode', '--json', ...options])) as Report
    const [prompt, one, eight, many] = [report.prefill!, report.decode!['1'], report.decode!['8'], report.decode!['32']]
    const others = { prompt: prompt.others, decode1: one.others, decode8: eight.others, decode32: many.others }
    const rates = { prompt: prompt.median, decode1: one.median, decode8: eight.median, decode32: many.median, others }
    return { rates, version: report.machine.versions.ewe }
  },
  async 'llama.cpp'({ peers, model, weights, threads }) {
    // It waits for quiet moments and repeats what was disturbed, for up to --max-wait seconds a figure.
    const options = ['--threads', String(threads), '--repeats', '3', '--batch', '8,32', '--free=false', '--generate', '64', '--max-wait', '5']
    const gguf = join(model, `model-${ggufOf[weights]}.gguf`)
    const report = JSON.parse(await run(process.execPath, [join(peers, 'bench-llama.mjs'), gguf, ...options])) as LlamaReport
    const { prompt, decode, batch } = report.results[0]!
    const rates = { prompt: prompt.median, decode1: decode.median, decode8: batch[0]!.step.median, decode32: batch[1]!.step.median }
    return { rates, version: `${report.package}, llama.cpp ${report.llamaCpp}` }
  },
  async PyTorch({ peers, model, python, weights, threads }) {
    const options = ['--dtype', weights, '--threads', String(threads), '--batch', '1,8,32', '--repeat', '3']
    const report = JSON.parse(await run(python, [join(peers, 'bench-transformers.py'), model, ...options])) as TorchReport
    const rates = { prompt: report.prompt, decode1: report.decode_1, decode8: report.decode_8, decode32: report.decode_32 }
    return { rates, version: `torch ${report.torch}` }
  },
}

interface LlamaReport {
  package: string
  llamaCpp: string
  results: { prompt: { median: number }; decode: { median: number }; batch: { step: { median: number } }[] }[]
}

interface TorchReport {
  torch: string
  prompt: number
  decode_1: number
  decode_8: number
  decode_32: number
}

/** The same weights for llama.cpp, beside those of the folder, unless they are there. */
async function makeGguf({ peers, model, python }: Pick<Trial, 'peers' | 'model' | 'python'>, dtype: Dtype): Promise<void> {
  if (existsSync(join(model, `model-${ggufOf[dtype]}.gguf`))) return
  await run(python, [join(peers, 'make-model.py'), '--from', model, '--gguf', ggufOf[dtype]])
}

function medians(rounds: readonly Rates[]): Rates {
  const median = (task: Task): number => quantile(rounds.map((rates) => rates[task]), 0.5)
  return { prompt: median('prompt'), decode1: median('decode1'), decode8: median('decode8'), decode32: median('decode32') }
}

/** ewe's rate over that of the better peer, which may use fewer threads where that is faster for it. */
function ratio(rows: readonly Row[], row: Row, task: Task): number {
  const comparable = rows.filter((other) => other.weights === row.weights && other.threads <= row.threads)
  const rivals = comparable.flatMap(({ rates }) => [rates['llama.cpp'], rates.PyTorch])
  return (row.rates.ewe?.[task] ?? NaN) / Math.max(...rivals.map((rates) => rates?.[task] ?? 0))
}

function table({ machine, peers, model, rows }: Comparison): string {
  const titles: Record<Task, string> = { prompt: 'prompt of 512', decode1: 'decode, 1 request', decode8: 'decode, 8 requests', decode32: 'decode, 32 requests' }
  const versions = engines.map((engine) => `${engine}: ${peers[engine] ?? 'not run'}`).join('; ')
  const lines = [
    `${model} on ${machine.cpu}, ${machine.processors} processors, ${machine.date}; ${versions}`,
    '',
    `| tokens/s | weights | threads | ${engines.join(' | ')} | ewe / better peer |`,
    '| --- | --- | --- | --- | --- | --- | --- |',
  ]
  for (const task of tasks) {
    for (const row of rows) {
      const cells = engines.map((engine) => row.rates[engine]?.[task].toFixed(task === 'prompt' ? 0 : 1) ?? '')
      lines.push(`| ${titles[task]} | ${row.weights} | ${row.threads} | ${cells.join(' | ')} | ${ratio(rows, row, task).toFixed(2)} |`)
    }
  }
  return lines.join('\n')
}

function slug(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '')
}
