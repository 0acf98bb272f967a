// The README's example runs as it is written.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const library = new URL('../src/index.js', import.meta.url).href

for (const [i, [, source]] of [...readFileSync('README.md', 'utf8').matchAll(/^```js\n(.*?)^```$/gms)].entries()) {
  test(`example ${i + 1} of the README runs and answers`, () => {
    const module = source!.replace("from 'ewe'", `from ${JSON.stringify(library)}`)
    assert.is.not(module, source)
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', module], { encoding: 'utf8', timeout: 60_000 })
    assert.is(status, 0, stderr)
    assert.match(stdout, /Tokyo/)
    assert.match(stdout, /^2: /m, 'three samples')
  })
}

test.run()
