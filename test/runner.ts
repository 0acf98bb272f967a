import { spawnSync } from 'node:child_process'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

function runner(...args: string[]): { status: number | null; lines: string[] } {
  const { status, stdout } = spawnSync(process.execPath, ['scripts/test.mjs', '--folder', 'test/fixtures/runner', '--timeout', '20', ...args], {
    encoding: 'utf8',
  })
  return { status, lines: stdout.trimEnd().split('\n') }
}

test('the test runner fails a file whose hook throws, that has no test, hangs, crashes or leaves early, and counts the rest', () => {
  const { status, lines } = runner()
  const about = (name: string) => lines.find((line) => line.includes(` ${name} (`))?.replace(/, [\d.]+ s\)/, ')')
  assert.is(about('good'), 'ok     good (2 of 2)')
  assert.is(about('fails'), 'FAILED fails (1 of 2)')
  assert.is(about('before'), 'FAILED before (0 of 1): a hook of its suite threw (uvu does not tell what)')
  assert.is(about('empty'), 'FAILED empty (0 of 1): has no test')
  assert.is(about('forgotten'), 'FAILED forgotten (0 of 1): ended before its tests did, with exit code 0')
  assert.is(about('hang'), 'FAILED hang (0 of 1): ran longer than 20 s')
  assert.is(about('crash'), 'FAILED crash (0 of 1): was ended by SIGSEGV')
  assert.is(about('leaves'), 'FAILED leaves (0 of 1): ended before its tests did, with exit code 1')
  assert.is(about('late'), 'FAILED late (1 of 2): passed its tests, then ended with exit code 7')
  assert.is(about('helper'), undefined, 'a file without uvu is no test file')
  assert.is(lines.at(-1), '4 passed, 8 failed')
  assert.is(status, 1)
})

test('the test runner succeeds, and runs only what was asked for', () => {
  const { status, lines } = runner('good')
  assert.is(lines.at(-1), '2 passed, 0 failed')
  assert.is(status, 0)
})

test('the test runner fails when nothing matches what was asked for', () => {
  const { status, lines } = runner('no-such-file')
  assert.is(lines.at(-1), '0 passed, 1 failed')
  assert.is(status, 1)
})

test.run()
