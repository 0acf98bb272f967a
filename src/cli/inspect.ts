import { readdir, stat } from 'node:fs/promises'
import { basename, join, relative } from 'node:path'
import { readCheckpoint, type Checkpoint } from '../checkpoint/checkpoint.js'
import { resolveModel } from '../checkpoint/hub.js'
import { NativeError } from '../errors.js'
import { loadNative, type DTypeName, type WeightsName } from '../native.js'
import { check, loadOptions } from '../options.js'
import { chooseTemplate } from '../prompts.js'
import { Tokenizer } from '../tokenizer/tokenizer.js'
import type { CommonFlags } from './flags.js'
import { chosenModel } from './open.js'
import { exitCodes, formatBytes, formatCount, interruptible, table, writeJson } from './output.js'

const dtypes: Record<WeightsName, number> = { float32: 4, bfloat16: 2, float16: 2, int8: 1 }
const sideFiles = ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json']
const indexFiles = ['model.safetensors.index.json', 'pytorch_model.bin.index.json']

/** `ewe inspect`: what a model folder holds and how much memory it takes. Reads no weights. Returns the exit code. */
export async function inspect(named: string | undefined, flags: CommonFlags): Promise<number> {
  return await interruptible(async (signal) => {
    const dir = await resolveModel(chosenModel(named, 'ewe inspect FOLDER or ewe inspect org/name'))
    const checkpoint = await readCheckpoint(dir, { signal })
    const names = await readdir(dir)
    const tokenizer = names.includes('tokenizer.json') ? await Tokenizer.load(dir) : undefined
    const weightFiles = checkpoint.native.files.map((file) => relative(dir, file))
    const listed = [...[...sideFiles, ...indexFiles].filter((name) => names.includes(name)), ...weightFiles]
    const files = await Promise.all(listed.map(async (name) => ({ name, bytes: (await stat(join(dir, name))).size })))
    const report = describe(checkpoint, tokenizer, files)
    if (flags.json === true) writeJson(report, 2)
    else process.stdout.write(`${show(report)}\n`)
    return exitCodes.ok
  })
}

type Report = ReturnType<typeof describe>

function describe(checkpoint: Checkpoint, tokenizer: Tokenizer | undefined, files: { name: string; bytes: number }[]) {
  const { dir, spec, generation, dtype, parameters, tensorsBytes } = checkpoint
  const template = tokenizer === undefined ? undefined : chooseTemplate(tokenizer)
  return {
    folder: dir,
    config: spec,
    weights: { dtype, storedDtypes: storedDtypes(checkpoint), parameters, bytes: tensorsBytes },
    tokenizer: tokenizer === undefined ? null : tokenizerReport(tokenizer),
    endIds: [...new Set([...(template?.endIds ?? []), ...spec.eosTokenIds, ...(generation.eosTokenIds ?? [])])],
    generation,
    memory: memoryByDtype(checkpoint),
    files,
  }
}

function tokenizerReport(tokenizer: Tokenizer) {
  return { entries: tokenizer.vocabSize, specialTokens: Object.fromEntries(tokenizer.specialTokens), template: chooseTemplate(tokenizer).name }
}

/** Tensors of each dtype in the files. */
function storedDtypes({ native }: Checkpoint): Partial<Record<DTypeName, number>> {
  const counts: Partial<Record<DTypeName, number>> = {}
  const placed = native.placements.flatMap((placement) => placement.tensors)
  const tensors = new Map(placed.map(({ file, offset, dtype }) => [`${file} ${offset}`, dtype]))
  for (const dtype of tensors.values()) counts[dtype] = (counts[dtype] ?? 0) + 1
  return counts
}

/** Bytes by part with one sequence at full context, for each dtype of weights; without the addon just those of the weights, and why. */
function memoryByDtype({ spec, native, parameters }: Checkpoint): { byDtype: Record<string, Record<string, number>>; missing?: string } {
  const names = Object.keys(dtypes) as WeightsName[]
  const { pageSize, chunk, instructionSet } = check(loadOptions, {})
  const options = { device: 'cpu', instructionSet, threads: 0, maxContext: spec.maxPositions, maxBatch: 1, pageSize, pages: 0, stepRows: chunk, maxQueue: 1, prefixCache: true, reserve: false }
  try {
    const addon = loadNative()
    return { byDtype: Object.fromEntries(names.map((weights) => [weights, addon.layout(native.spec, { ...options, weights })])) }
  } catch (error) {
    if (!(error instanceof NativeError)) throw error
    const [missing = ''] = error.message.split('\n')
    const in16Bits = (spec.tied ? 1 : 2) * spec.vocab * spec.hidden // of an int8 model: the input table and the head
    const bytes = (weights: WeightsName): number => parameters * dtypes[weights] + (weights === 'int8' ? in16Bits : 0)
    return { byDtype: Object.fromEntries(names.map((weights) => [weights, { weights: bytes(weights) }])), missing }
  }
}

function show({ folder, config, weights, tokenizer, endIds, generation, memory, files }: Report): string {
  const count = (value: number): string => value.toLocaleString('en-US')
  const heads = config.kvHeads === config.heads ? `${config.heads}` : `${config.heads} (${config.kvHeads} for keys and values)`
  const stored = Object.entries(weights.storedDtypes).map(([dtype, tensors]) => `${dtype} (${tensors} tensors)`)
  const special = Object.entries(tokenizer?.specialTokens ?? {}).map(([text, id]) => `${JSON.stringify(text)} ${id}`)
  const defaults = Object.entries(generation).map(([name, value]) => `${name} ${Array.isArray(value) ? value.join(', ') : String(value)}`)
  const facts = [
    ['folder', folder],
    ['family', `${config.family}${config.modelType === 'gpt_neox' ? `, ${config.parallel ? 'parallel' : 'sequential'} residual` : ''}`],
    ['parameters', `${count(weights.parameters)} (${formatCount(weights.parameters)})`],
    ['weights', `${formatBytes(weights.bytes)}, ${stored.join(', ')}`],
    ['layers', `${config.layers}, width ${count(config.hidden)}, MLP ${count(config.inner)} (${config.activation})`],
    ['heads', `${heads} of ${config.headSize}, ${config.rotarySize} of them rotated (${config.rotaryStyle}, base ${count(config.rotaryBase)})`],
    ['positions', count(config.maxPositions)],
    ['vocabulary', `${count(config.vocab)} rows, ${config.tied ? 'input table shared with the head' : 'a head of its own'}`],
    ['tokenizer', tokenizer === null ? 'none: this model takes token ids only' : `${count(tokenizer.entries)} entries`],
    ['special tokens', special.join(', ') || 'none'],
    ['template', tokenizer?.template ?? 'none'],
    ['ends at ids', endIds.join(', ') || 'none'],
    ['generation', defaults.join(', ') || 'no defaults'],
  ]
  const rows = Object.entries(memory.byDtype).map(([dtype, { weights: matrices = 0, embedding = 0, vectors = 0, cache = 0, total }]) => {
    const weightBytes = matrices + embedding + vectors
    const others = total === undefined ? [] : [cache, total - weightBytes - cache, total]
    return [`  ${dtype}`, ...[weightBytes, ...others].map(formatBytes)]
  })
  return [
    table(facts),
    '',
    `memory on the CPU by dtype of the weights, one sequence of ${count(config.maxPositions)} tokens`,
    table([['  dtype', 'weights', ...(memory.missing === undefined ? ['cache', 'work', 'all'] : [])], ...rows]),
    ...(memory.missing === undefined ? [] : [`  weights only, computed from their number: ${memory.missing}`]),
    '',
    'files',
    table(files.map(({ name, bytes }) => [`  ${basename(name) === name ? name : JSON.stringify(name)}`, formatBytes(bytes)])),
  ].join('\n')
}
