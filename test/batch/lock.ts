import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Lock } from '../../src/batch/lock.js'
import { BatchError } from '../../src/errors.js'

const folder = mkdtempSync(join(tmpdir(), 'ewe-lock-'))
test.after(() => rmSync(folder, { recursive: true }))
const output = join(folder, 'out.jsonl')

async function refused(): Promise<void> {
  await Lock.take(output).then(
    () => assert.unreachable(),
    (error: unknown) => {
      assert.instance(error, BatchError)
      assert.match((error as Error).message, /Another job, process \d+, is writing/)
    },
  )
}

test('one job holds an output, and the next one may when it lets go', async () => {
  const lock = await Lock.take(output)
  await refused()
  const other = await Lock.take(`${output}2`)
  await lock.release()
  const next = await Lock.take(output)
  await next.release()
  await other.release()
  assert.equal(readdirSync(folder), [])
})

test('a process that runs keeps its lock, and that of a killed one is removed', async () => {
  const child = spawn('sleep', ['60'])
  const start = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1]!.split(' ')[19]
  const name = `${output}.lock.${child.pid}-${start}`
  writeFileSync(name, '')
  await refused()
  assert.equal(readdirSync(folder).length, 1, 'who was refused leaves nothing')
  child.kill('SIGKILL')
  await once(child, 'exit')
  const lock = await Lock.take(output)
  assert.equal(readdirSync(folder).length, 1)
  await lock.release()
  assert.equal(readdirSync(folder), [])
})

test('a number that another process has by now holds nothing', async () => {
  writeFileSync(`${output}.lock.${process.ppid}-1`, '')
  const lock = await Lock.take(output)
  await lock.release()
  assert.equal(readdirSync(folder), [])
})

test.run()
