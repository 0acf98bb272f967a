import { join } from 'node:path'
import { TokenizerError } from '../errors.js'
import { isObject, readJson, show, type JsonObject } from './json.js'

/** Most bytes of tokenizer_config.json and special_tokens_map.json; a chat template and a list of added tokens fit many times. */
const FILE_LIMIT = 4 * 2 ** 20

/** What the two optional files beside tokenizer.json say. */
export interface TokenNames {
  eos: string | undefined
  bos: string | undefined
  pad: string | undefined
  unk: string | undefined
  /** In the files' order. */
  additional: string[]
  /** Longest text the tokenizer was made for, in tokens, where the files give a real bound. */
  maxLength: number | undefined
  addPrefixSpace: boolean | undefined
  /** Files that name tokens, for errors. */
  files: string
}

/**
 * Reads `tokenizer_config.json` and `special_tokens_map.json`, in old and new spelling: a token is a string or an object with `content`; the further
 * special tokens are `additional_special_tokens` or `extra_special_tokens`.
 *
 * Where both files name a token, the map holds, as in transformers, unless the configuration has `added_tokens_decoder`: then that one comes first.
 *
 * @throws TokenizerError that names the file and what is wrong in it.
 */
export async function readTokenNames(dir: string): Promise<TokenNames> {
  const configFile = join(dir, 'tokenizer_config.json')
  const mapFile = join(dir, 'special_tokens_map.json')
  const config = (await readJson(configFile, FILE_LIMIT)) ?? {}
  const map = (await readJson(mapFile, FILE_LIMIT)) ?? {}
  const configNames = namesIn(config, configFile)
  const mapNames = namesIn(map, mapFile)
  const [first, second] = config.added_tokens_decoder === undefined ? [mapNames, configNames] : [configNames, mapNames]
  return {
    eos: first.eos ?? second.eos,
    bos: first.bos ?? second.bos,
    pad: first.pad ?? second.pad,
    unk: first.unk ?? second.unk,
    additional: first.additional ?? second.additional ?? [],
    maxLength: maxLength(config.model_max_length, configFile),
    addPrefixSpace: optionalBoolean(config.add_prefix_space, configFile),
    files: `${configFile} or ${mapFile}`
  }
}

function namesIn(json: JsonObject, file: string) {
  const token = (key: string): string | undefined => (json[key] === undefined || json[key] === null ? undefined : content(json[key], key, file))
  const list = json.additional_special_tokens ?? json.extra_special_tokens
  return {
    eos: token('eos_token'),
    bos: token('bos_token'),
    pad: token('pad_token'),
    unk: token('unk_token'),
    additional: list === undefined || list === null ? undefined : contents(list, file)
  }
}

function contents(list: unknown, file: string): string[] {
  // Some versions write the further tokens as { name: token }.
  const tokens: unknown = isObject(list) ? Object.values(list) : list
  if (!Array.isArray(tokens)) throw new TokenizerError(`${file}: expected an array of special tokens but found ${show(list)}`)
  return tokens.map((token, index) => content(token, `additional_special_tokens[${index}]`, file))
}

function content(token: unknown, key: string, file: string): string {
  const text = isObject(token) ? token.content : token
  if (typeof text !== 'string' || text === '') throw new TokenizerError(`${file}: expected a token for \`${key}\` but found ${show(text)}`)
  return text
}

function maxLength(value: unknown, file: string): number | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'number' || value < 1) {
    throw new TokenizerError(`${file}: expected a count of tokens for \`model_max_length\` but found ${show(value)}`)
  }
  // transformers writes 1e30 for "no bound".
  return Number.isSafeInteger(value) && value <= 2 ** 31 ? value : undefined
}

function optionalBoolean(value: unknown, file: string): boolean | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'boolean') throw new TokenizerError(`${file}: expected true or false for \`add_prefix_space\` but found ${show(value)}`)
  return value
}
