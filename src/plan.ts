// What the options of a load come to on this machine, before anything is loaded: device, dtype, how many sequences share a step, and how large the cache is.
import { freemem } from 'node:os'
import type { Checkpoint } from './checkpoint/checkpoint.js'
import { chooseDevice, chooseWeights } from './devices.js'
import { OptionError } from './errors.js'
import { loadNative, type NativeDevice, type NativeLoadOptions } from './native.js'
import type { loadOptions } from './options.js'

/** @throws OptionError, DeviceError. */
export function nativeOptions(checkpoint: Checkpoint, options: ReturnType<typeof loadOptions.parse>): NativeLoadOptions {
  const { spec } = checkpoint
  const maxContext = options.maxContext ?? spec.maxPositions
  if (spec.modelType === 'gptj' && maxContext > spec.maxPositions) {
    throw new OptionError('maxContext', `at most ${spec.maxPositions}, the positions this model has`, maxContext)
  }
  const device = chooseDevice(options.device)
  const base = {
    device: device.id,
    weights: chooseWeights(options.weights, checkpoint.dtype, device),
    instructionSet: options.instructionSet,
    threads: options.threads ?? 0,
    maxContext,
    pageSize: options.pageSize,
    stepRows: options.chunk,
    maxQueue: options.maxQueue,
    prefixCache: options.prefixCache,
    reserve: options.admission === 'reserve',
  }
  const sized = { ...base, maxBatch: options.maxBatch ?? defaultBatch[device.kind] }
  return { ...sized, pages: options.pages ?? defaultPages(checkpoint, sized, device) }
}

/** More sequences of a step cost a card little; a processor has done most of what they can share at 32, and an emulated card pays for every one. */
const defaultBatch = { cpu: 32, cuda: 256, emulator: 8 }

/**
 * As many as all sequences need at full context, or as fit a quarter of the free memory of the CPU, where pages are touched only when used, or nine tenths
 * of a card's memory together with everything else; but no fewer than one sequence needs.
 */
function defaultPages({ native }: Checkpoint, options: Omit<NativeLoadOptions, 'pages'>, device: NativeDevice): number {
  const layout = (pages: number): Record<string, number> => loadNative().layout(native.spec, { ...options, pages })
  const each = Math.ceil(options.maxContext / options.pageSize)
  const [least, more] = [layout(each), layout(2 * each)]
  const page = (more['cache']! - least['cache']!) / each
  const share = device.kind === 'cpu' ? freemem() / 4 : 0.9 * device.memory - (least['total']! - least['cache']!)
  return Math.max(each, Math.min(options.maxBatch * each, Math.floor(share / page)))
}
