import type { LanguageModelV3 } from '@ai-sdk/provider'

/** What the installed `ai` takes: version 6 knows v3. With the newest packages test/newest/versions.ts stands in this one's place. */
export const versions = ['v3'] as const
export interface Specifications {
  v3: LanguageModelV3
}
