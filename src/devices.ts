import { loadNative, type NativeDevice } from './native.js'

/**
 * The devices of this machine that ewe knows, the CPU first.
 *
 * @throws NativeError when the addon cannot be loaded.
 */
export function devices(): NativeDevice[] {
  return loadNative().devices().devices
}
