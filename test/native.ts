import { spawnSync } from 'node:child_process'
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { NativeError } from '../src/errors.js'
import { addonPath, loadNative, tryLoad } from '../src/native.js'
import { packageFolder, packageVersion } from '../src/package.js'

const folder = mkdtempSync(join(tmpdir(), 'ewe-native-'))
test.after(() => rmSync(folder, { recursive: true }))

function causeOf(path: string): string {
  const result = tryLoad(path)
  return 'cause' in result ? result.cause : 'loaded'
}

function file(name: string, content: string | Buffer): string {
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}

/** Builds a shared library from a line of C++. */
function library(name: string, code: string, ...flags: string[]): string {
  const output = join(folder, name)
  const { status, stderr } = spawnSync('c++', ['-shared', '-fPIC', '-x', 'c++', '-', '-o', output, ...flags], { input: code, encoding: 'utf8' })
  assert.is(status, 0, stderr)
  return output
}

test('the addon loads, is of the version of the package and is loaded once', () => {
  const native = loadNative()
  assert.is(native.version(), packageVersion())
  assert.is(loadNative(), native)
})

test('the addon exports what its type says', () => {
  assert.equal(Object.keys(loadNative()).sort(), ['Engine', 'devices', 'layout', 'version'])
})

test('a missing addon is named as such', () => {
  assert.is(causeOf(join(folder, 'gone.node')), 'no such file')
})

test('a folder in the place of the addon is named as such', () => {
  mkdirSync(join(folder, 'folder.node'))
  assert.is(causeOf(join(folder, 'folder.node')), 'it is not a file')
})

test('an addon that is cut off is refused before the dynamic linker dies of it', () => {
  const whole = readFileSync(addonPath())
  for (const part of [0.1, 0.5, 0.99]) {
    assert.match(causeOf(file('cut.node', whole.subarray(0, Math.floor(whole.length * part)))), /^it is cut off: \d+ of at least \d+ bytes$/)
  }
  assert.match(causeOf(file('header.node', whole.subarray(0, 40))), 'it is not a shared library (40 bytes without an ELF header)')
  assert.match(causeOf(file('empty.node', '')), 'it is not a shared library (0 bytes')
})

test('a text file is no addon', () => {
  assert.match(causeOf(file('text.node', 'a page that says 404\n'.repeat(10))), 'without an ELF header')
})

test('an addon of another processor is named as such', () => {
  const path = file('other.node', readFileSync(addonPath()))
  const handle = openSync(path, 'r+')
  writeSync(handle, Buffer.from([process.arch === 'x64' ? 183 : 62, 0]), 0, 2, 18)
  closeSync(handle)
  assert.is(causeOf(path), process.arch === 'x64' ? 'it is built for arm64, this Node for x64' : 'it is built for x64, this Node for arm64')
})

test('a shared library that is no addon is named as such', () => {
  assert.is(causeOf(library('plain.node', 'extern "C" int answer() { return 42; }')), 'it is a shared library, but not an addon of Node')
})

test('an addon of someone else is named as such', () => {
  const code = 'extern "C" void* napi_register_module_v1(void*, void* exports) { return exports; }'
  assert.is(causeOf(library('foreign.node', code)), 'it is an addon of Node, but not that of ewe')
})

test('an addon of another version is refused with both versions', () => {
  const code = `#include <node_api.h>
static napi_value version(napi_env env, napi_callback_info) { napi_value v; napi_create_string_utf8(env, "0.0.9", 5, &v); return v; }
extern "C" napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  napi_value f; napi_create_function(env, "version", 7, version, nullptr, &f); napi_set_named_property(env, exports, "version", f); return exports;
}`
  const path = library('old.node', code, '-Inode_modules/node-api-headers/include')
  assert.is(causeOf(path), `it is of version 0.0.9, the package of version ${packageVersion()}`)
})

test('a library with a symbol that is nowhere names the symbol', () => {
  const code = 'extern "C" int nowhere(); extern "C" void* napi_register_module_v1(void*, void* e) { nowhere(); return e; }'
  assert.match(causeOf(library('symbol.node', code, '-Wl,-z,now')), 'undefined symbol: nowhere')
})

test('the error of an addon that cannot be loaded lists what was tried and the commands that help', () => {
  const code = `import { loadNative } from ${JSON.stringify(new URL('../src/native.js', import.meta.url).href)}
try { loadNative() } catch (error) { console.log(JSON.stringify({ name: error.name, code: error.code, message: error.message })) }`
  const path = join(folder, 'gone.node')
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8', env: { ...process.env, EWE_NATIVE: path } })
  const error = JSON.parse(stdout) as { name: string; code: string; message: string }
  assert.is(error.name, NativeError.name)
  assert.is(error.code, 'EWE_NATIVE')
  for (const part of [`tried ${path}: no such file`, 'unset EWE_NATIVE', 'npm run build', 'npx ewe doctor']) assert.match(error.message, part)
})

test('the files of the package are found from its own folder', () => {
  assert.is(packageFolder(), process.cwd())
})

test.run()
