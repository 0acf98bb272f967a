// npm run bench -- agree --peers DIR --model DIR [--python PATH] [--tokens random:32:7] [--weights float32] [--threads N]
//
// Logits of a model here, in a plain float64 forward pass, and in llama.cpp's float32, over the whole vocabulary. Fails where float32 is further off
// than the figures below: rounding of float32 against the first, and for the second also its GELU, the tanh form read from a table of float16.
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { Model } from '../src/index.js'
import type { Weights } from './model.js'

const most = { reference: { logprob: 1e-4 }, llama: { rms: 1.5e-3, logprob: 8e-3 } }

/** Differences over all tokens and the whole vocabulary. */
interface Difference {
  /** Largest, of log-probabilities. */
  logprob: number
  /** Root of the mean square, of logits. */
  rms: number
  /** Positions with the same best token. */
  sameBest: number
  positions: number
}

interface Continuation {
  id: number
  gap: number
}

interface Answer {
  tokens: number[]
  greedy: Continuation[]
  /** [tokens, vocab]. */
  logits: Float32Array
}

const exec = promisify(execFile)

export async function agree(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      peers: { type: 'string' },
      model: { type: 'string' },
      python: { type: 'string', default: 'python3' },
      tokens: { type: 'string', default: 'random:32:7' },
      weights: { type: 'string', default: 'float32' },
      threads: { type: 'string' },
    },
  })
  if (values.peers === undefined || values.model === undefined) throw new Error('--peers DIR and --model DIR are needed: see bench/README.md')
  const { python, tokens: wanted } = values
  const peers = resolve(values.peers)
  const folder = resolve(values.model)
  const scratch = await mkdtemp(join(tmpdir(), 'ewe-agree-'))
  try {
    const gguf = join(folder, 'model-f32.gguf')
    if (!existsSync(gguf)) await exec(python, [join(peers, 'make-model.py'), '--from', folder, '--gguf', 'f32'])
    const ask = async (command: string, program: string, model: string): Promise<Answer> => {
      const dump = join(scratch, `${program}.f32`)
      const options = ['--tokens', wanted, '--greedy', '16', '--dump', dump]
      const { stdout } = await exec(command, [join(peers, program), model, ...options], { maxBuffer: 2 ** 28 })
      const { tokens, greedy } = JSON.parse(stdout) as { tokens: number[]; greedy: Continuation[] }
      return { tokens, greedy, logits: new Float32Array(Uint8Array.from(await readFile(dump)).buffer) }
    }
    const reference = await ask(python, 'ref-forward.py', folder)
    const llama = await ask(process.execPath, 'logits-llama.mjs', gguf)
    if (String(llama.tokens) !== String(reference.tokens)) throw new Error('the peers were given different tokens')

    const { tokens } = reference
    const threads = values.threads === undefined ? {} : { threads: Number(values.threads) }
    await using model = await Model.load(folder, { device: 'cpu', weights: values.weights as Weights, maxContext: tokens.length + 16, ...threads })
    const { vocab } = model.config
    const logits = await model.logits(tokens)
    const scored = (await model.score([tokens]))[0]!
    const { tokens: continuation } = await model.complete(tokens, { maxNewTokens: 16, temperature: 0, ignoreEos: true })
    const wrong = (token: number, i: number): number => Math.abs(scored[i + 1]!.logprob - logSoftmax(reference.logits, i, vocab)[token]!)
    const score = Math.max(...tokens.slice(1).map(wrong))
    const result = {
      model: basename(folder),
      weights: model.plan.weights,
      tokens: tokens.length,
      vocab,
      reference: { ...difference(logits, reference.logits, vocab), score, greedy: sameUntil(continuation, reference.greedy) },
      llama: { ...difference(logits, llama.logits, vocab), greedy: sameUntil(continuation, llama.greedy) },
    }
    console.log(JSON.stringify(result, undefined, 1))
    if (result.weights !== 'float32') return
    const { reference: plain, llama: peer } = result
    // Written so that NaN fails.
    const fine = Math.max(plain.logprob, score) <= most.reference.logprob && peer.rms <= most.llama.rms && peer.logprob <= most.llama.logprob
    if (!fine) {
      console.error(`further apart than ${JSON.stringify(most)}`)
      process.exitCode = 1
    }
  } finally {
    await rm(scratch, { recursive: true })
  }
}

/** How many tokens agree; where they part, the other's gap between its two best logits says whether that means anything. */
function sameUntil(ours: readonly number[], theirs: readonly Continuation[]): string {
  const parted = theirs.findIndex(({ id }, i) => ours[i] !== id)
  return parted < 0 ? `${theirs.length} of ${theirs.length}` : `${parted} of ${theirs.length}, then a gap of ${theirs[parted]!.gap}`
}

function difference(ours: Float32Array, theirs: Float32Array, vocab: number): Difference {
  if (ours.length !== theirs.length) throw new Error(`${ours.length} logits against ${theirs.length}`)
  const positions = ours.length / vocab
  let logprob = 0
  let squares = 0
  let sameBest = 0
  for (let at = 0; at < positions; at++) {
    const [a, b] = [logSoftmax(ours, at, vocab), logSoftmax(theirs, at, vocab)]
    for (let id = 0; id < vocab; id++) logprob = Math.max(logprob, Math.abs(a[id]! - b[id]!))
    if (a.indexOf(largest(a)) === b.indexOf(largest(b))) sameBest++
  }
  for (let i = 0; i < ours.length; i++) squares += (ours[i]! - theirs[i]!) ** 2
  return { logprob, rms: Math.sqrt(squares / ours.length), sameBest, positions }
}

/** Log-probabilities at one position, in double precision. */
function logSoftmax(logits: Float32Array, at: number, vocab: number): Float64Array {
  const row = Float64Array.from(logits.subarray(at * vocab, (at + 1) * vocab))
  const top = largest(row)
  const log = top + Math.log(row.reduce((total, logit) => total + Math.exp(logit - top), 0))
  return row.map((logit) => logit - log)
}

function largest(row: Float64Array): number {
  return row.reduce((a, b) => Math.max(a, b))
}
