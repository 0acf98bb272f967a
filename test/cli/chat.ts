import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ewe, longAnswer, onTerminal, shippedNote, start, type Run } from './run.js'

const japan = 'What is the capital of Japan?'
const tokyo = 'The capital of Japan is Tokyo.'
const greedy = ['--temperature', '0']
const interrupt = '\x03'
const endOfInput = '\x04'
const escape = String.fromCharCode(27)
const controlSequence = new RegExp(`${escape}\\[[\\d;?]*[A-Za-z]`, 'g')

/** What a terminal shows, without its control sequences. */
function shown({ stdout }: Run | { stdout: string }): string {
  return stdout.replaceAll(controlSequence, '').replaceAll('\r', '')
}

interface Exchange {
  text: string
  finishReason: string
  promptTokens: number
  tokens: number[]
  droppedTurns: number
}

async function exchanges(lines: string[], words: string[] = []): Promise<Exchange[]> {
  const { code, stdout, stderr } = await ewe(['chat', '--json', ...greedy, ...words], lines.map((line) => `${line}\n`).join(''))
  assert.is(code, 0, stderr)
  return stdout.trimEnd().split('\n').map((line) => JSON.parse(line) as Exchange)
}

test('each line of a pipe is an instruction, and the answers alone are on stdout', async () => {
  const { code, stdout, stderr } = await ewe(['chat', ...greedy], `${japan}\n\n/reset\n${japan}`)
  assert.is(code, 0)
  assert.is(stdout, `${tokyo}\n${tokyo}\n`)
  assert.is(stderr, `${shippedNote}ewe: the conversation is forgotten\n`)
})

test('earlier turns, /system and /input are part of the prompt, and /reset forgets turns', async () => {
  const [first, second, third] = await exchanges([japan, japan, '/reset', japan])
  assert.ok(first && second && third)
  assert.is(first.text, tokyo)
  assert.ok(second.promptTokens > first.promptTokens + first.tokens.length)
  assert.is(third.promptTokens, first.promptTokens)

  const withSystem = ['/system You are a sheep.', japan, '/system', '/reset']
  const [system, input, after] = await exchanges([...withSystem, '/input Japan is far away.', japan, '/reset', japan])
  assert.ok(system && input && after)
  assert.ok(system.promptTokens > first.promptTokens)
  assert.ok(input.promptTokens > first.promptTokens)
  assert.is(after.promptTokens, first.promptTokens, 'an input is for one instruction')
  assert.is((await exchanges([japan], ['--system', 'You are a sheep.']))[0]?.promptTokens, system.promptTokens)
})

test('/input is what the instruction is about', async () => {
  const { cases } = JSON.parse(readFileSync('test/fixtures/lamb/greedy.json', 'utf8')) as {
    cases: { instruction: string; context: string; text: string }[]
  }
  const reference = cases.find(({ instruction, context }) => context !== '' && !`${instruction}${context}`.includes('\n'))
  assert.ok(reference)
  const [answer] = await exchanges([`/input ${reference.context}`, reference.instruction], ['--weights', 'float32'])
  assert.is(answer?.text, reference.text)
})

test('the oldest exchanges are left out when the context is full, with a note', async () => {
  const { code, stdout, stderr } = await ewe(['chat', '--json', '--max-context', '120', '--max-new-tokens', '20', ...greedy], `${japan}\n`.repeat(6))
  assert.is(code, 0)
  const answers = stdout.trimEnd().split('\n').map((line) => JSON.parse(line) as Exchange)
  assert.is(answers.length, 6)
  assert.ok(answers.some(({ droppedTurns }) => droppedTurns === 1))
  assert.ok(answers.every(({ promptTokens, droppedTurns }) => promptTokens <= 100 && droppedTurns <= 1), 'what was left out is not counted again')
  assert.match(stderr, /ewe: the context is full: the oldest exchange was left out\n/)
})

test('a pipe with a command that does not exist, or with a turn that is too long, fails', async () => {
  const command = await ewe(['chat', ...greedy], `${japan}\n/nope\n${japan}\n`)
  assert.is(command.code, 2)
  assert.is(command.stdout, `${tokyo}\n`)
  assert.match(command.stderr, /one of \/input, .* for `command` but received "\/nope" \[EWE_OPTION\]/)
  const long = await ewe(['chat'], `${'long '.repeat(1000)}\n`)
  assert.is(long.code, 1)
  assert.is(long.stdout, '')
  assert.match(long.stderr, /The last turn takes \d+ tokens.* \[EWE_CONTEXT_LENGTH\]/)
})

test('// begins an instruction with /, and /quit leaves', async () => {
  const answers = await exchanges(['//etc', '/quit', japan])
  assert.is(answers.length, 1)
})

test('/stats and /help speak on stderr', async () => {
  const { stdout, stderr } = await ewe(['chat', ...greedy], `${japan}\n/stats\n/help\n`)
  assert.is(stdout, `${tokyo}\n`)
  assert.match(stderr, /bfloat16 weights, [\d.]+ MiB\newe: 1 exchanges; 30 prompt tokens and 12 generated ones in all\n/)
  assert.match(stderr, /ewe: last: prompt 30 tokens .*; 42 of 512 tokens of context\n/)
  assert.match(stderr, /\n {2}\/reset /)
})

test('Ctrl-C ends a conversation from a pipe with code 130', async () => {
  const run = start(['chat', ...longAnswer])
  run.send('Hello\n')
  await run.until('beginning of an answer', ({ stdout }) => stdout.length > 0)
  run.child.kill('SIGINT')
  const { code, stdout } = await run.ended
  assert.is(code, 130)
  assert.ok(stdout.length < 5000)
})

test('on a terminal there is a prompt, and Ctrl-D leaves', async () => {
  const run = onTerminal(['chat', ...greedy])
  await run.until('prompt', (now) => shown(now).endsWith('> '))
  run.send(`${japan}\r`)
  await run.until('answer and prompt', (now) => shown(now).endsWith(`> ${japan}\n${tokyo}\n> `))
  run.send('/nope\r')
  await run.until('note', (now) => shown(now).endsWith('there is no command /nope; /help lists them\n> '))
  run.send(`${'long '.repeat(300)}\r`)
  await run.until('note', (now) => /The last turn takes \d+ tokens.*\n> $/.test(shown(now)))
  run.send(`${japan}\r/reset\r${japan}\r`) // pasted
  await run.until('two answers', (now) => shown(now).split(tokyo).length === 4 && shown(now).endsWith('> '))
  run.send(endOfInput)
  assert.is((await run.ended).code, 0)
})

test('on a terminal Ctrl-C stops an answer, which stays in the conversation; it leaves at an empty prompt', async () => {
  const run = onTerminal(['chat', ...longAnswer])
  await run.until('prompt', (now) => shown(now).endsWith('> '))
  run.send('Hello\r')
  await run.until('beginning of an answer', (now) => shown(now).split('> Hello\n').at(-1)?.length !== 0 && shown(now).includes('> Hello\n'))
  run.send(interrupt)
  await run.until('prompt after the answer', (now) => shown(now).endsWith('ewe: stopped\n> '))
  assert.ok(shown(run).length < 5000, 'the answer went on to its end')
  run.send('/stats\r')
  await run.until('figures', (now) => /1 exchanges; .*\n[^]*> $/.test(shown(now)))
  run.send('half a line')
  await run.until('line', (now) => shown(now).endsWith('half a line'))
  run.send(interrupt)
  await run.until('empty prompt', (now) => shown(now).endsWith('> ') && shown(now).includes('^C'))
  run.send(interrupt)
  assert.is((await run.ended).code, 130)
})

test.run()
