import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { hubCache, resolveModel } from '../../src/checkpoint/hub.js'
import { ModelNotFoundError } from '../../src/errors.js'
import { assertRefused } from './build.js'

const test = suite<{ cache: string; snapshot: string }>('hub')
const commit = 'f6c9be08f16fe4d3a719bee0a4a7c7415b5c65df'

test.before.each((context) => {
  context.cache = mkdtempSync(join(tmpdir(), 'ewe-hub-'))
  const repository = join(context.cache, 'models--databricks--dolly-v2-3b')
  context.snapshot = join(repository, 'snapshots', commit)
  mkdirSync(context.snapshot, { recursive: true })
  mkdirSync(join(repository, 'refs', 'refs', 'pr'), { recursive: true })
  writeFileSync(join(repository, 'refs', 'main'), commit)
  writeFileSync(join(repository, 'refs', 'refs', 'pr', '7'), `${commit}\n`)
})
test.after.each((context) => rmSync(context.cache, { recursive: true }))

async function notFound(given: string, environment: Record<string, string>): Promise<string> {
  const error = await resolveModel(given, environment).then(
    (found) => new Error(`found ${found}`),
    (thrown: unknown) => thrown,
  )
  assert.instance(error, ModelNotFoundError)
  return (error as Error).message
}

test('an existing folder is taken as it is', async () => {
  assert.is(await resolveModel('test/fixtures/gptj', {}), join(process.cwd(), 'test/fixtures/gptj'))
})

test('a Hub id is found in the cache by branch, commit and pull request', async ({ cache, snapshot }) => {
  const environment = { HF_HUB_CACHE: cache }
  assert.is(await resolveModel('databricks/dolly-v2-3b', environment), snapshot)
  assert.is(await resolveModel(`databricks/dolly-v2-3b@${commit}`, environment), snapshot)
  assert.is(await resolveModel('databricks/dolly-v2-3b@refs/pr/7', environment), snapshot)
})

test('the cache lies where the variables of the Hugging Face libraries say, in their order', async ({ cache, snapshot }) => {
  assert.is(hubCache({ HF_HUB_CACHE: '/a', HUGGINGFACE_HUB_CACHE: '/b', HF_HOME: '/c', XDG_CACHE_HOME: '/d' }), '/a')
  assert.is(hubCache({ HUGGINGFACE_HUB_CACHE: '/b', HF_HOME: '/c', XDG_CACHE_HOME: '/d' }), '/b')
  assert.is(hubCache({ HF_HOME: '/c', XDG_CACHE_HOME: '/d' }), '/c/hub')
  assert.is(hubCache({ HF_HUB_CACHE: '', XDG_CACHE_HOME: '/d' }), '/d/huggingface/hub')
  assert.is(hubCache({}), join(homedir(), '.cache/huggingface/hub'))
  mkdirSync(join(cache, 'home'))
  symlinkSync(cache, join(cache, 'home', 'hub'))
  assert.is(await resolveModel('databricks/dolly-v2-3b', { HF_HOME: join(cache, 'home') }), snapshot.replace(cache, join(cache, 'home', 'hub')))
})

test('what is not in the cache gives an error with the places looked at and the commands that download it', async ({ cache }) => {
  const environment = { HF_HUB_CACHE: cache }
  const message = await notFound('databricks/dolly-v2-7b', environment)
  for (const part of [join(process.cwd(), 'databricks/dolly-v2-7b'), join(cache, 'models--databricks--dolly-v2-7b/refs/main')])
    assert.ok(message.includes(part), message)
  assert.match(message, /hf download databricks\/dolly-v2-7b\n/)
  assert.match(message, /huggingface-cli download databricks\/dolly-v2-7b$/)
  assert.match(await notFound('databricks/dolly-v2-3b@v9', environment), /hf download databricks\/dolly-v2-3b --revision v9/)
  assert.match(await notFound(`databricks/dolly-v2-3b@${'0'.repeat(40)}`, environment), /snapshots\/0{40}/)
})

test('a reference without its snapshot counts as not downloaded', async ({ cache, snapshot }) => {
  rmSync(snapshot, { recursive: true })
  assert.match(await notFound('databricks/dolly-v2-3b', { HF_HUB_CACHE: cache }), new RegExp(`snapshots/${commit}`))
})

test('names that lead out of the cache are no Hub ids', async ({ cache }) => {
  const hostile = [
    '../x',
    'a/..b',
    '../../etc/passwd',
    'a/b/c',
    '/no/such/folder',
    './b',
    'a/.b',
    'a--b/c',
    'a/b@../../../x',
    'a/b@',
    'a/b@/etc',
    'a/b@x/../y',
    'a\\b',
    'a/b\0',
    '',
    ' ',
    'x'.repeat(5000),
  ]
  for (const given of hostile) assert.match(await notFound(given, { HF_HUB_CACHE: cache }), /There is no model folder/, given)
})

test('a reference that names no commit is refused', async ({ cache }) => {
  const reference = join(cache, 'models--databricks--dolly-v2-3b', 'refs', 'main')
  for (const text of ['../../../secret', '', 'F'.repeat(40), `${commit}0`]) {
    writeFileSync(reference, text)
    await assertRefused(resolveModel('databricks/dolly-v2-3b', { HF_HUB_CACHE: cache }), 'main', /names no commit/)
  }
  rmSync(reference)
  symlinkSync('/dev/zero', reference)
  await assertRefused(resolveModel('databricks/dolly-v2-3b', { HF_HUB_CACHE: cache }), 'main', /not a regular file/)
})

test.run()
