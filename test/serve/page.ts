// The page at / in a real browser, over the real model. With `--shots DIR` it leaves pictures of its states there, to be looked at.
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Model, shippedModel } from '../../src/index.js'
import { start } from '../cli/run.js'
import { openBrowser, visit, type Visit } from './browser.js'
import { Served, loadLamb, long, question, until } from './served.js'

const { shots } = parseArgs({ options: { shots: { type: 'string' } } }).values
const browser: Browser = await openBrowser()
// A long context and slow arithmetic: what should be seen under way lasts long enough.
const model = await loadLamb({ maxBatch: 1, maxQueue: 1, threads: 1, instructionSet: 'plain', maxContext: 65_536 })
const served = await Served.over(model)
const others: Served[] = []
const folder = mkdtempSync(join(tmpdir(), 'ewe-page-'))

const visits: Visit[] = []
async function open(url = served.url, options: BrowserContextOptions = {}): Promise<Visit> {
  const opened = await visit(browser, url, options)
  visits.push(opened)
  return opened
}

async function another(...args: Parameters<typeof Served.over>): Promise<Served> {
  const more = await Served.over(...args)
  others.push(more)
  return more
}

test.after.each(async () => {
  for (const { page } of visits.splice(0)) await page.context().close()
  await served.idle()
})
test.after(async () => {
  await browser.close()
  for (const { server } of [served, ...others]) await server.close()
  for (const each of new Set([served, ...others].map((one) => one.model))) await each.dispose()
  rmSync(folder, { recursive: true })
})

const text = async (page: Page, id: string): Promise<string> => (await page.locator(`#${id}`).textContent()) ?? ''
/** Waits for what an element says. */
const says = (page: Page, id: string, expected: RegExp): Promise<void> => page.locator(`#${id}`).filter({ hasText: expected }).waitFor()
const note = (page: Page, expected: RegExp): Promise<void> => says(page, 'note', expected)
const someText = (page: Page): Promise<void> => says(page, 'answer', /.{20}/)
const trouble = (page: Page, expected: string): Promise<void> => page.getByRole('alert').filter({ hasText: expected }).waitFor()
/** What JavaScript gives in the page. */
const inside = async <T>(page: Page, code: string): Promise<T> => (await page.evaluate(code)) as T
const ready = (page: Page): Promise<void> => page.getByText('lamb', { exact: true }).waitFor()

async function askFor(page: Page, instruction: string): Promise<void> {
  await page.getByLabel('Instruction').fill(instruction)
  await page.getByRole('button', { name: 'Ask' }).click()
}

/** The page's questions are answered to the end of the context: no end of an answer is drawn. */
async function withoutEnd(page: Page): Promise<void> {
  await page.route('**/v1/chat/completions', (route) => {
    const body = { ...(route.request().postDataJSON() as object), max_tokens: 16_000, logit_bias: { 0: -100, 2048: -100 } }
    return route.continue({ postData: JSON.stringify(body) })
  })
}

/** What axe finds. */
interface Found {
  id: string
  nodes: { html: string }[]
}

async function look(page: Page, name: string): Promise<void> {
  if (shots === undefined) return
  for (const [size, width, height] of [['wide', 1280, 900], ['narrow', 375, 812]] as const) {
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.setViewportSize({ width, height })
      await page.emulateMedia({ colorScheme })
      await page.screenshot({ path: join(shots, `${name}-${size}-${colorScheme}.png`), fullPage: true })
    }
  }
}

test('an instruction streams the text of the model into the page', async () => {
  const { page, errors, requests } = await open()
  await ready(page)
  await look(page, 'empty')
  await inside(page, `stages = []; new MutationObserver(() => stages.push(answer.textContent)).observe(answer, { childList: true })`)
  await page.getByText('Settings').click()
  await page.getByLabel('Seed').fill('7')
  await page.getByLabel('Most tokens').fill('64')
  await askFor(page, 'Write a short story about a sheep.')
  await note(page, /^\d+ tokens in [\d.]+ s, [\d.,]+ tokens\/s$/)
  await look(page, 'done')
  const own = await model.generate('Write a short story about a sheep.', { seed: 7, maxNewTokens: 64 })
  assert.is(await text(page, 'answer'), own.text)
  assert.match(await text(page, 'note'), new RegExp(`^${own.tokens.length} tokens`))
  // How many pieces a fast model's answer comes in is the browser's matter; that text is there before the end is asked below, of an answer without end.
  const stages = await inside<string[]>(page, 'stages')
  assert.is(stages.at(-1), own.text)
  for (const stage of stages) assert.ok(own.text.startsWith(stage), `${JSON.stringify(stage)} is no beginning of the answer`)

  await page.getByLabel('Most tokens').fill('2')
  await askFor(page, question)
  await note(page, /^2 tokens .*; cut off there$/)
  const cut = await model.generate(question, { seed: 7, maxNewTokens: 2 })
  assert.is(await text(page, 'answer'), cut.text, 'the answer before is gone')

  assert.equal(errors, [])
  assert.ok(requests.length > 5)
  assert.equal(requests.filter((url) => !url.startsWith(`${served.url}/`)), [], 'requests to elsewhere')
})

test('a stopped answer stays as far as it came, and its work ends', async () => {
  const { page, errors } = await open()
  await ready(page)
  await withoutEnd(page)
  for (const stop of ['button', 'key'] as const) {
    const { cancelled } = model.stats()
    await askFor(page, question)
    await someText(page)
    assert.is(await page.getByRole('button', { name: 'Ask' }).isDisabled(), true)
    if (stop === 'button') await look(page, 'streaming')
    if (stop === 'button') await page.getByRole('button', { name: 'Stop' }).click()
    else await page.keyboard.press('Escape')
    await note(page, /^Stopped$/)
    await served.idle()
    assert.is(model.stats().cancelled, cancelled + 1, stop)
    assert.ok((await text(page, 'answer')).length > 20)
    assert.is(await page.getByRole('button', { name: 'Stop' }).isDisabled(), true)
  }
  assert.equal(errors, [])
})

test('a page that is closed ends its work', async () => {
  const { page } = await open()
  await ready(page)
  await withoutEnd(page)
  await askFor(page, question)
  await someText(page)
  await page.close()
  await served.idle()
})

test('the figures show what the server does', async () => {
  const { page, errors } = await open()
  await ready(page)
  await withoutEnd(page)
  await says(page, 'running', /^0$/)
  await askFor(page, question)
  await someText(page)
  const waiting = served.post('/v1/completions', { ...long, max_tokens: 2 })
  await says(page, 'waiting', /^1$/)
  await says(page, 'running', /^1$/)
  await says(page, 'rate', /^[\d,]{2,}$/)
  await says(page, 'cache', /^[1-9]\d* %$/)
  assert.ok((await inside<number>(page, `document.querySelector('meter').value`)) > 0)
  assert.match(await text(page, 'shared'), /^\d+ %$/)
  await look(page, 'busy')
  await page.keyboard.press('Escape')
  assert.is((await waiting).status, 200)
  for (const [id, rest] of [['running', /^0$/], ['waiting', /^0$/], ['rate', /^0$/], ['cache', /^0 %$/]] as const) await says(page, id, rest)
  assert.equal(errors, [])
})

test('a full queue is told in words, and the next try goes well', async () => {
  const { page } = await open()
  await ready(page)
  const leaving = new AbortController()
  const busy: Promise<void>[] = []
  for (const count of ['running', 'queued'] as const) {
    busy.push(served.post('/v1/completions', { ...long, max_tokens: 16_000 }, { signal: leaving.signal }).then(() => {}, () => {}))
    await until(`one ${count}`, () => model.stats()[count] === 1)
  }
  await askFor(page, question)
  await note(page, /queue/i)
  await look(page, 'error')
  assert.is(await page.locator('#note').getAttribute('class'), 'problem')
  leaving.abort()
  await Promise.all(busy)
  await served.idle()
  await askFor(page, question)
  await note(page, /tokens\/s$/)
})

test('a server that goes away is told of, and found again', async () => {
  const first = await another(model)
  const { page } = await open(first.url)
  await ready(page)
  await withoutEnd(page)
  await askFor(page, question)
  await someText(page)
  await first.server.close()
  await note(page, /^This server stopped before the answer was complete$/)
  await trouble(page, 'The server does not answer. Trying again …')
  assert.is(await text(page, 'running'), '–', 'figures that are old')
  await look(page, 'gone')
  await askFor(page, question)
  await note(page, /^The server does not answer\.$/)
  const again = await another(model, {}, Number(new URL(first.url).port))
  assert.is(again.url, first.url)
  await page.getByRole('alert').waitFor({ state: 'hidden' })
})

test('an answer that breaks off because `ewe serve` was killed says so', async () => {
  const words = '--json --quiet --port 0 --device cpu --threads 1 --instruction-set plain --max-context 16384'.split(' ')
  const run = start(['serve', ...words])
  await run.until('address', ({ stdout }) => stdout.includes('\n'))
  const { page } = await open((JSON.parse(run.stdout) as { url: string }).url)
  await ready(page)
  await withoutEnd(page)
  await askFor(page, question)
  await someText(page)
  run.child.kill('SIGKILL')
  await note(page, /^The answer broke off: the server is gone\.$/)
  await trouble(page, 'The server does not answer. Trying again …')
  assert.ok((await text(page, 'answer')).length > 20, 'what came of it stays')
  await run.ended
})

test('a key is asked for where the server has keys, and is stored nowhere', async () => {
  const keyed = await another(model, { apiKeys: ['sk-page'] })
  const { page, requests } = await open(keyed.url)
  await trouble(page, 'This server asks for a key.')
  await look(page, 'key')
  const before = keyed.lines.length
  await page.getByLabel('API key').fill('sk-wrong')
  await page.getByRole('button', { name: 'Use key' }).click()
  await trouble(page, 'This server does not take this key.')
  assert.is(keyed.lines.length, before + 1, 'one try for each key given')
  await page.getByLabel('API key').fill('sk-page')
  await page.keyboard.press('Enter')
  await ready(page)
  await page.getByRole('alert').waitFor({ state: 'hidden' })
  assert.is(await page.getByLabel('API key').isVisible(), false)
  await askFor(page, question)
  await note(page, /tokens\/s$/)
  assert.equal(requests.filter((url) => url.includes('sk-')), [])
  assert.equal(await inside(page, '[{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]'), [{}, {}, '', `${keyed.url}/`])
  await page.reload()
  await trouble(page, 'This server asks for a key.')
})

test('what a model writes is text, whatever it looks like, and so is its name', async () => {
  // The model with another spelling of one of its tokens, which this answer has.
  const html = `<img src="x" onerror="document.title='broken'"><b>bold</b>`
  const copy = join(folder, 'lamb')
  cpSync(shippedModel(), copy, { recursive: true })
  const path = join(copy, 'tokenizer.json')
  const tokenizer = JSON.parse(readFileSync(path, 'utf8')) as { model: { vocab: Record<string, number>; merges: [string, string][] } }
  const { vocab, merges } = tokenizer.model
  assert.type(vocab['ok'], 'number')
  vocab[html.replaceAll(' ', 'Ġ')] = vocab['ok']!
  delete vocab['ok']
  tokenizer.model.merges = merges.filter(([left, right]) => left !== 'ok' && right !== 'ok' && left + right !== 'ok')
  writeFileSync(path, JSON.stringify(tokenizer))
  const hostile = await another(await Model.load(copy, { device: 'cpu' }), { names: [html] })
  const { page, errors } = await open(hostile.url)
  await page.getByText(html, { exact: true }).waitFor()
  await page.getByText('Settings').click()
  await page.getByLabel('Temperature').fill('0')
  await askFor(page, question)
  await note(page, /tokens\/s$/)
  assert.is(await text(page, 'answer'), `The capital of Japan is T${html}yo.`)
  assert.is(await page.locator('#answer *, #model *').count(), 0)
  assert.is(await page.title(), 'ewe')
  assert.equal(errors, [])
})

test('the keyboard does all of it', async () => {
  const { page, errors } = await open()
  await ready(page)
  await page.keyboard.type(question)
  const focused = (): Promise<string> => inside(page, 'document.activeElement.id || document.activeElement.textContent')
  const order = []
  for (let i = 0; i < 4; i++) {
    order.push(await focused())
    await page.keyboard.press('Tab')
  }
  assert.equal(order, ['instruction', 'Settings', 'send', 'answer'])
  await page.getByLabel('Instruction').focus()
  await page.keyboard.press('Control+Enter')
  await note(page, /tokens\/s$/)
  await withoutEnd(page)
  await page.getByRole('button', { name: 'Ask' }).focus()
  await page.keyboard.press('Enter')
  await until('the place to stop', async () => (await focused()) === 'stop')
  await someText(page)
  await page.keyboard.press('Enter')
  await note(page, /^Stopped$/)
  assert.is(await focused(), 'send')
  assert.equal(errors, [])
})

test('labels, roles and contrast are as readers need them, in light and dark, and nothing is wider than a narrow screen', async () => {
  const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
  for (const colorScheme of ['light', 'dark'] as const) {
    const { page } = await open(served.url, { colorScheme, viewport: { width: 320, height: 640 } })
    await ready(page)
    await page.getByText('Settings').click()
    await askFor(page, question)
    await note(page, /tokens\/s$/)
    await inside(page, 'unlock.hidden = false')
    await inside(page, axe)
    const { violations, passes } = await inside<{ violations: Found[]; passes: Found[] }>(page, 'axe.run()')
    assert.equal(violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`), [])
    for (const rule of ['color-contrast', 'label']) assert.ok(passes.some(({ id }) => id === rule), `${rule} was not looked at`)
    assert.is(await inside(page, 'document.documentElement.scrollWidth'), 320)
  }
})

test.run()
