// The README's examples run as they are written.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const modules = { ewe: '../src/index.js', 'ewe/server': '../src/serve/server.js' }

for (const [i, [, source]] of [...readFileSync('README.md', 'utf8').matchAll(/^```js\n(.*?)^```$/gms)].entries()) {
  test(`example ${i + 1} of the README runs and answers`, () => {
    let module = source!
    for (const [name, path] of Object.entries(modules)) module = module.replace(`from '${name}'`, `from '${new URL(path, import.meta.url).href}'`)
    assert.not.match(module, /from '[^f]/, 'an import that is not known here')
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', module], { encoding: 'utf8', timeout: 60_000 })
    assert.is(status, 0, stderr)
    assert.match(stdout, /Tokyo/)
    if (i === 0) assert.match(stdout, /^2: /m, 'three samples')
  })
}

test.run()
