import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ewe, longAnswer, onTerminal, shippedNote, start } from './run.js'

const japan = 'What is the capital of Japan?'
const greedy = ['--temperature', '0']

interface Output {
  text: string
  finishReason: string
  stopped: number | string
  tokens: number[]
  logprobs?: { token: number; logprob: number; top: { token: number; logprob: number }[] }[]
  samples?: { text: string; tokens: number[]; finishReason: string }[]
  promptTokens: number
  seed: string
  device: string
  weights: string
  timings: Record<'loadMs' | 'promptMs' | 'promptTokensPerSecond' | 'decodeMs' | 'decodeTokensPerSecond', number | null>
}

async function json(words: string[], input = ''): Promise<Output> {
  const { code, stdout, stderr } = await ewe(['generate', '--json', ...words], input)
  assert.is(code, 0, stderr)
  assert.is(stdout.trimEnd().split('\n').length, 1, 'JSON takes one line')
  return JSON.parse(stdout) as Output
}

test('the shipped model answers, and one line says that it is used', async () => {
  const answer = await ewe(['generate', ...greedy, japan])
  assert.equal(answer, { code: 0, signal: null, stdout: 'The capital of Japan is Tokyo.\n', stderr: shippedNote })
  const sampled = await ewe(['generate', japan])
  assert.is(sampled.code, 0)
  assert.match(sampled.stdout, /Tokyo/)
})

test('with --model nothing is said but the answer', async () => {
  const answer = await ewe(['generate', '--model', 'models/lamb', ...greedy, japan])
  assert.equal(answer, { code: 0, signal: null, stdout: 'The capital of Japan is Tokyo.\n', stderr: '' })
})

test('the instruction comes from stdin when it is missing or -', async () => {
  for (const words of [[], ['-']]) assert.is((await ewe(['generate', ...greedy, ...words], `${japan}\n`)).stdout, 'The capital of Japan is Tokyo.\n')
  const { code, stderr } = await ewe(['generate'], '\n')
  assert.is(code, 2)
  assert.match(stderr, /a text that is not empty for `instruction`/)
})

test('stdin that is no text is refused', async () => {
  const run = start(['generate'])
  run.child.stdin?.end(Buffer.from([0x57, 0xff, 0xfe]))
  const { code, stderr } = await run.ended
  assert.is(code, 2)
  assert.match(stderr, /text in UTF-8 for `stdin`/)
})

test('without an instruction on a terminal nothing waits for one', async () => {
  const { code, stdout } = await onTerminal(['generate'], { NO_COLOR: '1' }).ended
  assert.is(code, 2)
  assert.match(stdout, /Expected an argument or a text on stdin for `instruction`/)
})

test('JSON holds the reference answer and its tokens, prompt, seed and times', async () => {
  const { cases } = JSON.parse(readFileSync('test/fixtures/lamb/greedy.json', 'utf8')) as {
    cases: { instruction: string; context: string; text: string; prompt_ids: number[]; new_ids: number[]; logprobs: number[] }[]
  }
  const withInput = cases.find(({ context }) => context !== '')
  const without = cases.find(({ context }) => context === '')
  for (const one of [withInput, without]) {
    assert.ok(one)
    const input = one.context === '' ? [] : ['--input', one.context]
    const output = await json([...greedy, '--weights', 'float32', '--logprobs', '2', '--seed', '18446744073709551615', ...input, one.instruction])
    assert.is(output.text, one.text)
    assert.equal(output.tokens, one.new_ids)
    assert.is(output.promptTokens, one.prompt_ids.length)
    assert.is(output.finishReason, 'stop')
    assert.is(output.stopped, one.new_ids.at(-1))
    assert.is(output.seed, '18446744073709551615')
    assert.equal([output.device, output.weights, output.samples], ['cpu', 'float32', undefined])
    one.logprobs.forEach((expected, i) => assert.ok(Math.abs((output.logprobs?.[i]?.logprob ?? NaN) - expected) < 1e-4))
    assert.ok(output.logprobs?.every(({ top }) => top.length === 2))
    for (const time of ['loadMs', 'promptMs', 'promptTokensPerSecond'] as const) assert.ok((output.timings[time] ?? 0) > 0, time)
  }
  assert.ok(withInput)
  const piped = await json([...greedy, '--weights', 'float32', '--input', '-', withInput.instruction], withInput.context)
  assert.is(piped.text, withInput.text)
})

test('flags reach the sampler: seed, length, stop texts', async () => {
  const poem = ['--max-new-tokens', '12', 'Write a short poem about rain.']
  const first = await json(poem)
  assert.is(first.tokens.length, 12)
  assert.is(first.finishReason, 'length')
  assert.equal((await json(['--seed', first.seed, ...poem])).tokens, first.tokens)
  const stopped = await json([...greedy, '--stop', 'nothing of it', '--stop', ' is Tok', japan])
  assert.equal([stopped.text, stopped.finishReason, stopped.stopped], ['The capital of Japan', 'stop', ' is Tok'])
  const sampling = ['--top-k', '1', '--top-p', '0.5', '--min-p', '0.1', '--repetition-penalty', '1.0001']
  const others = await json([...sampling, '--threads', '1', '--max-context', '64', '--instruction-set', 'plain', japan])
  assert.is(others.text, 'The capital of Japan is Tokyo.')
})

test('several answers are told apart', async () => {
  const words = ['--n', '3', '--seed', '5', 'Write a short poem about rain.']
  const { samples = [], text } = await json(words)
  assert.is(samples.length, 3)
  assert.is(samples[0]?.text, text)
  assert.ok(new Set(samples.map((sample) => sample.text)).size > 1)
  const { stdout } = await ewe(['generate', ...words])
  assert.is(stdout, samples.map((sample, i) => `--- ${i + 1} of 3\n${sample.text}\n`).join('\n'))
})

test('--raw continues a text without the template', async () => {
  const { text, promptTokens } = await json(['--raw', '--max-new-tokens', '3', 'The capital of Japan is'])
  assert.is(promptTokens, 5)
  assert.match((await ewe(['generate', '--raw', '--max-new-tokens', '3', 'The capital of Japan is'])).stdout, new RegExp(`^${text}\n$`))
})

test('--verbose adds a line of figures on stderr', async () => {
  const { stdout, stderr } = await ewe(['generate', '--verbose', ...greedy, '--seed', '7', japan])
  assert.is(stdout, 'The capital of Japan is Tokyo.\n')
  assert.match(stderr, /\newe: loaded in \d+ ms, prompt 30 tokens.*, answer 12 tokens.*, seed 7, ended by stop\n$/)
})

test('a prompt beyond the context fails with the numbers and prints no answer', async () => {
  const { code, stdout, stderr } = await ewe(['generate', '--max-context', '40', '--max-new-tokens', '30', japan])
  assert.is(code, 1)
  assert.is(stdout, '')
  assert.match(stderr, /30 tokens and 30 new ones, but the context is 40.* \[EWE_CONTEXT_LENGTH\]/)
})

test('what does not fit into memory ends with code 3', async () => {
  const { code, stderr } = await ewe(['generate', '--max-context', '16777216', japan])
  assert.is(code, 3, stderr)
  assert.match(stderr, /\[EWE_OUT_OF_MEMORY\]/)
})

test('an answer is streamed, and Ctrl-C ends it with code 130', async () => {
  const run = start(['generate', ...longAnswer, 'Hello'])
  await run.until('beginning of an answer', ({ stdout }) => stdout.length > 0)
  run.child.kill('SIGINT')
  const { code, stdout, stderr } = await run.ended
  assert.is(code, 130)
  assert.ok(stdout.length < 5000, `${stdout.length} characters: the answer went on to its end`)
  assert.ok(stdout.endsWith('\n'))
  assert.is(stderr, shippedNote)
})

test('Ctrl-C while stdin is read ends with code 130', async () => {
  const run = start(['generate'])
  // Nothing is printed to wait for, but more than a pipe holds has gone only when it is read.
  await new Promise((resolve) => run.child.stdin?.write('What is '.repeat(1 << 18), resolve))
  run.child.kill('SIGINT')
  assert.equal(await run.ended, { code: 130, signal: null, stdout: '', stderr: '' })
})

test('control characters of an answer do not reach a terminal', async () => {
  const words = ['generate', ...longAnswer, '--max-new-tokens', '500', 'Hello']
  const controls = /[^\P{Cc}\n\t]/u
  assert.match((await ewe(words)).stdout, controls)
  const { stdout } = await onTerminal(words, { NO_COLOR: '1' }).ended
  // On a busy machine loading has a bar, which puts the cursor back and clears its line in the end.
  const answer = stdout.split('\u001b8\u001b[1G\u001b[2K').at(-1) ?? ''
  assert.not.match(answer.replaceAll('\r\n', '\n'), controls)
})

test('a reader that leaves ends the answer quietly', async () => {
  const run = start(['generate', ...longAnswer, 'Hello'])
  await run.until('beginning of an answer', ({ stdout }) => stdout.length > 0)
  run.child.stdout?.destroy()
  const { code, stdout, stderr } = await run.ended
  assert.is(code, 0)
  assert.ok(stdout.length < 5000)
  assert.is(stderr, shippedNote)
})

test.run()
