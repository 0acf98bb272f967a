// npm run bench -- batch [--model DIR] [--data FILE,FILE] [--records N] [--max-new-tokens N] [--sizes LIST] [--rounds N] [--threads N] [--weights DTYPE] [--json]
//
// A whole batch job, journal and output included, without shared prefixes and with them in pages of several sizes, one after the other and all of it
// several times over.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { identityOf } from '../src/batch/identity.js'
import { runBatch } from '../src/batch/job.js'
import { Model, shippedModel } from '../src/index.js'
import { packageFolder } from '../src/package.js'
import { facts } from './machine.js'
import { quantile } from './measure.js'
import type { Weights } from './model.js'

interface Result {
  /** Tokens of a cache page, or 0 for no sharing. */
  pageSize: number
  seconds: number[]
  promptTokens: number
  /** Tokens of prompts that were found in the cache. */
  reusedTokens: number
  generatedTokens: number
  failed: number
}

export async function batch(args: string[]): Promise<void> {
  const fixtures = join(packageFolder(), 'test/fixtures')
  const { values } = parseArgs({
    args,
    options: {
      model: { type: 'string', default: shippedModel() },
      data: { type: 'string', default: [join(fixtures, 'lamb/heldout.jsonl'), join(fixtures, 'dolly/records.jsonl')].join(',') },
      records: { type: 'string', default: '1000' },
      'max-new-tokens': { type: 'string', default: '64' },
      sizes: { type: 'string', default: '0,16,32,64,128' },
      rounds: { type: 'string', default: '3' },
      threads: { type: 'string' },
      weights: { type: 'string', default: 'auto' },
      json: { type: 'boolean', default: false },
    },
  })
  const folder = await mkdtemp(join(tmpdir(), 'ewe-bench-'))
  try {
    const input = join(folder, 'in.jsonl')
    await writeFile(input, await recordsOf(values.data.split(','), Number(values.records)))
    const results = values.sizes.split(',').map((size): Result => ({ pageSize: Number(size), seconds: [], promptTokens: 0, reusedTokens: 0, generatedTokens: 0, failed: 0 }))
    for (let round = 1; round <= Number(values.rounds); round++) {
      for (const result of results) {
        await using model = await Model.load(resolve(values.model), {
          device: 'cpu',
          weights: values.weights as Weights,
          prefixCache: result.pageSize > 0,
          ...(result.pageSize > 0 ? { pageSize: result.pageSize } : {}),
          ...(values.threads === undefined ? {} : { threads: Number(values.threads) }),
        })
        await once(model, values.model, input, join(folder, 'out.jsonl'), Number(values['max-new-tokens']), result)
        console.error(`round ${round}, ${nameOf(result)}: ${result.seconds.at(-1)!.toFixed(1)} s`)
      }
    }
    console.log(values.json ? JSON.stringify({ machine: facts(), ...values, results }) : table(values.model, Number(values.records), results))
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** So many records: those of the files, and again with their round before each instruction, so that only the template's beginning is one of two rounds. */
async function recordsOf(files: readonly string[], count: number): Promise<string> {
  const texts = await Promise.all(files.map((file) => readFile(file, 'utf8')))
  const rows = texts.flatMap((text) => text.trimEnd().split('\n').map((line) => JSON.parse(line) as { instruction: string; context: string }))
  const lines = Array.from({ length: count }, (_, i) => {
    const { instruction, context } = rows[i % rows.length]!
    const round = Math.floor(i / rows.length)
    return JSON.stringify({ instruction: round === 0 ? instruction : `(${round}) ${instruction}`, context })
  })
  return lines.map((line) => `${line}\n`).join('')
}

async function once(model: Model, folder: string, input: string, output: string, maxNewTokens: number, result: Result): Promise<void> {
  const identity = await identityOf(model, folder)
  const start = performance.now()
  const { failed } = await runBatch(model, {
    input,
    output,
    identity,
    modelName: basename(folder),
    text: false,
    raw: false,
    order: 'input',
    shard: { index: 1, count: 1 },
    seed: 0n,
    sampling: { maxNewTokens },
    created: 0,
  })
  result.seconds.push((performance.now() - start) / 1e3)
  const { promptTokens, reusedTokens, generatedTokens } = model.stats()
  Object.assign(result, { promptTokens: promptTokens + reusedTokens, reusedTokens, generatedTokens, failed })
}

function nameOf({ pageSize }: Result): string {
  return pageSize === 0 ? 'nothing shared' : `pages of ${pageSize}`
}

function table(model: string, records: number, results: readonly Result[]): string {
  const median = ({ seconds }: Result): number => quantile(seconds, 0.5)
  const base = median(results.find(({ pageSize }) => pageSize === 0) ?? results[0]!)
  const { failed, promptTokens, generatedTokens } = results[0]!
  const lines = results.map((result) => {
    const [seconds, least, most] = [median(result), Math.min(...result.seconds), Math.max(...result.seconds)]
    const shared = `${(result.reusedTokens / records).toFixed(1)} | ${((100 * result.reusedTokens) / promptTokens).toFixed(0)} %`
    const rates = `${(records / seconds).toFixed(1)} | ${(generatedTokens / seconds).toFixed(0)}`
    return `| ${nameOf(result)} | ${seconds.toFixed(1)} (${least.toFixed(1)} to ${most.toFixed(1)}) | ${rates} | ${shared} | ${(base / seconds).toFixed(2)} |`
  })
  return [
    `${basename(model)}: ${records} records, ${failed} of them refused; ${promptTokens} tokens of prompts, ${generatedTokens} generated`,
    '',
    '| | seconds | records/s | new tokens/s | shared tokens a prompt | of all | times as fast |',
    '| --- | --- | --- | --- | --- | --- | --- |',
    ...lines,
  ].join('\n')
}
