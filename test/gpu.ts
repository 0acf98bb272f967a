// The suite for a card, rehearsed on an emulated one: that scripts/gpu.mjs still runs, counts and reports. CI rehearses all of it.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const folder = mkdtempSync(join(tmpdir(), 'ewe-gpu-'))
test.after(() => rmSync(folder, { recursive: true }))

function gpu(...args: string[]): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['scripts/gpu.mjs', ...args, '--out', folder], { encoding: 'utf8' })
  return { status, output: `${stdout}${stderr}` }
}

interface Results {
  date: string
  device: string
  rehearsal?: string
  card?: unknown
  results: { name: string; microseconds: number; shareOfCopy?: number; shareOfMultiply?: number; timesExact?: number }[]
}

test('test counts what its parts ran, and keeps what they printed', () => {
  const { status, output } = gpu('test', 'doctor', 'cases', '--device', 'emulator:800', '--quick')
  assert.is(status, 0, output)
  const [, passed, failed] = /\n(\d+) passed, (\d+) failed\n$/.exec(output) ?? []
  assert.ok(Number(passed) > 20, output)
  assert.is(failed, '0')
  assert.match(readFileSync(join(folder, 'test.log'), 'utf8'), /==== cases: .*--all norm\/float16 --device emulator:800/)
})

test('test fails with its parts', () => {
  const { status, output } = gpu('test', 'cases', '--device', 'emulator:123', '--quick')
  assert.is(status, 1, output)
  assert.match(output, /FAILED cases norm\/float16: ended with 2/)
  assert.match(output, /\n0 passed, [1-9]\d* failed\n$/)
})

test('bench writes shares of the ceilings of the same run, and says that no card was measured', () => {
  const { status, output } = gpu('bench', 'surplus', '--device', 'emulator:800')
  assert.is(status, 0, output)
  const [file] = readdirSync(folder).filter((name) => name.endsWith('.json'))
  const { date, device, rehearsal, card, results } = JSON.parse(readFileSync(join(folder, file ?? ''), 'utf8')) as Results
  assert.ok(Math.abs(Date.now() - Date.parse(date)) < 600_000)
  assert.is(device, 'emulator:800')
  assert.match(rehearsal ?? '', /the times mean nothing/)
  assert.not(readdirSync('bench/results').some((name) => name.startsWith('emulator')))
  assert.is(card, undefined)
  const named = (name: string) => results.find((row) => row.name === name)
  assert.is(named('ceiling/copy')?.shareOfCopy, 1)
  for (const type of ['bfloat16', 'float16']) assert.ok((named(`ceiling/multiply ${type}`)?.shareOfMultiply ?? 0) > 0)
  const surplus = results.filter((row) => row.name.startsWith('surplus/'))
  assert.ok(surplus.length > 0)
  for (const row of surplus) assert.ok(row.microseconds > 0 && (row.shareOfCopy ?? 0) > 0, row.name)
  for (const row of surplus.filter(({ name }) => name.endsWith(', recorded'))) assert.ok((row.timesExact ?? 0) > 0, row.name)
})

test('a part that there is not is refused', () => {
  for (const what of ['test', 'bench', 'prepare']) {
    const { status, output } = gpu(what, 'nothing')
    assert.is(status, 2, output)
    assert.match(output, /node scripts\/gpu\.mjs test/)
  }
})

test.run()
