// Folders on disk: links, things that are no files, and indexes of shards.
import { spawnSync } from 'node:child_process'
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readCheckpoint, readFolder } from '../../src/checkpoint/checkpoint.js'
import { openRegular } from '../../src/checkpoint/files.js'
import { CheckpointError } from '../../src/errors.js'
import { assertRefused, fill, layout, memoryFolder, neoxConfig, neoxShapes, safetensors } from './build.js'
import type { Files } from './build.js'

const test = suite<{ dir: string }>('folder')
const fixture = 'test/fixtures/neox-parallel'

test.before.each((context) => {
  context.dir = mkdtempSync(join(tmpdir(), 'ewe-folder-'))
  for (const name of ['config.json', 'generation_config.json', 'model.safetensors']) copyFileSync(join(fixture, name), join(context.dir, name))
})
test.after.each((context) => rmSync(context.dir, { recursive: true }))

test('a folder of links, as the Hub cache is one, is read through them', async ({ dir }) => {
  const snapshot = join(dir, 'snapshot')
  mkdirSync(snapshot)
  for (const name of ['config.json', 'generation_config.json', 'model.safetensors']) symlinkSync(join('..', name), join(snapshot, name))
  const linked = await readCheckpoint(snapshot)
  assert.equal(fill(linked, 'qkv', 2), fill(await readCheckpoint(fixture), 'qkv', 2))
})

const links: [name: string, target: string, says: RegExp][] = [
  ['a device that never ends', '/dev/zero', /safetensors: is not a regular file/],
  ['a device that is empty', '/dev/null', /safetensors: is not a regular file/],
  ['a folder', '.', /safetensors: is not a regular file/],
  ['itself', 'model.safetensors', /safetensors: cannot be opened: ELOOP/],
  ['nothing', 'no-such-file', /safetensors: cannot be opened: ENOENT/],
  ['the memory of the process', '/proc/self/mem', /safetensors: has 0 bytes/],
]
for (const [name, target, says] of links) {
  test(`a link to ${name} is refused without being read`, async ({ dir }) => {
    unlinkSync(join(dir, 'model.safetensors'))
    symlinkSync(target, join(dir, 'model.safetensors'))
    await assertRefused(readCheckpoint(dir), 'model.safetensors', says)
  })
}

test('a file that shrinks while it is read is refused', async ({ dir }) => {
  const source = await openRegular(join(dir, 'model.safetensors'))
  assert.ok(source)
  truncateSync(join(dir, 'model.safetensors'), 100)
  await assertRefused(source?.read(0, 101) ?? Promise.resolve(), 'model.safetensors', /ended at byte 100 while it was read, 181488 were there before/)
  await source?.close()
})

test('a pipe that nobody writes to, and a link to it, are refused without waiting', async ({ dir }) => {
  for (const name of ['config.json', 'model.safetensors', 'generation_config.json']) {
    cpSync(fixture, dir, { recursive: true })
    unlinkSync(join(dir, name))
    assert.is(spawnSync('mkfifo', [join(dir, 'pipe')]).status, 0)
    symlinkSync('pipe', join(dir, name))
    await assertRefused(readCheckpoint(dir), name, /is not a regular file/)
    unlinkSync(join(dir, name))
    unlinkSync(join(dir, 'pipe'))
  }
})

test('a socket is refused', async ({ dir }) => {
  unlinkSync(join(dir, 'model.safetensors'))
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(join(dir, 'model.safetensors'), resolve))
  await assertRefused(readCheckpoint(dir), 'model.safetensors', /is not a regular file/)
  await new Promise((resolve) => server.close(resolve))
})

test('a folder without config.json, without weights, and no folder at all are refused', async ({ dir }) => {
  unlinkSync(join(dir, 'model.safetensors'))
  const name = dir.split('/').at(-1) ?? ''
  await assertRefused(readCheckpoint(dir), name, /holds no weights: none of model.safetensors, model.safetensors.index.json, pytorch_model.bin, /)
  unlinkSync(join(dir, 'config.json'))
  await assertRefused(readCheckpoint(dir), 'config.json', /is missing/)
  await assertRefused(readCheckpoint(join(dir, 'no-such-folder')), 'config.json', /is missing/)
  await assertRefused(readCheckpoint(join(dir, 'generation_config.json')), 'config.json', /is missing/)
})

test('a file that is cut off, empty, or a gigabyte of nothing is refused at once', async ({ dir }) => {
  const file = join(dir, 'model.safetensors')
  truncateSync(file, 181_000)
  assert.instance(await readCheckpoint(dir).catch((error: unknown) => error), CheckpointError)
  truncateSync(file, 2 ** 30)
  await assertRefused(readCheckpoint(dir), 'model.safetensors', /bytes after its last tensor/)
  truncateSync(file, 0)
  await assertRefused(readCheckpoint(dir), 'model.safetensors', /has 0 bytes/)
  truncateSync(file, 2 ** 30)
  await assertRefused(readCheckpoint(dir), 'model.safetensors', /does not begin with "{"/)
  truncateSync(join(dir, 'config.json'), 2 ** 30)
  await assertRefused(readCheckpoint(dir), 'config.json', /has 1073741824 bytes, at most 4194304 are read/)
})

/** A model in two shards, with an index that `change` has falsified. */
function sharded(change: (index: { weight_map: Record<string, unknown> }) => unknown): Files {
  const all = Object.entries(neoxShapes())
  const files: Files = { 'config.json': JSON.stringify(neoxConfig) }
  const index = { metadata: { total_size: 12 }, weight_map: {} as Record<string, unknown> }
  for (const [shard, part] of Object.entries({ 'one.safetensors': all.slice(0, 5), 'two.safetensors': all.slice(5) })) {
    files[shard] = safetensors(layout(Object.fromEntries(part)))
    for (const [name] of part) index.weight_map[name] = shard
  }
  const changed = change(index) ?? index
  files['model.safetensors.index.json'] = typeof changed === 'string' ? changed : JSON.stringify(changed)
  return files
}
const head = 'embed_out.weight'
const mapHead = (to: unknown) => sharded((index) => void (index.weight_map[head] = to))

const indexes: [name: string, files: Files, file: string, says: RegExp, tensor?: string][] = [
  [
    'a path to the folder above',
    mapHead('../two.safetensors'),
    'model.safetensors.index.json',
    /"..\/two.safetensors", which is not the plain name/,
    head,
  ],
  ['an absolute path', mapHead('/etc/passwd'), 'model.safetensors.index.json', /not the plain name/, head],
  ['a path below', mapHead('sub/two.safetensors'), 'model.safetensors.index.json', /not the plain name/, head],
  ['a path with backslashes', mapHead('..\\two.safetensors'), 'model.safetensors.index.json', /not the plain name/, head],
  ['the folder itself', mapHead('.'), 'model.safetensors.index.json', /not the plain name/, head],
  ['an empty name', mapHead(''), 'model.safetensors.index.json', /not the plain name/, head],
  ['a name with a zero', mapHead('two\0.safetensors'), 'model.safetensors.index.json', /not the plain name/, head],
  ['a name of 300 characters', mapHead('n'.repeat(300)), 'model.safetensors.index.json', /not the plain name/, head],
  [
    'a file that is not there',
    mapHead('three.safetensors'),
    'model.safetensors.index.json',
    /names the file "three.safetensors", which does not exist/,
    head,
  ],
  ['another file as shard', mapHead('config.json'), 'config.json', /states a header of/],
  ['a number as file', mapHead(3), 'model.safetensors.index.json', /expected a string/],
  ['a tensor in the wrong file', mapHead('one.safetensors'), 'one.safetensors', /is missing, though .*index.json places it in this file/, head],
  [
    'a tensor that is nowhere',
    sharded((index) => void (index.weight_map['ghost'] = 'two.safetensors')),
    'two.safetensors',
    /is missing, though/,
    'ghost',
  ],
  [
    'a tensor that it leaves out',
    sharded((index) => void delete index.weight_map[head]),
    'model.safetensors.index.json',
    /without its head/,
    `${head} or lm_head.weight`,
  ],
  ['an empty map', sharded(() => ({ weight_map: {} })), 'model.safetensors.index.json', /names 0 files/],
  ['no map', sharded(() => ({ metadata: {} })), 'model.safetensors.index.json', /names 0 files/],
  ['a list as map', sharded(() => ({ weight_map: [] })), 'model.safetensors.index.json', /expected an object/],
  [
    'a tensor twice',
    sharded(() => '{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}'),
    'model.safetensors.index.json',
    /duplicate key "a"/,
  ],
  ['two maps', sharded(() => '{"weight_map":{},"weight_map":{}}'), 'model.safetensors.index.json', /duplicate key/],
  ['itself', sharded(() => '{"weight_map":{"a":"model.safetensors.index.json"}}'), 'model.safetensors.index.json', /states a header of/],
  ['text that is no JSON', sharded(() => 'weights'), 'model.safetensors.index.json', /expected an object/],
  [
    'five thousand files',
    sharded(() => ({ weight_map: Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [i, `${i}`])) })),
    'model.safetensors.index.json',
    /names 5000 files/,
  ],
]
for (const [name, files, file, says, tensor] of indexes) {
  test(`an index is refused: ${name}`, () => assertRefused(readFolder(memoryFolder(files)), file, says, tensor))
}

test('an index that names a link to a device is refused without reading it', async ({ dir }) => {
  unlinkSync(join(dir, 'model.safetensors'))
  symlinkSync('/dev/zero', join(dir, 'shard'))
  writeFileSync(join(dir, 'model.safetensors.index.json'), '{"weight_map":{"a":"shard"}}')
  await assertRefused(readCheckpoint(dir), 'shard', /is not a regular file/)
})

test.run()
