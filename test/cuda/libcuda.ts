// What ewe says of a CUDA driver that is missing, old, broken, without a card, without memory, or that loses its card: a fake driver (fake.c) in the place
// of the real one, in a process of its own for each case. Its kernels do nothing, so what is computed here means nothing.
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addonPath } from '../../src/native.js'

const folder = mkdtempSync(join(tmpdir(), 'ewe-libcuda-'))
test.after(() => rmSync(folder, { recursive: true }))

function compile(name: string, ...flags: string[]): string {
  mkdirSync(join(folder, name))
  const { status, stderr } = spawnSync('cc', ['-shared', '-fPIC', '-Wall', '-Wextra', '-Werror', ...flags, 'test/cuda/fake.c', '-o', join(folder, name, 'libcuda.so.1')], {
    encoding: 'utf8',
  })
  assert.is(status, 0, stderr)
  return join(folder, name)
}
const driver = compile('driver')

// An addon of its own folder, so that the pack of kernels beside it is the test's: one for 8.0 whose code nobody runs.
const addon = join(folder, 'ewe.node')
copyFileSync(addonPath(), addon)
const { writePack } = (await import(resolve('scripts/kernel-pack.mjs'))) as { writePack: (path: string, hash: string, images: object[]) => number }
const { kernelsHash } = (await import(resolve('scripts/sources.mjs'))) as { kernelsHash: () => string }
const elf = Buffer.alloc(128)
elf.writeUInt32BE(0x7f454c46)
writePack(join(folder, 'ewe.kernels'), kernelsHash(), [{ stem: 'norm', architecture: 80, path: 800, kind: 'cubin', kernels: ['norm_f16'], data: elf }])

type Fake = Record<string, string | number>

/** Runs code with `Model`, `devices` and `tell` in scope, the fake driver found first. `tell` shows a value, or what a promise rejects with. */
function run(code: string, fake: Fake = {}, library = driver, native = addon): unknown {
  const program = `import { Model, devices } from ${JSON.stringify(new URL('../../src/index.js', import.meta.url).href)}
import { loadNative } from ${JSON.stringify(new URL('../../src/native.js', import.meta.url).href)}
const failure = (error) => ({ name: error.name, code: error.code, message: error.message })
const tell = async (promise) => console.log('told ' + JSON.stringify(await promise.then((value) => value, failure)))
${code}`
  const env = { ...process.env, ...Object.fromEntries(Object.entries(fake).map(([key, value]) => [key, String(value)])), LD_LIBRARY_PATH: library, EWE_NATIVE: native }
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8', env })
  assert.is(signal, null, stderr)
  assert.is(status, 0, stderr)
  const told = stdout.split('\n').filter((line) => line.startsWith('told '))
  assert.ok(told.length > 0, stdout + stderr)
  return told.length === 1 ? JSON.parse(told[0]!.slice(5)) : told.map((line) => JSON.parse(line.slice(5)) as unknown)
}

interface Told {
  name: string
  code: string
  message: string
}
interface Listed {
  id: string
  name: string
  family: string
  computeCapability: number
  multiprocessors: number
  weights: string[]
  problem?: string
}

const reason = (fake: Fake, library = driver): string => run('await tell(Promise.resolve(loadNative().devices().cudaReason))', fake, library) as string
const cards = (fake: Fake = {}, native = addon): Listed[] => run(`await tell(Promise.resolve(devices().filter((device) => device.kind === 'cuda')))`, fake, driver, native) as Listed[]
const load = (fake: Fake, options = `{ device: 'cuda' }`): Told => run(`await tell(Model.load('test/fixtures/neox-parallel', ${options}))`, fake) as Told

test('a driver that cannot be loaded is told with the reason of the linker', () => {
  mkdirSync(join(folder, 'text'))
  writeFileSync(join(folder, 'text/libcuda.so.1'), 'a page that says 404')
  assert.match(reason({}, join(folder, 'text')), /^no CUDA driver on this machine \(.*libcuda\.so\.1: file too short.*\); it comes with NVIDIA's driver, version 525 or newer$/)
})

test('an old driver is told with its version and the one needed', () => {
  assert.is(reason({ FAKE_VERSION: 11040 }), "the CUDA driver is too old: it is of CUDA 11.4, and ewe needs 12.0 or newer (NVIDIA's driver 525)")
})

test('a driver without a function that is needed is told with its name', () => {
  assert.is(reason({}, compile('lacking', '-DFAKE_WITHOUT_GRAPH_DESTROY')), 'the CUDA driver is broken or too old: it has no cuGraphExecDestroy')
})

test('a driver that does not start says why', () => {
  assert.match(reason({ FAKE_INIT: 100 }), /sees no card/)
  assert.match(reason({ FAKE_INIT: 34 }), /stub/)
  assert.match(reason({ FAKE_INIT: 803 }), /different versions/)
  assert.match(reason({ FAKE_INIT: 802 }), /not ready/)
  assert.is(reason({ FAKE_INIT: 999 }), 'cuInit failed: some error (999)')
  assert.match(reason({ FAKE_CARDS: 0 }), /sees no card/)
})

test('a model asked for on a card that is not there is refused with the same reason', () => {
  const told = load({ FAKE_VERSION: 11040 })
  assert.is(told.code, 'EWE_DEVICE')
  assert.match(told.message, /There is no device 'cuda': the CUDA driver is too old/)
  assert.match(load({ FAKE_CARDS: 2 }, `{ device: 'cuda:2' }`).message, /There is no device 'cuda:2': the cards here are cuda:0, cuda:1/)
})

test('cards are listed with family, memory and what they multiply', () => {
  const [card, ...rest] = cards()
  assert.equal(rest, [])
  assert.equal(
    [card!.id, card!.name, card!.family, card!.computeCapability, card!.multiprocessors, card!.weights, card!.problem],
    ['cuda:0', 'NVIDIA A100-SXM4-80GB', 'a100', 80, 108, ['bfloat16', 'float16', 'int8'], undefined],
  )
  assert.is(cards({ FAKE_NAME: 'NVIDIA A10' })[0]!.family, 'a10')
  assert.is(cards({ FAKE_NAME: 'NVIDIA GeForce RTX 3090', FAKE_CAPABILITY: 86 })[0]!.family, 'ampere')
})

test('a card without kernels in the pack, and a pack that is missing or of another build, are told', () => {
  assert.match(cards({ FAKE_CAPABILITY: 61 })[0]!.problem!, /^no kernels for a card of compute capability 6\.1: .*ewe\.kernels has them for 8\.0/)
  const alone = join(folder, 'alone')
  mkdirSync(alone)
  copyFileSync(addon, join(alone, 'ewe.node'))
  assert.match(cards({}, join(alone, 'ewe.node'))[0]!.problem!, /ewe\.kernels/)
  const other = readFileSync(join(folder, 'ewe.kernels'))
  other[20]! ^= 1
  writeFileSync(join(alone, 'ewe.kernels'), other)
  assert.match(cards({}, join(alone, 'ewe.node'))[0]!.problem!, /made from other sources/)
})

test('auto takes the first card that can run a model, else the CPU', () => {
  const chosen = (fake: Fake): unknown =>
    run(`const { chooseDevice } = await import(${JSON.stringify(new URL('../../src/devices.js', import.meta.url).href)}); await tell(Promise.resolve(chooseDevice('auto').id))`, fake)
  assert.is(chosen({}), 'cuda:0')
  assert.is(chosen({ FAKE_CAPABILITY: 61 }), 'cpu')
  assert.is(chosen({ FAKE_CARDS: 0 }), 'cpu')
})

test('a model that does not fit is refused with the bytes, and the process goes on', () => {
  const told = run(
    `await tell(Model.load('test/fixtures/neox-parallel', { device: 'cuda', maxContext: 1 << 20, maxBatch: 64 }))
await tell(Model.load('test/fixtures/neox-parallel', { device: 'cuda' }).then((model) => [model.plan.device, model.plan.weights]))
await tell(Model.load('test/fixtures/neox-parallel', { device: 'cpu' }).then((model) => model.complete([1, 2, 3], { maxNewTokens: 2 })).then(({ tokens }) => tokens.length))`,
    { FAKE_MIB: 64 },
  ) as [Told, string[], number]
  assert.is(told[0].code, 'EWE_OUT_OF_MEMORY')
  assert.match(told[0].message, /^the card has no \d+ bytes left: \d+ of its 67108864 are free$/)
  assert.equal(told[1], ['cuda:0', 'bfloat16'])
  assert.is(told[2], 2)
})

test('kernels that the driver does not take are told with its version', () => {
  const told = load({ FAKE_LOAD: 209, FAKE_VERSION: 12040 })
  assert.is(told.code, 'EWE_DEVICE')
  assert.match(told.message, /the CUDA driver \(of CUDA 12\.4\) does not take the kernels of norm: some error \(209\); a newer driver may \(580 or newer\)/)
})

test('a card that is in use by others is told', () => {
  assert.match(load({ FAKE_RETAIN: 46 }).message, /the card cannot be used: some error \(46\)/)
  const full = load({ FAKE_RETAIN: 2 })
  assert.is(full.code, 'EWE_OUT_OF_MEMORY')
  assert.match(full.message, /no memory left for a context/)
})

test('a kernel that the image lacks is told by name', () => {
  const told = run(`const model = await Model.load('test/fixtures/neox-parallel', { device: 'cuda' }); await tell(model.complete([1, 2, 3], { maxNewTokens: 2 }))`, {
    FAKE_FIND: 500,
  }) as Told
  assert.is(told.code, 'EWE_DEVICE')
  assert.match(told.message, /the kernels of this build lack embed_bf16, which path 800 needs/)
})

test('a card that is lost fails this request and all later ones alike, and the CPU works on', () => {
  const told = run(
    `const model = await Model.load('test/fixtures/neox-parallel', { device: 'cuda' })
await tell(model.complete([1, 2, 3], { maxNewTokens: 2 }))
await tell(model.complete([1, 2, 3], { maxNewTokens: 2 }))
await tell(model.logits([1, 2, 3]))
await tell(model.dispose().then(() => 'disposed'))
await tell(Model.load('test/fixtures/neox-parallel', { device: 'cpu' }).then((model) => model.complete([1, 2, 3], { maxNewTokens: 2 })).then(({ tokens }) => tokens.length))`,
    { FAKE_FAULT_AT: 1 },
  ) as [Told, Told, Told, string, number]
  for (const one of told.slice(0, 3) as Told[]) {
    assert.is(one.code, 'EWE_DEVICE')
    assert.match(one.message, /the card was lost: .* failed: an illegal memory access was encountered \(700\)/)
  }
  assert.is(told[3], 'disposed')
  assert.is(told[4], 2)
})

test('weights that a card does not multiply are refused, with those that it does', () => {
  const told = load({}, `{ device: 'cuda', weights: 'float32' }`)
  assert.is(told.code, 'EWE_OPTION')
  assert.match(told.message, /Expected 'auto', 'bfloat16', 'float16' or 'int8' on NVIDIA A100-SXM4-80GB \(cuda:0\) for `weights` but received "float32"/)
})

test.run()
