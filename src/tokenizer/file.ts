import { join } from 'node:path'
import { TokenizerError } from '../errors.js'
import { TEXT_BYTES, bytesOf } from './bytes.js'
import { isObject, readJson, show, type JsonObject } from './json.js'

/** Most bytes of a tokenizer.json: several times that of the largest vocabulary in use for these models. */
const FILE_LIMIT = 16 * 2 ** 20
/** Ids lie below this, so that a table over all ids stays small. */
const ID_LIMIT = 2 ** 20

/** A token that is cut out of the text before anything else sees it. */
export interface AddedToken {
  id: number
  content: string
  special: boolean
  single_word: boolean
  lstrip: boolean
  rstrip: boolean
  normalized: boolean
}

/** A tokenizer.json after its checks: byte-level BPE and nothing else. */
export interface TokenizerFile {
  file: string
  /** Entries of the model, as characters of the byte alphabet, with their ids. */
  vocab: ReadonlyMap<string, number>
  /** In the order of the file. */
  added: readonly AddedToken[]
  /** A tokenizer.json without special tokens: for the encoding of text in which nothing is special. */
  plain: string
}

/**
 * Reads and checks `tokenizer.json`. The library that encodes may abort on what it does not expect, so it is handed a new file built from checked
 * values only, and only of the kinds named here.
 *
 * @throws TokenizerError that names the file and what is wrong in it.
 */
export async function readTokenizerFile(dir: string, addPrefixSpace: boolean | undefined): Promise<TokenizerFile> {
  const file = join(dir, 'tokenizer.json')
  const json = await readJson(file, FILE_LIMIT)
  if (json === undefined) {
    throw new TokenizerError(`${file}: no such file. A model folder needs one; save_pretrained() of transformers' AutoTokenizer writes it`)
  }
  const refuse: Refuse = (what) => new TokenizerError(`${file}: ${what}`)
  const model = checkModel(json.model, refuse)
  const vocab = checkVocab(model.vocab, refuse)
  const added = checkAdded(json.added_tokens, vocab, refuse)
  checkAlphabet(vocab, added, refuse)
  if (!isObject(json.decoder) || json.decoder.type !== 'ByteLevel') throw notByteLevel('decoder', json.decoder, refuse)
  checkPostProcessor(json.post_processor, refuse)

  const kept = added.filter((token) => !token.special)
  const plain = JSON.stringify({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: kept,
    normalizer: checkNormalizer(json.normalizer, refuse),
    pre_tokenizer: checkPreTokenizer(json.pre_tokenizer, addPrefixSpace, refuse),
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: {
      type: 'BPE',
      dropout: null,
      // Every byte of UTF-8 has its entry, so nothing is ever unknown.
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: model.ignore_merges === true,
      // The library numbers added tokens anew from the vocabulary's end on. Those whose place depended on a special one keep their id as entries of
      // the vocabulary; no merge leads to them there.
      vocab: Object.fromEntries([...vocab, ...kept.map((token): [string, number] => [token.content, token.id])]),
      merges: checkMerges(model.merges, vocab, refuse)
    }
  })
  return { file, vocab, added, plain }
}

type Refuse = (what: string) => TokenizerError

function notByteLevel(key: string, value: unknown, refuse: Refuse): TokenizerError {
  const found = isObject(value) ? `type ${show(value.type)}` : show(value)
  return refuse(`\`${key}\` is ${found}: not a byte-level BPE tokenizer as GPT-NeoX and GPT-J have, which is the only kind that ewe runs`)
}

function checkModel(model: unknown, refuse: Refuse): JsonObject {
  // Files from before the type was written down have none.
  if (!isObject(model) || (model.type !== undefined && model.type !== 'BPE')) throw notByteLevel('model', model, refuse)
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix', 'byte_fallback', 'dropout']) {
    const value = model[key]
    if (value !== undefined && value !== null && value !== '' && value !== false && value !== 0) {
      throw refuse(`\`model.${key}\` is ${show(value)}: ewe runs byte-level BPE without it`)
    }
  }
  return model
}

function checkVocab(vocab: unknown, refuse: Refuse): Map<string, number> {
  if (!isObject(vocab)) throw refuse(`expected an object for \`model.vocab\` but found ${show(vocab)}`)
  const checked = new Map<string, number>()
  const owners = new Map<number, string>()
  for (const [entry, id] of Object.entries(vocab)) {
    if (entry === '') throw refuse('`model.vocab` has an empty entry')
    if (!isId(id)) throw refuse(`\`model.vocab\` gives ${show(entry)} the id ${show(id)}: expected a whole number from 0 to ${ID_LIMIT - 1}`)
    const owner = owners.get(id)
    if (owner !== undefined) throw refuse(`\`model.vocab\` gives the id ${id} to both ${show(owner)} and ${show(entry)}`)
    owners.set(id, entry)
    checked.set(entry, id)
  }
  const missing = TEXT_BYTES.filter((character) => !checked.has(character))
  if (missing.length > 0) throw refuse(`\`model.vocab\` lacks ${missing.length} bytes of UTF-8 (${show(missing[0])} is the first): not byte-level`)
  return checked
}

function checkAdded(list: unknown, vocab: ReadonlyMap<string, number>, refuse: Refuse): AddedToken[] {
  if (!Array.isArray(list)) throw refuse(`expected an array for \`added_tokens\` but found ${show(list)}`)
  const seen = new Set<string>()
  const taken = new Set(vocab.values())
  let last = -1
  return list.map((token: unknown, index) => {
    const at = `added_tokens[${index}]`
    if (!isAddedToken(token)) throw refuse(`\`${at}\` is not a token with an id from 0 to ${ID_LIMIT - 1}, a content and five flags`)
    const { id, content, special, single_word, lstrip, rstrip, normalized } = token
    if (content === '' || /\p{Surrogate}/u.test(content)) throw refuse(`\`${at}\` has content ${show(content)}, which no text can hold`)
    if (seen.has(content)) throw refuse(`\`${at}\` repeats ${show(content)}`)
    seen.add(content)
    // The library that models are trained with ignores the id in the file and counts on from the vocabulary: any other id here is wrong.
    const known = vocab.get(content)
    const expected = known ?? Math.max(last + 1, vocab.size)
    if (id !== expected) throw refuse(`\`${at}\` gives ${show(content)} the id ${id}, but its place in the vocabulary is ${expected}`)
    if (known === undefined && taken.has(id)) throw refuse(`\`${at}\` gives ${show(content)} the id ${id} of another entry of \`model.vocab\``)
    last = Math.max(last, id)
    if (special && (single_word || lstrip || rstrip)) {
      throw refuse(`\`${at}\`: the special token ${show(content)} has \`single_word\`, \`lstrip\` or \`rstrip\` set, which ewe does not support`)
    }
    return { id, content, special, single_word, lstrip, rstrip, normalized }
  })
}

function isAddedToken(token: unknown): token is AddedToken {
  if (!isObject(token) || !isId(token.id) || typeof token.content !== 'string') return false
  return ['special', 'single_word', 'lstrip', 'rstrip', 'normalized'].every((flag) => typeof token[flag] === 'boolean')
}

function isId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < ID_LIMIT
}

function checkAlphabet(vocab: ReadonlyMap<string, number>, added: readonly AddedToken[], refuse: Refuse): void {
  const contents = new Set(added.map((token) => token.content))
  for (const entry of vocab.keys()) {
    if (bytesOf(entry) === undefined && !contents.has(entry)) {
      throw refuse(`\`model.vocab\` has ${show(entry)}, which is not written in the byte alphabet of byte-level BPE`)
    }
  }
}

function checkMerges(merges: unknown, vocab: ReadonlyMap<string, number>, refuse: Refuse): Array<[string, string]> {
  if (!Array.isArray(merges)) throw refuse(`expected an array for \`model.merges\` but found ${show(merges)}`)
  return merges.map((merge: unknown, index) => {
    const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge
    const [left, right] = Array.isArray(pair) && pair.length === 2 ? (pair as unknown[]) : []
    if (typeof left !== 'string' || typeof right !== 'string') throw refuse(`\`model.merges[${index}]\` is ${show(merge)}: expected two entries`)
    for (const entry of [left, right, left + right]) {
      if (!vocab.has(entry)) throw refuse(`\`model.merges[${index}]\` needs ${show(entry)}, which \`model.vocab\` does not have`)
    }
    return [left, right]
  })
}

function checkNormalizer(normalizer: unknown, refuse: Refuse): JsonObject | null {
  if (normalizer === undefined || normalizer === null) return null
  const list = isObject(normalizer) && normalizer.type === 'Sequence' ? normalizer.normalizers : [normalizer]
  const steps: unknown[] = Array.isArray(list) ? list : [list]
  const types = steps.map((step) => {
    const type = isObject(step) ? step.type : undefined
    if (type === 'NFC' || type === 'NFD' || type === 'NFKC' || type === 'NFKD') return { type }
    throw refuse(`\`normalizer\` has ${show(type)}: ewe knows NFC, NFD, NFKC and NFKD`)
  })
  return { type: 'Sequence', normalizers: types }
}

function checkPreTokenizer(value: unknown, addPrefixSpace: boolean | undefined, refuse: Refuse): JsonObject {
  if (!isObject(value) || value.type !== 'ByteLevel') throw notByteLevel('pre_tokenizer', value, refuse)
  const { add_prefix_space: prefix, use_regex: regex = true } = value
  if (typeof prefix !== 'boolean' || typeof regex !== 'boolean') {
    throw refuse('`pre_tokenizer` needs true or false for `add_prefix_space` and `use_regex`')
  }
  if (addPrefixSpace !== undefined && addPrefixSpace !== prefix) {
    throw refuse(`\`add_prefix_space\` is ${prefix} here and ${addPrefixSpace} in tokenizer_config.json: make them the same`)
  }
  return { type: 'ByteLevel', add_prefix_space: prefix, trim_offsets: false, use_regex: regex }
}

/** Accepts what changes no ids: nothing, byte-level offsets, and a template that adds no token. */
function checkPostProcessor(value: unknown, refuse: Refuse): void {
  if (value === undefined || value === null) return
  const type = isObject(value) ? value.type : undefined
  if (isObject(value) && type === 'TemplateProcessing' && Array.isArray(value.single)) {
    if (value.single.length === 1 && isObject(value.single[0]) && 'Sequence' in value.single[0]) return
    throw refuse('`post_processor` adds tokens to every text, which ewe does not support')
  }
  if (type !== 'ByteLevel') throw refuse(`\`post_processor\` has type ${show(type)}: ewe knows ByteLevel, and TemplateProcessing that adds nothing`)
}
