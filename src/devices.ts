import { DeviceError, OptionError } from './errors.js'
import { loadNative, type DTypeName, type NativeDevice, type WeightsName } from './native.js'

/**
 * The devices of this machine that ewe knows, the CPU first. One that cannot run a model says why in `problem`.
 *
 * @throws NativeError when the addon cannot be loaded.
 */
export function devices(): NativeDevice[] {
  return loadNative().devices().devices
}

/**
 * The device that an option names. `auto` is the first CUDA card that can run a model, else the CPU.
 *
 * @throws DeviceError when there is none of that name, or it cannot run a model: with the reason.
 */
export function chooseDevice(option: string, found = loadNative().devices()): NativeDevice {
  const cards = found.devices.filter((device) => device.kind === 'cuda')
  if (option === 'auto') return cards.find((card) => card.problem === undefined) ?? found.devices[0]!
  const full = { cuda: 'cuda:0', emulator: 'emulator:800' }[option] ?? option
  const chosen = found.devices.find((device) => device.id === full)
  if (chosen?.problem !== undefined) throw new DeviceError(`Device '${option}' (${chosen.name}) cannot run a model: ${chosen.problem}`)
  if (chosen !== undefined) return chosen
  if (full.startsWith('emulator')) {
    const built = found.devices.filter((device) => device.kind === 'emulator').map((device) => device.id)
    const which = built.length === 0 ? 'it is not part of the package, `node scripts/build.mjs --emulator` in a clone builds it' : `built are ${built.join(', ')}`
    throw new DeviceError(`There is no device '${option}': ${which}`)
  }
  const why = cards.length === 0 ? found.cudaReason : `the cards here are ${cards.map((card) => card.id).join(', ')}`
  throw new DeviceError(`There is no device '${option}': ${why}. Use device 'cpu', or 'auto' for the best there is`)
}

/**
 * The dtype in which a device holds the weights of a file. `auto` keeps the file's where the device multiplies it; else it is bfloat16, which has the
 * range of float32, or float16 where there is no bfloat16.
 *
 * @throws OptionError for a dtype that the device does not multiply.
 */
export function chooseWeights(option: 'auto' | WeightsName, stored: DTypeName, device: NativeDevice): WeightsName {
  const { weights } = device
  if (option === 'auto') return [stored, 'bfloat16' as const, 'float16' as const].find((dtype) => weights.includes(dtype))!
  if (weights.includes(option)) return option
  const names = ['auto', ...weights].map((dtype) => `'${dtype}'`)
  throw new OptionError('weights', `${names.slice(0, -1).join(', ')} or ${names.at(-1)} on ${device.name} (${device.id})`, option)
}
