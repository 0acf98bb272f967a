// node build-test/test/fuzz/config.js --count 100000 --seed 1
import { gptjConfig, gptjShapes, layout, neoxConfig, neoxShapes, safetensors } from '../checkpoint/build.js'
import type { Files } from '../checkpoint/build.js'
import { EDGES, fuzz, main, mutate, mutateJson } from './harness.js'
import type { Case, FuzzOptions, FuzzResult, Random } from './harness.js'

const KEYS = [
  'vocab_size',
  'hidden_size',
  'num_hidden_layers',
  'num_attention_heads',
  'intermediate_size',
  'hidden_act',
  'rotary_pct',
  'rotary_emb_base',
  'rope_scaling',
  'rope_parameters',
  'rope_theta',
  'max_position_embeddings',
  'layer_norm_eps',
  'use_parallel_residual',
  'attention_bias',
  'tie_word_embeddings',
  'initializer_range',
  'bos_token_id',
  'eos_token_id',
  'pad_token_id',
  'n_embd',
  'n_layer',
  'n_head',
  'n_positions',
  'rotary_dim',
  'n_inner',
  'activation_function',
  'layer_norm_epsilon',
  'torch_dtype',
  'dtype',
  'architectures',
  'model_type',
  'quantization_config',
  'auto_map',
  '__proto__',
  'constructor',
  '',
]
const VALUES = [
  ...EDGES,
  '"gelu"',
  '"gelu_new"',
  '"relu"',
  '"gptj"',
  '"gpt_neox"',
  '["GPTJForCausalLM"]',
  '["GPTNeoXForCausalLM"]',
  '{"rope_type":"default"}',
  '{"rope_theta":1e4}',
  '{"type":"linear","factor":2.0}',
  '{"rope_type":"default","partial_rotary_factor":1.0}',
  '[1,2,3]',
  '[0]',
  'false',
  '4',
  '6',
  '8',
  '12',
  '16',
  '0.25',
  '0.5',
  '1.0',
  '1e-5',
]
const GENERATION = [
  'bos_token_id',
  'eos_token_id',
  'pad_token_id',
  'do_sample',
  'temperature',
  'top_k',
  'top_p',
  'repetition_penalty',
  'max_new_tokens',
  'max_length',
]

const bases: { config: object; weights: Buffer }[] = [
  { config: { ...neoxConfig, num_hidden_layers: 1 }, weights: safetensors(layout(neoxShapes('gpt_neox.', 1))) },
  { config: gptjConfig, weights: safetensors(layout(gptjShapes())) },
]

function make(random: Random): Case {
  const { config, weights } = random.pick(bases)
  const text = JSON.stringify(config)
  const files: Files = { 'config.json': text, 'model.safetensors': weights }
  switch (random.below(8)) {
    case 0:
      return { files: scaled(random), valid: true }
    case 1:
      return { files: { ...files, 'config.json': mutate(random, Buffer.from(text)) } }
    case 2:
      return { files: { ...files, 'config.json': mutateJson(random, text) } }
    case 3:
      return { files: { ...files, 'generation_config.json': members(random, GENERATION, 4) } }
    case 4:
      return { files: { 'config.json': text, 'shard.safetensors': weights, 'model.safetensors.index.json': index(random) } }
    case 5:
      return { files: { ...files, 'config.json': members(random, KEYS, 30) } }
    default:
      // What stands first counts where a reader takes the first of two, so the change goes to both ends.
      return { files: { ...files, 'config.json': changed(random, config) } }
  }
}

/** A JSON object of these keys, some of them twice. */
function members(random: Random, keys: readonly string[], most: number): string {
  const list = Array.from({ length: random.below(most) }, () => `${JSON.stringify(random.pick(keys))}:${random.pick(VALUES)}`)
  return `{${list.join(',')}}`
}

function changed(random: Random, config: object): string {
  const entries = new Map(Object.entries(config).map(([key, value]) => [key, JSON.stringify(value)]))
  for (let times = 1 + random.below(3); times > 0; times--) entries.set(random.pick(KEYS), random.pick(VALUES))
  return `{${Array.from(entries, ([key, value]) => `${JSON.stringify(key)}:${value}`).join(',')}}`
}

function index(random: Random): string {
  const map = Object.fromEntries(Object.keys(neoxShapes('gpt_neox.', 1)).map((name) => [name, 'shard.safetensors']))
  const text = JSON.stringify({ metadata: { total_size: 8 }, weight_map: map })
  if (random.chance(0.2))
    return text.replace(
      'shard.safetensors',
      random.pick(['../shard.safetensors', '/etc/passwd', '.', '', 'config.json', 'other', '\\\\x', 'a\\u0000b']),
    )
  return random.chance(0.5) ? mutateJson(random, text) : mutate(random, Buffer.from(text)).toString('latin1')
}

/** A small model of random sizes with the files that belong to it. */
function scaled(random: Random): Files {
  const heads = 1 + random.below(4)
  const headSize = 2 * (1 + random.below(4))
  const hidden = heads * headSize
  const vocab = 1 + random.below(20)
  const inner = 1 + random.below(20)
  // A size of the small models above (8 wide, 24 for the projection, 12 or 32 inside, 6 tokens) -> the one here.
  const resize = (sizes: Record<number, number>, shapes: Record<string, number[]>) =>
    Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, shape.map((size) => sizes[size] ?? size)]))
  if (random.chance(0.5)) {
    const layers = 1 + random.below(3)
    const sizes = { num_hidden_layers: layers, hidden_size: hidden, num_attention_heads: heads, vocab_size: vocab, intermediate_size: inner }
    const config = { ...neoxConfig, ...sizes, rotary_pct: 1, use_parallel_residual: random.chance(0.5) }
    const shapes = resize({ 8: hidden, 24: 3 * hidden, 12: inner, 6: vocab }, neoxShapes('gpt_neox.', layers))
    return { 'config.json': JSON.stringify(config), 'model.safetensors': safetensors(layout(shapes)) }
  }
  const config = { ...gptjConfig, n_embd: hidden, n_head: heads, vocab_size: vocab, n_inner: inner, rotary_dim: 2 }
  return { 'config.json': JSON.stringify(config), 'model.safetensors': safetensors(layout(resize({ 8: hidden, 32: inner, 6: vocab }, gptjShapes()))) }
}

export function fuzzConfig(options: FuzzOptions): Promise<FuzzResult> {
  return fuzz(options, make)
}

if (process.argv[1]?.endsWith('fuzz/config.js')) await main('config', fuzzConfig)
