import { CheckpointError } from '../errors.js'
import type { NativeSpec } from '../native.js'
import { families } from './families.js'
import type { Family, Key } from './family.js'
import { describe } from './values.js'
import type { Values } from './values.js'

/** The architecture of a model: what its config.json says, checked. */
export interface ModelSpec extends NativeSpec {
  /** As ewe prints it: GPT-NeoX, GPT-J. */
  family: string
  /** `model_type` of config.json. */
  modelType: string
  rotaryStyle: Family['rotaryStyle']
  /** Whether the head is the input table. */
  tied: boolean
  /** Whether the projections of the attention have biases. */
  attentionBias: boolean
  hasHeadBias: boolean
  /** Standard deviation of fresh weights. */
  initializerRange: number
  bosTokenId: number | undefined
  /** Every id that ends a text. */
  eosTokenIds: number[]
  padTokenId: number | undefined
  /** What `torch_dtype` or `dtype` says. The tensors decide, not this. */
  statedDtype: string | undefined
}

/** Far above any model, and low enough that native sizes cannot overflow. */
const MOST = { vocab: 2 ** 26, hidden: 2 ** 20, layers: 2 ** 14, heads: 2 ** 16, inner: 2 ** 24, positions: 2 ** 24 }

const ACTIVATIONS: ReadonlyMap<string, NativeSpec['activation']> = new Map([
  ['gelu', 'gelu'],
  ['gelu_python', 'gelu'],
  ['gelu_new', 'geluTanh'],
  ['gelu_pytorch_tanh', 'geluTanh'],
  ['gelu_python_tanh', 'geluTanh'],
  ['gelu_accurate', 'geluTanh'],
  ['gelu_fast', 'geluTanh'],
  ['gelu_10', 'geluClipped'],
  ['quick_gelu', 'quickGelu'],
  ['silu', 'silu'],
  ['swish', 'silu'],
  ['relu', 'relu'],
])

/** Reads the values of a config.json. Throws {@link CheckpointError} that names the key for whatever ewe cannot run. */
export function readConfig(values: Values): ModelSpec {
  const family = findFamily(values)
  const quantised = values.find(['quantization_config'])
  if (quantised !== undefined) refuse(values, quantised.name, 'quantised weights are not read: use the unquantised files of this model')
  for (const name of family.rotaryKinds) checkRotaryKind(values, name)
  for (const [name, why] of Object.entries(family.notNull)) if (values.raw(name) === null) refuse(values, name, why)

  const { keys } = family
  const count = (key: Key<number>, most: number): number => values.whole(key.names, 1, most) ?? key.fallback
  const flag = (key: Key<boolean>): boolean => values.flag(key.names) ?? key.fallback
  const hidden = count(keys.hidden, MOST.hidden)
  const heads = count(keys.heads, MOST.heads)
  if (hidden % heads !== 0) refuse(values, stated(values, keys.heads), `a width of ${hidden} cannot be divided into ${heads} heads`)
  const headSize = hidden / heads
  return {
    family: family.name,
    modelType: family.modelType,
    layers: count(keys.layers, MOST.layers),
    hidden,
    heads,
    kvHeads: heads,
    headSize,
    inner: readInner(values, family, hidden),
    vocab: count(keys.vocab, MOST.vocab),
    maxPositions: count(keys.maxPositions, MOST.positions),
    rotarySize: readRotarySize(values, family, headSize),
    rotaryBase: values.number(keys.rotaryBase.names, 1, 1e12) ?? keys.rotaryBase.fallback,
    rotaryStyle: family.rotaryStyle,
    parallel: flag(keys.parallel),
    sharedNorm: family.sharedNorm,
    activation: readActivation(values, keys.activation),
    normEps: values.number(keys.normEps.names, 1e-20, 1) ?? keys.normEps.fallback,
    clipQkv: 0,
    tied: flag(keys.tied),
    attentionBias: flag(keys.attentionBias),
    hasHeadBias: family.headBias !== undefined,
    initializerRange: values.number(keys.initializerRange.names, 0, 1000) ?? keys.initializerRange.fallback,
    bosTokenId: readIds(values, keys.bosTokenId)[0],
    eosTokenIds: readIds(values, keys.eosTokenId),
    padTokenId: readIds(values, keys.padTokenId)[0],
    statedDtype: values.text(['dtype', 'torch_dtype']),
  }
}

/** Unlike elsewhere, a null is a statement here: there is no such token. */
function readIds(values: Values, key: Key<number | undefined>): number[] {
  const ids = values.ids(key.names)
  if (ids !== undefined) return ids
  const isNull = key.names.some((name) => values.raw(name) === null)
  return isNull || key.fallback === undefined ? [] : [key.fallback]
}

/** By `architectures` and `model_type`; where both are stated they must agree. */
function findFamily(values: Values): Family {
  const modelType = values.text(['model_type'])
  const architectures = values.find(['architectures'])
  const known = families.map((family) => `${family.architecture} (model_type "${family.modelType}")`).join(', ')
  const family = families.find((one) => (modelType === undefined ? includes(architectures?.value, one.architecture) : one.modelType === modelType))
  if (family === undefined) {
    if (modelType !== undefined) values.fail('model_type', `one of the families that ewe runs, ${known},`, modelType)
    return values.fail('architectures', `one that ewe runs, ${known},`, architectures?.value ?? null)
  }
  if (architectures !== undefined && !includes(architectures.value, family.architecture)) {
    values.fail('architectures', `a list with ${family.architecture}`, architectures.value)
  }
  return family
}

function includes(list: unknown, item: string): boolean {
  return Array.isArray(list) && list.includes(item)
}

/** Anything that scales or otherwise changes the angles is refused. */
function checkRotaryKind(values: Values, name: string): void {
  const kind = values.find([`${name}.rope_type`, `${name}.type`])
  if (kind !== undefined && kind.value !== 'default') values.fail(kind.name, '"default", because scaled rotations are not run,', kind.value)
  const factor = values.find([`${name}.factor`])
  if (factor !== undefined && factor.value !== 1) values.fail(factor.name, 'no factor, because scaled rotations are not run,', factor.value)
}

function readInner(values: Values, family: Family, hidden: number): number {
  const { names, fallback } = family.keys.inner
  const inner = values.whole(names, 1, MOST.inner)
  if (inner !== undefined) return inner
  return fallback === 'four times hidden' ? 4 * hidden : fallback
}

function readRotarySize(values: Values, family: Family, headSize: number): number {
  const { rotarySize, rotaryShare } = family.keys
  let size = headSize
  if (rotarySize !== undefined) size = values.whole(rotarySize.names, 1, MOST.hidden) ?? rotarySize.fallback
  else if (rotaryShare !== undefined) size = Math.trunc(headSize * (values.number(rotaryShare.names, 0, 1) ?? rotaryShare.fallback))
  const key = rotarySize ?? rotaryShare
  if (size < 2 || size % 2 !== 0 || size > headSize) {
    refuse(
      values,
      key === undefined ? 'model_type' : stated(values, key),
      `rotates ${size} of ${headSize} components of a head, expected an even number from 2 on`,
    )
  }
  return size
}

function readActivation(values: Values, key: Key<string>): NativeSpec['activation'] {
  const name = values.text(key.names) ?? key.fallback
  const activation = ACTIVATIONS.get(name)
  return activation ?? values.fail(stated(values, key), `one of ${[...ACTIVATIONS.keys()].join(', ')}`, name)
}

/** The name under which the file states a value, or would. */
function stated(values: Values, key: Key<unknown>): string {
  return values.find(key.names)?.name ?? key.names.at(-1) ?? ''
}

function refuse(values: Values, name: string, why: string): never {
  const value = values.raw(name)
  const shown = value === undefined ? '' : ` (it is ${describe(value)})`
  throw new CheckpointError(`${why}${shown}`, { file: values.file, tensor: name })
}
