import type { Slot } from '../native.js'

/** Where a value stands in config.json, most telling name first (dotted inside objects), and what holds where none is stated. */
export interface Key<T> {
  names: readonly string[]
  fallback: T
}

/** One architecture as data: what its config.json calls things, what its tensors are called, and how they are laid out. */
export interface Family {
  /** The name that ewe prints. */
  name: string
  /** `model_type` and the entry of `architectures`. */
  modelType: string
  architecture: string

  keys: {
    vocab: Key<number>
    hidden: Key<number>
    layers: Key<number>
    heads: Key<number>
    inner: Key<number | 'four times hidden'>
    maxPositions: Key<number>
    activation: Key<string>
    /** Rotated components per head: a number, or a share of the head. */
    rotarySize?: Key<number>
    rotaryShare?: Key<number>
    rotaryBase: Key<number>
    normEps: Key<number>
    parallel: Key<boolean>
    attentionBias: Key<boolean>
    tied: Key<boolean>
    initializerRange: Key<number>
    bosTokenId: Key<number | undefined>
    eosTokenId: Key<number | undefined>
    padTokenId: Key<number | undefined>
  }
  /** Keys whose null is no "absent" but a model that ewe cannot run, and why. */
  notNull: Readonly<Record<string, string>>
  /** Objects that may change the rotation beyond its base and share: only `rope_type` (or `type`) "default" is run. */
  rotaryKinds: readonly string[]

  /** Which components are rotated together: j and j + r/2 of the first r, or 2j and 2j + 1. */
  rotaryStyle: 'half' | 'interleaved'
  /** Whether attention and MLP of a layer read one norm. */
  sharedNorm: boolean

  /** Before every tensor name but those of the head; files saved from the bare model lack it. */
  prefix: string
  /** Tensors outside the layers. */
  tensors: Readonly<Partial<Record<Slot, string>>>
  /** Tensors of each layer, with N for its number. The projection of queries, keys and values may be three tensors. */
  layerTensors: Readonly<Partial<Record<Slot, string | readonly [string, string, string]>>>
  /**
   * Rows of the projection: `perHead` one tensor with query, key and value of head 0, then of head 1, ...; `stacked` one tensor with all queries, all
   * keys, all values; `separate` three tensors.
   */
  qkvLayout: 'perHead' | 'stacked' | 'separate'
  /** Names of the head matrix, without prefix. */
  head: readonly string[]
  headBias?: string
  /** Endings of tensors that carry no weights (masks and tables of old versions), as whole dotted parts. */
  ignored: readonly string[]
}
