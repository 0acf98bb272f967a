import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../serve/served.js'
import { ewe, start, shippedNote, type Run } from './run.js'

const body = { model: 'lamb', prompt: 'One', max_tokens: 1, temperature: 0 }
const long = { ...body, max_tokens: 500, temperature: 1, ignore_eos: true }

async function serving(words: string[] = [], env: NodeJS.ProcessEnv = {}): Promise<{ run: Run; url: string }> {
  const run = start(['serve', '--json', '--port', '0', '--device', 'cpu', ...words], env)
  await run.until('address', ({ stdout }) => stdout.includes('\n'))
  return { run, url: (JSON.parse(run.stdout) as { url: string }).url }
}

/** Waits until a request runs. */
async function busy(url: string): Promise<void> {
  await until('a request that runs', async () => /^ewe_requests_running\{[^}]*\} [1-9]/m.test(await (await fetch(`${url}/metrics`)).text()))
}

function post(url: string, what: object, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${url}/v1/completions`, { method: 'POST', body: JSON.stringify(what), headers: { 'content-type': 'application/json', ...headers } })
}

test('serves, logs JSON on stderr without text, and ends with code 0 when told to', async () => {
  const { run, url } = await serving(['--served-model-name', 'sheep', '--served-model-name', 'lamb'])
  assert.match(url, /^http:\/\/127\.0\.0\.1:\d+$/)
  const answer = (await (await post(url, { ...body, prompt: 'zebra' })).json()) as { model: string }
  assert.is(answer.model, 'sheep')
  run.child.kill('SIGTERM')
  const { code, stdout, stderr } = await run.ended
  assert.is(code, 0)
  assert.is(stdout.split('\n').length, 2, 'only the address is on stdout')
  const lines = stderr.split('\n').filter((line) => line.startsWith('{'))
  const line = JSON.parse(lines[0] ?? '') as Record<string, unknown>
  assert.equal([line['level'], line['route'], line['status'], line['completionTokens']], ['info', '/v1/completions', 200, 1])
  assert.not.match(stderr, 'zebra')
})

test('the cache is as large as it is told to be, shares nothing unless it may, and keeps room for the longest answers', async () => {
  const { run, url } = await serving(['--quiet', '--pages', '8', '--page-size', '16', '--admission', 'reserve', '--no-prefix-cache'])
  const metric = async (name: string): Promise<number> => Number(new RegExp(`^${name}\\{[^}]*\\} (.*)$`, 'm').exec(await (await fetch(`${url}/metrics`)).text())?.[1])
  assert.is(await metric('ewe_cache_pages'), 8)
  // Of 8 pages each may come to need 5: one after the other, and none is sent back.
  const answers = await Promise.all([1, 2, 3].map(async (seed) => (await post(url, { ...long, max_tokens: 70, seed })).json())) as { usage: { completion_tokens: number } }[]
  assert.equal(answers.map(({ usage }) => usage.completion_tokens), [70, 70, 70])
  assert.equal([await metric('ewe_preemptions_total'), await metric('ewe_prefix_hits_total')], [0, 0])
  run.child.kill('SIGTERM')
  assert.is((await run.ended).code, 0)
  for (const words of [['--pages', '0'], ['--page-size', '17'], ['--admission', 'never']]) {
    const { code, stderr } = await ewe(['serve', '--port', '0', ...words])
    assert.is(code, 2, words.join(' '))
    assert.match(stderr, words[0]!)
  }
})

test('the first signal drains, the second stops at once', async () => {
  const { run, url } = await serving(['--quiet'])
  const stream = async (): Promise<string> => (await post(url, { ...long, stream: true })).text()
  const first = stream()
  await busy(url)
  run.child.kill('SIGTERM')
  assert.match(await first, /data: \[DONE\]\n\n$/)
  assert.is((await run.ended).code, 0)

  const again = await serving()
  const many = post(again.url, { ...long, n: 64 }).catch(() => {})
  await busy(again.url)
  again.run.child.kill('SIGTERM')
  await again.run.until('word of the first signal', ({ stderr }) => stderr.includes('ewe: stopping'))
  again.run.child.kill('SIGTERM')
  assert.is((await again.run.ended).code, 143)
  await many
})

test('with --data files are kept for batches, without it there are none', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'ewe-data-'))
  for (const [words, status] of [[['--data', folder], 200], [[], 404]] as const) {
    const { run, url } = await serving([...words])
    assert.is((await fetch(`${url}/v1/files`)).status, status)
    run.child.kill('SIGTERM')
    assert.is((await run.ended).code, 0)
  }
  assert.equal(readdirSync(folder).sort(), ['batches', 'files'])
  rmSync(folder, { recursive: true })
})

test('keys come from the flag or the environment, and are not shown', async () => {
  for (const [words, env] of [[['--api-key', 'sk-quiet'], {}], [[], { EWE_API_KEY: 'sk-quiet' }]] as const) {
    const { run, url } = await serving([...words], env)
    assert.is((await post(url, body)).status, 401)
    assert.is((await post(url, body, { authorization: 'Bearer sk-quiet' })).status, 200)
    run.child.kill('SIGINT')
    const { code, stdout, stderr } = await run.ended
    assert.is(code, 0)
    assert.not.match(stdout + stderr, 'sk-quiet')
  }
})

test('an address that all can reach, without a key, is warned of', async () => {
  const { run } = await serving(['--host', '0.0.0.0'])
  run.child.kill('SIGTERM')
  assert.match((await run.ended).stderr, 'ewe: everyone who reaches 0.0.0.0 may use this server: --api-key or EWE_API_KEY asks for a key\n')
})

test('a port in use ends with code 1 and says so', async () => {
  const { run, url } = await serving()
  const { port } = new URL(url)
  const { code, stderr } = await ewe(['serve', '--port', port, '--device', 'cpu'])
  assert.is(code, 1)
  assert.is(stderr, `${shippedNote}ewe: Port ${port} of 127.0.0.1 is in use: choose another, or 0 for any free one [EWE_LISTEN]\n`)
  run.child.kill('SIGTERM')
  await run.ended
})

test('wrong flags end with code 2 before a model is loaded', async () => {
  for (const [words, expected] of [
    [['--port', '65536'], /`--port` but received 65536/],
    [['--api-key', 'a b'], /`--api-key` but received nothing/],
    [['--max-body', '0'], /`--max-body` but received 0/],
    [['--max-batch', '0'], /`--max-batch` but received 0/],
    [['--drain-timeout', '100000'], /`--drain-timeout` but received 100000/],
    [['--timeout', '0'], /`--timeout` but received 0/],
  ] as const) {
    const { code, stderr } = await ewe(['serve', ...words], '', { EWE_NATIVE: '/gone/ewe.node' })
    assert.is(code, 2, stderr)
    assert.match(stderr, expected)
  }
})

test.run()
