import { basename } from 'node:path'
import type { z } from 'zod'
import { OptionError } from '../errors.js'
import { Model } from '../model.js'
import { check, generateOptions, loadOptions, type LoadOptions } from '../options.js'
import { shippedModel } from '../package.js'
import type { CacheFlags, ModelFlags, SamplingFlags } from './flags.js'
import { formatBytes, note } from './output.js'

/** Loading that takes less shows no bar. Milliseconds. */
const patience = 500

/** Checks flags against the options of the library. Throws OptionError that names the flag. */
export function checkFlags(schema: z.ZodType, values: object): void {
  try {
    check(schema, values)
  } catch (error) {
    if (error instanceof OptionError) {
      const flag = error.parameter.replace(/\..*$/, '').replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
      error.message = error.message.replace(`\`${error.parameter}\``, `\`--${flag}\``)
    }
    throw error
  }
}

/** The members that are not undefined. */
export function given<T extends object>(values: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as { [K in keyof T]?: NonNullable<T[K]> }
}

/** The options of loading among the flags, checked. */
export function loadOptionsOf(flags: ModelFlags & CacheFlags): LoadOptions {
  const { device, weights, threads, maxContext, instructionSet, pages, pageSize, admission, prefixCache } = flags
  const options = given({ device, weights, threads, maxContext, instructionSet, pages, pageSize, admission, prefixCache }) as LoadOptions
  checkFlags(loadOptions, options)
  return options
}

/** The options of a request among the flags, checked. */
export function samplingOf(flags: SamplingFlags): SamplingFlags {
  const { maxNewTokens, temperature, topK, topP, minP, repetitionPenalty, seed, stop } = flags
  const sampling: SamplingFlags = given({ maxNewTokens, temperature, topK, topP, minP, repetitionPenalty, seed, stop })
  checkFlags(generateOptions, sampling)
  return sampling
}

/** The model that was named; else the one that ships with ewe, and a line on stderr that says so. */
export function chosenModel(named: string | undefined, how: string): string {
  if (named !== undefined) return named
  const shipped = shippedModel()
  note(`using the small model that ships with ewe, ${basename(shipped)}; name another with ${how}`)
  return shipped
}

/** Loads a model, with a bar on a terminal when it takes long. */
export async function openModel(flags: ModelFlags, options: LoadOptions, signal: AbortSignal): Promise<Model> {
  const model = chosenModel(flags.model, '--model FOLDER or --model org/name')
  const bar = process.stderr.isTTY ? await loadingBar() : undefined
  try {
    return await Model.load(model, { ...options, signal, ...(bar === undefined ? {} : { onProgress: bar.show }) })
  } finally {
    bar?.stop()
  }
}

async function loadingBar(): Promise<{ show: (progress: { done: number; total: number }) => void; stop: () => void }> {
  const { default: progress } = await import('cli-progress')
  const format = 'loading [{bar}] {percentage} % of {size}'
  const manners = { stream: process.stderr, clearOnComplete: true, hideCursor: true, gracefulExit: false } // Ctrl-C is dealt with elsewhere
  const bar = new progress.SingleBar({ format, ...manners }, progress.Presets.legacy)
  const started = performance.now()
  return {
    show({ done, total }) {
      if (bar.isActive) bar.update(done)
      else if (performance.now() - started > patience) bar.start(total, done, { size: formatBytes(total) })
    },
    stop: () => bar.stop(),
  }
}
