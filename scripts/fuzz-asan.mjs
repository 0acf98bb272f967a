// The long fuzz: every fuzzer, with an addon built with AddressSanitizer and UndefinedBehaviorSanitizer that loads what is accepted.
//   node scripts/fuzz-asan.mjs [--scale 1] [--seed 1]      --scale 0.01 for a short one
// Needs the tests built (npm test). Takes about an hour at scale 1 on two cores.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from './sources.mjs'

const { values } = parseArgs({ options: { scale: { type: 'string', default: '1' }, seed: { type: 'string', default: '1' } } })
const counts = { safetensors: 1_000_000, pickle: 200_000, config: 100_000 }
const hostileTokenizers = 100_000

function run(command, args, env = {}) {
  const { status, signal } = spawnSync(command, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } })
  if (status !== 0) {
    console.error(`${command} ${args.join(' ')} ended with ${signal ?? `exit code ${status}`}`)
    process.exit(1)
  }
}

run(process.execPath, ['scripts/build.mjs', '--sanitize'])
const library = (name) => spawnSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).stdout.trim()
const env = {
  LD_PRELOAD: `${library('libasan.so')} ${library('libubsan.so')}`,
  // Node leaks at exit by design. Allocations beyond 1 GiB are refused: no file of the fuzzers is that large.
  ASAN_OPTIONS: 'detect_leaks=0:quarantine_size_mb=16:max_allocation_size_mb=1024:allocator_may_return_null=0',
  EWE_NATIVE: join(root, 'build-asan/ewe.node'),
}
const scaled = (count) => String(Math.max(100, Math.round(count * Number(values.scale))))
for (const [name, count] of Object.entries(counts)) {
  run(process.execPath, [`build-test/test/fuzz/${name}.js`, '--count', scaled(count), '--seed', values.seed, '--accept', 'build-test/test/fuzz/load.js'], env)
}
run(process.execPath, ['build-test/test/tokenizer/hostile.js', scaled(hostileTokenizers)], env)
