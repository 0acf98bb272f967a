import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { chooseDevice, chooseWeights, devices } from '../src/devices.js'
import { DeviceError, OptionError } from '../src/errors.js'
import type { NativeDevice } from '../src/native.js'

const cpu: NativeDevice = { id: 'cpu', kind: 'cpu', name: 'Processor', memory: 1, weights: ['float32', 'bfloat16', 'float16', 'int8'], computeCapability: 0 }
const v100: NativeDevice = { id: 'cuda:0', kind: 'cuda', name: 'V100', memory: 1, weights: ['float16', 'int8'], computeCapability: 70 }
const h200: NativeDevice = { id: 'cuda:1', kind: 'cuda', name: 'H200', memory: 1, weights: ['bfloat16', 'float16', 'int8'], computeCapability: 90 }
const broken: NativeDevice = { ...v100, weights: [], problem: 'no kernels for it' }
const emulated: NativeDevice = { ...h200, id: 'emulator:800', kind: 'emulator', name: 'Emulated' }

function thrown(call: () => unknown): Error {
  try {
    call()
  } catch (error) {
    if (error instanceof Error) return error
  }
  throw new Error('nothing was thrown')
}

test('the CPU is listed first, with the dtypes it multiplies', () => {
  const [first] = devices()
  assert.equal([first!.id, first!.kind], ['cpu', 'cpu'])
  assert.ok(first!.weights.includes('float32') && first!.weights.includes('bfloat16') && first!.weights.includes('float16'))
})

test('auto is the first card that can run a model, else the CPU; never the emulator', () => {
  assert.is(chooseDevice('auto', { devices: [cpu, v100, h200], cudaReason: '' }), v100)
  assert.is(chooseDevice('auto', { devices: [cpu, broken, h200], cudaReason: '' }), h200)
  assert.is(chooseDevice('auto', { devices: [cpu, broken], cudaReason: '' }), cpu)
  assert.is(chooseDevice('auto', { devices: [cpu, emulated], cudaReason: 'no driver' }), cpu)
})

test('a device is found by its id; cuda is the first card and emulator the path 800', () => {
  const found = { devices: [cpu, v100, h200, emulated], cudaReason: '' }
  assert.is(chooseDevice('cpu', found), cpu)
  assert.is(chooseDevice('cuda', found), v100)
  assert.is(chooseDevice('cuda:1', found), h200)
  assert.is(chooseDevice('emulator', found), emulated)
})

test('a device that is not there, or cannot run a model, is refused with the reason', () => {
  const refused = (option: string, list: NativeDevice[], cudaReason: string): string => {
    const error = thrown(() => chooseDevice(option, { devices: list, cudaReason }))
    assert.instance(error, DeviceError)
    return error.message
  }
  assert.is(refused('cuda', [cpu], 'no driver'), "There is no device 'cuda': no driver. Use device 'cpu', or 'auto' for the best there is")
  assert.match(refused('cuda:2', [cpu, v100, h200], ''), /the cards here are cuda:0, cuda:1/)
  assert.is(refused('cuda', [cpu, broken], ''), "Device 'cuda' (V100) cannot run a model: no kernels for it")
  assert.match(refused('emulator', [cpu], ''), /build\.mjs --emulator/)
  assert.match(refused('emulator:700', [cpu, emulated], ''), /built are emulator:800/)
})

test('weights auto keeps the dtype of the file where the device multiplies it, else takes the nearest', () => {
  const chosen = (device: NativeDevice): string[] => (['float32', 'bfloat16', 'float16'] as const).map((stored) => chooseWeights('auto', stored, device))
  assert.equal(chosen(cpu), ['float32', 'bfloat16', 'float16'])
  assert.equal(chosen(h200), ['bfloat16', 'bfloat16', 'float16'])
  assert.equal(chosen(v100), ['float16', 'float16', 'float16'])
})

test('weights that a device does not multiply are refused with those that it does', () => {
  assert.is(chooseWeights('float16', 'float32', v100), 'float16')
  const bfloat16 = thrown(() => chooseWeights('bfloat16', 'float32', v100))
  assert.instance(bfloat16, OptionError)
  assert.is(bfloat16.message, "Expected 'auto', 'float16' or 'int8' on V100 (cuda:0) for `weights` but received \"bfloat16\"")
  assert.match(thrown(() => chooseWeights('float32', 'float32', h200)).message, /Expected 'auto', 'bfloat16', 'float16' or 'int8' on H200/)
})

test.run()
