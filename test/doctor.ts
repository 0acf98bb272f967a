import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { diagnose, environmentVariables } from '../src/cli/doctor.js'
import { packageVersion } from '../src/package.js'

test('doctor finds this machine able to generate', async () => {
  const found = await diagnose()
  assert.equal(found.problems, [])
  assert.ok(found.ok)
  assert.is(found.addon.version, packageVersion())
  assert.ok(found.cpu.instructionSets.includes('plain'))
  assert.ok(found.cpu.threads >= 1)
  assert.ok(found.cuda.devices.length > 0 || found.cuda.reason !== '', 'no CUDA device and no reason')
})

test('doctor works without the addon and says what to do', async () => {
  process.env['EWE_NATIVE'] = '/gone/ewe.node'
  try {
    const found = await diagnose()
    assert.is(found.ok, false)
    assert.is(found.addon.cause, 'no such file')
    assert.equal(
      found.problems.map((problem) => [problem.what, problem.fatal]),
      [['the native addon cannot be loaded: no such file', true]],
    )
  } finally {
    delete process.env['EWE_NATIVE']
  }
})

test('every environment variable that the sources read is one that doctor shows', () => {
  const read = new Set<string>()
  for (const name of readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))) {
    for (const match of readFileSync(join('src', name), 'utf8').matchAll(/\benv(?:\.|\[')([A-Z][A-Z0-9_]*)/g)) read.add(match[1] ?? '')
  }
  assert.ok(read.has('EWE_NATIVE'))
  assert.equal([...read].filter((name) => !(name in environmentVariables)), [])
})

test('what doctor prints holds no key', async () => {
  process.env['EWE_API_KEY'] = 'a-key-of-mine'
  try {
    const { environment } = await diagnose()
    assert.is(environment['EWE_API_KEY'], 'set')
    assert.not.ok(JSON.stringify(environment).includes('a-key-of-mine'))
  } finally {
    delete process.env['EWE_API_KEY']
  }
})

test.run()
