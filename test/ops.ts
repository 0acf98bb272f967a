// The native test cases of the ops, one test each. They are C++ (test/ops/*.cc), built as a program of their own; each runs in a process of its own.
import { spawnSync } from 'node:child_process'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const program = 'build-cases/ewe-cases'

function run(...args: string[]): { status: number | null; signal: string | null; stdout: string; stderr: string } {
  return spawnSync(program, args, { encoding: 'utf8', timeout: 120_000 })
}

const listed = run('--list')
const names = listed.stdout.split('\n').filter((name) => name !== '')

test('the native cases can be listed', () => {
  assert.is(listed.status, 0, listed.stderr)
  assert.ok(names.length > 0)
})

for (const name of names) {
  test(name, () => {
    const { status, signal, stdout, stderr } = run('--run', name)
    assert.is(signal, null, `${stdout}${stderr}`)
    assert.is(status, 0, `${stdout}${stderr}`)
  })
}

test.run()
