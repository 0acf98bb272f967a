import { InternalError } from '../errors.js'
import type { Family } from './family.js'
import { gptj } from './gptj.js'
import { neox } from './neox.js'

/** Every family that ewe runs. */
export const families: readonly Family[] = [neox, gptj]

/** The family of a `model_type`. */
export function familyOf(modelType: string): Family {
  const family = families.find((one) => one.modelType === modelType)
  if (family === undefined) throw new InternalError(`there is no family ${modelType}`)
  return family
}
