/** What `ai` 7 takes. */
export const versions = ['v3', 'v4'] as const
