import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ewe, onTerminal, start } from './run.js'

const folder = mkdtempSync(join(tmpdir(), 'ewe-batch-'))
test.after(() => rmSync(folder, { recursive: true }))
test.before.each(() => {
  for (const name of readdirSync(folder)) rmSync(join(folder, name))
})
const input = join(folder, 'in.jsonl')
const output = join(folder, 'out.jsonl')
const command = ['batch', input, '-o', output, '--model', 'models/lamb', '--device', 'cpu', '--threads', '1', '--max-new-tokens', '24']
const japan = 'What is the capital of Japan?'

const mixed = Array.from({ length: 60 }, (_, i) => {
  if (i % 20 === 13) return 'a broken line'
  if (i % 5 === 4) return JSON.stringify({ custom_id: `id-${i}`, method: 'POST', url: '/v1/completions', body: { prompt: `Once upon ${i}`, max_tokens: 12 } })
  return JSON.stringify({ instruction: `Tell me about animal number ${i}, and ${'again '.repeat(i % 7)}.`, context: '' })
})

/** A small generator of random numbers, so that a failure can be run again. */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

test('a job killed again and again, at any moment, gives the same output to the byte', async () => {
  writeFileSync(input, mixed.join('\n'))
  const uninterrupted = await ewe(command)
  assert.is(uninterrupted.code, 4, uninterrupted.stderr)
  const whole = readFileSync(output)
  assert.is(whole.toString().trimEnd().split('\n').length, 60)
  rmSync(output)
  const seed = Number(process.env['EWE_TEST_SEED'] ?? Date.now() % 1_000_000)
  const most = Number(process.env['EWE_TEST_KILLS'] ?? 25)
  const draw = random(seed)
  const journal = `${output}.journal`
  let kills = 0
  let kept = 0
  let jobs = 0
  // Some kills come at a time, from the start of the process on; others when the journal has grown, so that there are many in every part of the work.
  while (kills < most) {
    const run = start(command)
    const before = existsSync(journal) ? statSync(journal).size : 0
    const ended = once(run.child, 'exit')
    if (draw() < 0.3) await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, draw() * 700))])
    else {
      const grown = before + draw() * 1500
      while (run.child.exitCode === null && !(existsSync(journal) && statSync(journal).size > grown)) await new Promise((resolve) => setTimeout(resolve, draw() * 4))
    }
    run.child.kill('SIGKILL')
    await ended
    const result = await run.ended
    if (result.signal === 'SIGKILL') kills++
    else assert.is(result.code, 4, `seed ${seed}: ${result.stderr}`)
    if (/going on with/.test(result.stderr)) kept++
    if (existsSync(output)) {
      assert.equal(readFileSync(output), whole, `seed ${seed}, after ${kills} kills`)
      if (!existsSync(journal)) {
        rmSync(output) // that job is done: the next one
        jobs++
      }
    }
  }
  const last = await ewe(command)
  assert.is(last.code, 4, last.stderr)
  assert.equal(readFileSync(output), whole, `seed ${seed}`)
  assert.equal(readdirSync(folder).sort(), ['in.jsonl', 'out.jsonl'], 'nothing is left behind')
  assert.ok(kept > 5, `seed ${seed}: only ${kept} runs went on with a journal`)
  console.log(`    seed ${seed}: ${kills} kills, ${kept} runs went on, ${jobs + 1} jobs ended`)
})

test('Ctrl-C ends with 130, and the same command goes on', async () => {
  writeFileSync(input, mixed.join('\n'))
  const run = start(command)
  while (!existsSync(`${output}.journal`) || statSync(`${output}.journal`).size < 1500) await new Promise((resolve) => setTimeout(resolve, 2))
  run.child.kill('SIGINT')
  assert.is((await run.ended).code, 130)
  assert.equal(readdirSync(folder).sort(), ['in.jsonl', 'out.jsonl.journal'])
  const { code, stderr } = await ewe(command)
  assert.is(code, 4)
  assert.match(stderr, /going on with a job of which \d+ of 60 lines are finished/)
  assert.match(stderr, /60 lines, 3 failed, \d+ of them from an earlier run; \d+ tokens in [\d.]+ s, \d+ tokens\/s/)
})

test('while stdin is awaited Ctrl-C ends it too', async () => {
  const run = start(['batch', '-', '-o', output, '--model', 'models/lamb'])
  run.send('"a"\n')
  while (readdirSync(folder).length === 0) await new Promise((resolve) => setTimeout(resolve, 2)) // the output is locked before the input is read
  run.child.kill('SIGINT')
  assert.is((await run.ended).code, 130)
  assert.equal(readdirSync(folder), [])
})

test('stdin to stdout, with notes on stderr only', async () => {
  const words = ['batch', '-', '-o', '-', '--model', 'models/lamb', '--temperature', '0']
  const { code, stdout, stderr } = await ewe(words, `"${japan}"\n\n{"instruction":"${japan}"}\n`)
  assert.is(code, 0)
  const lines = stdout.trimEnd().split('\n').map((line) => JSON.parse(line) as { line: number; text: string })
  assert.equal(lines.map(({ line, text }) => [line, text]), [[1, 'The capital of Japan is Tokyo.'], [3, 'The capital of Japan is Tokyo.']])
  assert.match(stderr, /^ewe: 2 lines; \d+ tokens in [\d.]+ s, \d+ tokens\/s\n$/)
})

test('--json prints what came of it', async () => {
  writeFileSync(input, `"${japan}"\nbroken\n`)
  const { code, stdout } = await ewe([...command, '--json'])
  assert.is(code, 4)
  const { seconds, tokensPerSecond, generatedTokens, ...rest } = JSON.parse(stdout) as Record<string, number>
  assert.equal(rest, { lines: 2, failed: 1, resumed: 0, output })
  assert.ok(seconds! > 0 && tokensPerSecond! > 0 && generatedTokens! > 0)
})

test('wrong flags, an input that is not there, and a journal of another job: exit codes and words', async () => {
  writeFileSync(input, mixed.join('\n'))
  const refused: [string[], number, RegExp][] = [
    [['batch', input], 2, /--output/],
    [[...command, '--shard', '3/2'], 2, /--shard/],
    [[...command, '--concurrency', '0'], 2, /--concurrency/],
    [[...command, '--order', 'random'], 2, /--order/],
    [[...command, '--temperature', '-1'], 2, /--temperature/],
    [['batch', join(folder, 'gone'), ...command.slice(2)], 1, /ENOENT/],
    [['batch', input, '-o', input, '--model', 'models/lamb'], 2, /another file than the input/],
  ]
  for (const [words, code, message] of refused) {
    const result = await ewe(words)
    assert.is(result.code, code, words.join(' '))
    assert.match(result.stderr, message)
  }
  const run = start(command)
  while (!existsSync(`${output}.journal`) || !readFileSync(`${output}.journal`).includes('\n')) await new Promise((resolve) => setTimeout(resolve, 2))
  run.child.kill('SIGSTOP')
  const second = await ewe(command)
  run.child.kill('SIGKILL')
  await run.ended
  assert.is(second.code, 1)
  assert.match(second.stderr, new RegExp(`Another job, process ${run.child.pid}, is writing .*EWE_BATCH`))
  const other = await ewe([...command, '--seed', '9'])
  assert.is(other.code, 2)
  assert.match(other.stderr, /seed: "0" then, "9" now[\s\S]*Give that job's command/)
})

test('a disk without room ends with an error that says what to do; with room again the job goes on', async () => {
  writeFileSync(input, mixed.join('\n'))
  assert.is((await ewe(command)).code, 4)
  const whole = readFileSync(output)
  rmSync(output)
  const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))
  // A limit on the size of files, in KiB, is a disk that is full for whoever ignores its signal. The first is too small for the journal, the second for nothing but the output.
  const limits = [4, Math.floor(whole.length / 1024)]
  for (const limit of limits) {
    const shell = spawn('bash', ['-c', `trap '' XFSZ; ulimit -f ${limit}; exec "$@"`, 'bash', process.execPath, main, ...command], { stdio: ['ignore', 'pipe', 'pipe'] })
    let stderr = ''
    shell.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    const [code] = (await once(shell, 'close')) as [number]
    assert.is(code, 1, stderr)
    assert.match(stderr, /could not be written: EFBIG.*What is finished stays in .*out\.jsonl\.journal: .*the same command again.*EWE_BATCH/)
    assert.equal(readdirSync(folder).sort(), ['in.jsonl', 'out.jsonl.journal'])
  }
  const { code, stderr } = await ewe(command)
  assert.is(code, 4)
  assert.match(stderr, /going on with/)
  assert.equal(readFileSync(output), whole)
})

test('on a terminal a bar shows lines, speed and the time that is left', async () => {
  writeFileSync(input, mixed.join('\n'))
  const { code, stdout } = await onTerminal(command).ended
  assert.is(code, 4)
  assert.match(stdout, /batch \[=*-*\] \d+\/60 lines, \d+ tokens\/s, ETA /)
})

test.run()
