import { OptionError } from '../errors.js'
import type { StreamPiece } from '../answers.js'
import type { Model } from '../model.js'
import { generateOptions } from '../options.js'
import type { ModelFlags, SamplingFlags } from './flags.js'
import { checkFlags, given, loadOptionsOf, openModel, samplingOf } from './open.js'
import { exitCodes, interruptible, note, writeJson, writeText } from './output.js'
import { Tally } from './tally.js'

export interface GenerateFlags extends ModelFlags, SamplingFlags {
  input?: string
  system?: string
  raw?: boolean
  n?: number
  logprobs?: number
}

/** Longest text from stdin, in bytes: more than any context holds. */
const stdinLimit = 1 << 24

/** `ewe generate`: answers one instruction, or continues one text with --raw. Returns the exit code. */
export async function generate(instruction: string | undefined, flags: GenerateFlags): Promise<number> {
  const { input, system, n, logprobs } = flags
  const load = loadOptionsOf(flags)
  const options: Options = { ...samplingOf(flags), ...given({ input, system, n, logprobs }) }
  checkFlags(generateOptions, options)
  if (flags.raw === true && input !== undefined) throw new OptionError('--input', 'nothing beside --raw', input)
  if (flags.raw === true && system !== undefined) throw new OptionError('--system', 'nothing beside --raw', system)
  if (logprobs !== undefined && flags.json !== true) throw new OptionError('--json', 'it beside --logprobs', undefined)
  const fromStdin = instruction === undefined || instruction === '-'
  if (fromStdin && input === '-') throw new OptionError('--input', 'a text, because stdin is the instruction,', input)
  if (instruction === undefined && process.stdin.isTTY) throw new OptionError('instruction', 'an argument or a text on stdin', undefined)

  return await interruptible(async (signal) => {
    const prompt = fromStdin ? await readStdin(signal) : instruction
    if (prompt.trim() === '') throw new OptionError('instruction', 'a text that is not empty', prompt)
    if (input === '-') options.input = await readStdin(signal)
    const started = performance.now()
    const model = await openModel(flags, load, signal)
    try {
      const loadMs = Math.round(performance.now() - started)
      const request = { ...options, signal }
      await answer(model, flags.raw === true ? model.streamComplete(prompt, request) : model.stream(prompt, request), flags, loadMs)
      return exitCodes.ok
    } finally {
      await model.dispose()
    }
  })
}

type Options = SamplingFlags & Pick<GenerateFlags, 'input' | 'system' | 'n' | 'logprobs'>

async function answer(model: Model, pieces: AsyncIterable<StreamPiece>, { json, verbose, n = 1 }: GenerateFlags, loadMs: number): Promise<void> {
  const tally = new Tally(n)
  const streams = json !== true && n === 1
  try {
    for await (const piece of pieces) {
      tally.add(piece)
      if (streams) writeText(piece.text)
    }
  } catch (error) {
    if (streams && tally.text !== '') process.stdout.write('\n')
    throw error
  }
  if (streams) process.stdout.write('\n')
  const data = tally.json(model.plan)
  if (json === true) writeJson({ ...data, timings: { loadMs, ...data.timings } })
  else if (!streams) writeText(tally.samples.map(({ index, text }) => `--- ${index + 1} of ${n}\n${text}\n`).join('\n'))
  if (verbose === true) note(`loaded in ${loadMs} ms, ${tally.summary()}`)
}

/** Stdin as text, without the newline at its end that `echo` and editors write. */
async function readStdin(signal: AbortSignal): Promise<string> {
  const chunks: Buffer[] = []
  let bytes = 0
  const stop = (): void => void process.stdin.destroy()
  signal.addEventListener('abort', stop)
  try {
    for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
      bytes += chunk.length
      if (bytes > stdinLimit) throw new OptionError('stdin', `at most ${stdinLimit} bytes`, bytes)
      chunks.push(chunk)
    }
  } catch (error) {
    signal.throwIfAborted()
    throw error
  } finally {
    signal.removeEventListener('abort', stop)
  }
  signal.throwIfAborted()
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks)).replace(/\r?\n$/, '')
  } catch (error) {
    if (error instanceof TypeError) throw new OptionError('stdin', 'text in UTF-8', bytes)
    throw error
  }
}
