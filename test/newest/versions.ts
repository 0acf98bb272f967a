import type { LanguageModelV3, LanguageModelV4 } from '@ai-sdk/provider'

/** What `ai` 7 takes. */
export const versions = ['v3', 'v4'] as const
export interface Specifications {
  v3: LanguageModelV3
  v4: LanguageModelV4
}
