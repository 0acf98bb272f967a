/** What the installed `ai` takes: version 6 knows v3. The newest packages have another file in this one's place (test/newest/versions.ts). */
export const versions = ['v3'] as const
