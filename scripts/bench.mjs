// npm run bench: builds what changed, then runs bench/main.ts with the rest of the command line.
import { spawnSync } from 'node:child_process'
import { root } from './sources.mjs'

const steps = [
  ['scripts/build.mjs', '--addon', '--types'],
  ['node_modules/typescript/bin/tsc', '-p', 'test/tsconfig.json'],
  ['build-test/bench/main.js', ...process.argv.slice(2)],
]
for (const step of steps) {
  const { status } = spawnSync(process.execPath, step, { cwd: root, stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}
