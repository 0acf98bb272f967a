// The device that the tests of the library run on: EWE_TEST_DEVICE, or the CPU. What a test says of bits and errors holds on each of them; what it says of
// float32 arithmetic holds on the CPU, and is asked of the 16-bit arithmetic of a card with bounds of its own.
import { Model, devices } from '../../src/index.js'
import type { LoadOptions } from '../../src/index.js'

export const device = process.env['EWE_TEST_DEVICE'] ?? 'cpu'
export const onCpu = device === 'cpu'
/** An emulated card is a thousand times slower than a real one: tests do with less there. */
export const emulated = device.startsWith('emulator')

/** The dtypes of weights that the device multiplies, widest first. */
export function dtypes(): NonNullable<LoadOptions['weights']>[] {
  const id = { cuda: 'cuda:0', emulator: 'emulator:800' }[device] ?? device
  const found = devices().find((one) => one.id === id)
  if (found === undefined) throw new Error(`EWE_TEST_DEVICE=${device}: no such device; devices() has ${devices().map((one) => one.id).join(', ')}`)
  return found.weights
}

/** Model.load on the device under test. */
export function load(folder: string, options: LoadOptions = {}): Promise<Model> {
  return Model.load(folder, { device, ...options })
}
