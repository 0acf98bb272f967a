import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ewe, onTerminal } from './run.js'

const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }
const withoutAddon = { EWE_NATIVE: '/gone/ewe.node' }

test('help and version need no addon', async () => {
  for (const words of [['--help'], ['help'], ...['generate', 'chat', 'inspect', 'doctor', 'build'].map((command) => [command, '--help'])]) {
    const { code, stdout, stderr } = await ewe(words, '', withoutAddon)
    assert.is(code, 0, words.join(' '))
    assert.match(stdout, /^Usage: ewe /)
    assert.is(stderr, '')
  }
  assert.equal(await ewe(['--version'], '', withoutAddon), { code: 0, signal: null, stdout: `${version}\n`, stderr: '' })
})

test('without a command the help goes to stderr, with the code of wrong usage', async () => {
  const { code, stdout, stderr } = await ewe([])
  assert.is(code, 2)
  assert.is(stdout, '')
  assert.match(stderr, /^Usage: ewe /)
})

function noNumbers(flag: string, texts: string[], expected: RegExp): [string[], RegExp][] {
  return texts.map((text) => [['generate', flag, text, 'x'], expected])
}

const wrong: [string[], RegExp][] = [
  [['generat'], /unknown command 'generat' \(Did you mean generate\?\) See ewe --help\./],
  [['generate', '--tempature', '1', 'x'], /unknown option '--tempature' \(Did you mean --temperature\?\) See ewe generate --help\./],
  [['generate', 'What', 'is'], /too many arguments for 'generate'.* See ewe generate --help\./],
  [['generate', '--seed'], /option '--seed <number>' argument missing\. See ewe generate --help\./],
  [['chat', 'hello'], /too many arguments/],
  [['build', '--tool', 'bazel'], /argument 'bazel' is invalid\. Allowed choices are cmake, gyp\./],
  ...noNumbers('--top-k', ['12abc', '', '-1', '1.5', '0x10', '1e3', '9007199254740993', ' 7'], /'--top-k <count>' .* Expected a whole number\./),
  ...noNumbers('--temperature', ['1x', '', 'NaN', 'Infinity', '0x1', '1,5', '1e999'], /'--temperature <number>' .* Expected a number\./),
  ...noNumbers('--seed', ['-1', '1.5', 'abc', '123456789012345678901'], /'--seed <number>' .* Expected a whole number\./),
  [['generate', '--seed', '18446744073709551616', 'x'], /`--seed` but received 18446744073709551616/],
  [['generate', '--temperature', '-1', 'x'], /Expected a number at least 0 for `--temperature` but received -1/],
  [['generate', '--top-p', '0', 'x'], /Expected a number at least 0.000001 for `--top-p` but received 0/],
  [['generate', '--min-p', '2', 'x'], /Expected a number at most 1 for `--min-p` but received 2/],
  [['generate', '--max-new-tokens', '0', 'x'], /`--max-new-tokens` but received 0/],
  [['generate', '--repetition-penalty', '0', 'x'], /`--repetition-penalty` but received 0/],
  [['generate', '--n', '0', 'x'], /`--n` but received 0/],
  [['generate', '--stop', '', 'x'], /`--stop` but received/],
  [['generate', '--threads', '0', 'x'], /`--threads` but received 0/],
  [['generate', '--device', 'tpu', 'x'], /'cuda:N', 'emulator' or 'emulator:PATH' \(700, 750, 800 or 900\) for `--device` but received "tpu"/],
  [['generate', '--weights', 'int3', 'x'], /one of auto, float32, bfloat16, float16, int8 for `--weights` but received "int3"/],
  [['generate', '--instruction-set', 'sse', 'x'], /`--instruction-set` but received "sse"/],
  [['chat', '--max-context', '0'], /`--max-context` but received 0/],
  [['generate', '--logprobs', '1', 'x'], /Expected it beside --logprobs for `--json`/],
  [['generate', '--json', '--logprobs', '21', 'x'], /`--logprobs` but received 21/],
  [['generate', '--raw', '--input', 'a', 'x'], /Expected nothing beside --raw for `--input`/],
  [['generate', '--raw', '--system', 'a', 'x'], /Expected nothing beside --raw for `--system`/],
  [['generate', '--input', '-'], /because stdin is the instruction/],
  [['generate', ''], /a text that is not empty/],
  [['generate', ' \n'], /a text that is not empty/],
]

test('wrong usage ends with code 2 and one line, before any model is looked for', async () => {
  for (const [words, expected] of wrong) {
    const { code, stdout, stderr } = await ewe(words, '', withoutAddon)
    assert.is(code, 2, words.join(' '))
    assert.is(stdout !== '', words.includes('--json'), words.join(' '))
    assert.match(stderr, expected)
    assert.match(stderr, /^ewe: [^\n]* \[EWE_OPTION\]\n$/)
  }
})

test('with --json an error is JSON on stdout too, whatever was wrong', async () => {
  for (const [words, expected, code] of [
    [['generate', '--json', '--top-p', '7', 'x'], 'EWE_OPTION', 2],
    [['generate', '--json', '--nonsense'], 'EWE_OPTION', 2],
    [['generate', '--json', '--model', '/gone', 'x'], 'EWE_MODEL_NOT_FOUND', 1],
    [['inspect', '--json', 'test'], 'EWE_CHECKPOINT', 1],
  ] as const) {
    const result = await ewe(words)
    const { error } = JSON.parse(result.stdout) as { error: { code: string; message: string } }
    assert.is(result.code, code)
    assert.is(error.code, expected)
    assert.ok(result.stderr.includes(error.message.split('\n')[0] ?? ''), result.stderr)
  }
})

test('a model that is not there says where it was looked for and how to get it', async () => {
  const { code, stdout, stderr } = await ewe(['generate', '--model', 'org/gone', 'x'], '', { HF_HUB_CACHE: '/gone/hub' })
  assert.is(code, 1)
  assert.is(stdout, '')
  assert.match(stderr, /^ewe: There is no copy of org\/gone on this machine.* \[EWE_MODEL_NOT_FOUND\]\n/)
  assert.match(stderr, /\/gone\/hub\/models--org--gone/)
  assert.match(stderr, /hf download org\/gone/)
})

test('a missing addon says what helps; the stack comes with --verbose only', async () => {
  const { code, stderr } = await ewe(['generate', 'x'], '', withoutAddon)
  assert.is(code, 1)
  assert.match(stderr, /\newe: The native addon of ewe could not be loaded .* \[EWE_NATIVE\]\n {2}tried \/gone\/ewe\.node: no such file\n/)
  assert.not.match(stderr, /\n {4}at /)
  assert.match((await ewe(['generate', '--verbose', 'x'], '', withoutAddon)).stderr, /\n {4}at .*loadNative/)
})

test('doctor is wired in, in words and as JSON', async () => {
  const { code, stdout } = await ewe(['doctor'])
  assert.is(code, 0)
  assert.match(stdout, /Text can be generated on the CPU/)
  const { ok, addon } = JSON.parse((await ewe(['doctor', '--json'], '', withoutAddon)).stdout) as { ok: boolean; addon: { cause: string } }
  assert.is(ok, false)
  assert.is(addon.cause, 'no such file')
})

test('colours appear on a terminal only, and NO_COLOR turns them off', async () => {
  const error = ['generate', '--model', '/gone', 'x']
  const plain = { FORCE_COLOR: undefined, NO_COLOR: undefined, CI: undefined, TERM: 'xterm-256color' }
  assert.ok((await onTerminal(error, plain).ended).stdout.startsWith('\x1b[31mewe:\x1b[0m There is no model'))
  assert.match((await onTerminal(error, { ...plain, NO_COLOR: '1' }).ended).stdout, /^ewe: There is no model/)
  assert.match((await ewe(error, '', plain)).stderr, /^ewe: There is no model/)
})

test.run()
