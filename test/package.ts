// The package as a user gets it: packed, installed without scripts and without a compiler into an empty folder, and asked.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const root = process.cwd()
const folder = mkdtempSync(join(tmpdir(), 'ewe-package-'))
const home = join(folder, 'home') // an empty project that depends on the tarball
const tools = join(folder, 'bin') // all of the PATH: node, npm, npx and the shell that npm needs
const question = 'What is the capital of Japan?'
interface Packed {
  filename: string
  size: number
  files: { path: string; size: number }[]
}
let packed: Packed = { filename: '', size: 0, files: [] }

interface Result {
  status: number | null
  stdout: string
  stderr: string
}

function run(command: string, args: string[], options: { cwd?: string; env?: Record<string, string | undefined> } = {}): Result {
  return spawnSync(command, args, { cwd: options.cwd ?? home, encoding: 'utf8', env: { ...process.env, ...options.env } })
}

function succeed(command: string, args: string[], options: { cwd?: string; env?: Record<string, string | undefined> } = {}): string {
  const { status, stdout, stderr } = run(command, args, options)
  assert.is(status, 0, `${command} ${args.join(' ')}\n${stdout}\n${stderr}`)
  return stdout
}

/** npm, as a script for this Node. */
function npm(args: string[], options: { cwd?: string; env?: Record<string, string | undefined> } = {}): string {
  return succeed(join(tools, 'npm'), args, { ...options, env: { PATH: tools, ...options.env } })
}

function which(name: string): string {
  const found = (process.env['PATH'] ?? '').split(':').find((at) => existsSync(join(at, name)))
  if (found === undefined) throw new Error(`${name} is not on the PATH`)
  return realpathSync(join(found, name))
}

test.before(() => {
  for (const at of [home, tools]) mkdirSync(at)
  symlinkSync(process.execPath, join(tools, 'node'))
  for (const name of ['npm', 'npx', 'sh']) symlinkSync(which(name), join(tools, name))
  writeFileSync(join(home, 'package.json'), JSON.stringify({ name: 'home', type: 'module', private: true }))
})
test.after(() => rmSync(folder, { recursive: true }))

test('the tarball holds the addon, the model, the types and the sources, and nothing of the workshop', () => {
  packed = (JSON.parse(npm(['pack', '--json', '--ignore-scripts', '--pack-destination', folder], { cwd: root })) as Packed[])[0] ?? packed
  const paths = packed.files.map((file) => file.path)
  const wanted = ['dist/index.js', 'dist/index.d.ts', 'dist/cli/main.js', 'models/lamb/model.safetensors', 'models/lamb/tokenizer.json', 'LICENSE', 'README.md']
  for (const path of [...wanted, 'native/ops/args.h', 'sources.json', 'CMakeLists.txt', 'binding.gyp', 'scripts/build.mjs']) assert.ok(paths.includes(path), path)
  assert.ok(paths.some((path) => /^prebuilds\/linux-(x64|arm64)\/ewe\.node$/.test(path)), 'no addon')
  assert.equal(paths.filter((path) => /^(src|test|bench|build|node_modules|\.)|\.stamp$/.test(path)), [])
  const models = paths.filter((path) => path.startsWith('models/'))
  assert.is(models.length, 7, models.join(' '))
})

test('it installs without scripts and without a compiler, and answers', () => {
  npm(['install', '--ignore-scripts', '--prefer-offline', join(folder, packed.filename)])
  assert.is(run('sh', ['-c', 'command -v cc c++ g++ gcc make cmake python3'], { env: { PATH: tools } }).stdout, '')
  assert.match(npm(['exec', '--', 'ewe', 'generate', question]), /Tokyo/)
})

test('its command line helps and diagnoses', () => {
  assert.match(npm(['exec', '--', 'ewe', '--help']), /generate/)
  const found = JSON.parse(npm(['exec', '--', 'ewe', 'doctor', '--json'])) as { ok: boolean; problems: unknown[] }
  assert.equal([found.ok, found.problems], [true, []])
})

test('with the addon gone, help still works and the error says what to do', () => {
  const main = join(home, 'node_modules/ewe/dist/cli/main.js')
  const env = { EWE_NATIVE: join(folder, 'gone.node') }
  assert.match(succeed(process.execPath, [main, '--help'], { env }), /generate/)
  const { status, stdout, stderr } = run(process.execPath, [main, 'generate', question], { env })
  assert.equal([status, stdout], [1, ''])
  for (const part of ['gone.node: no such file', 'npx ewe doctor']) assert.match(stderr, part)
  assert.is(run(process.execPath, [main, 'doctor'], { env }).status, 1)
})

test('importing it does not load the addon', () => {
  const code = "await import('ewe'); console.log(process.report.getReport().sharedObjects.filter((path) => path.endsWith('ewe.node')).length)"
  assert.is(succeed(process.execPath, ['--input-type=module', '-e', code]).trim(), '0')
})

test('the server and the language model of the AI SDK need nothing beside the package', () => {
  for (const name of ['hono', 'pino']) assert.ok(existsSync(join(home, 'node_modules', name)), name)
  for (const name of ['@ai-sdk', '@langchain', 'bullmq', 'ioredis']) assert.not.ok(existsSync(join(home, 'node_modules', name)), `${name} is here`)
  const code = `import { Model, shippedModel } from 'ewe'
import { createServer, Jobs } from 'ewe/server'
import { languageModel } from 'ewe/ai-sdk'
const model = await Model.load(shippedModel(), { device: 'cpu' })
const jobs = await Jobs.open(model, { folder: 'jobs', modelFolder: shippedModel() })
const server = createServer(model, { jobs })
const { url } = await server.listen({ port: 0 })
const page = await fetch(url)
const prompt = [{ role: 'user', content: [{ type: 'text', text: '${question}' }] }]
const texts = []
for (const version of ['v3', 'v4']) texts.push((await languageModel(model, version).doGenerate({ prompt, temperature: 0 })).content[0].text)
console.log(JSON.stringify([page.status, page.headers.get('content-type'), texts]))
await server.close()
await model.dispose()`
  const [status, type, texts] = JSON.parse(succeed(process.execPath, ['--input-type=module', '-e', code])) as [number, string, string[]]
  assert.equal([status, type], [200, 'text/html; charset=utf-8'])
  assert.is(texts.length, 2)
  for (const text of texts) assert.match(text, 'Tokyo')
})

test('what needs a package that is not here names it', () => {
  const { status, stderr } = run(process.execPath, ['--input-type=module', '-e', "await import('ewe/langchain')"])
  assert.is(status, 1)
  assert.match(stderr, "Cannot find package '@langchain/core'")
})

test('its types compile in a strict NodeNext project, also without the packages that may be beside it', () => {
  const code = `import { Model, type EweError } from 'ewe'
import { languageModel, type LanguageModel } from 'ewe/ai-sdk'
import { createServer, type Server, type ServerOptions } from 'ewe/server'
export const serve = (model: Model, options: ServerOptions): Server => createServer(model, options)
export const versions = (model: Model): [LanguageModel<'v3'>, LanguageModel<'v4'>] => [languageModel(model), languageModel(model, 'v4')]
// @ts-expect-error no such version
export const odd = (model: Model) => languageModel(model, 'v5')
// @ts-expect-error no such option
export const strange = (model: Model) => createServer(model, { apiKey: 'sk' })
export async function ask(): Promise<string> {
  await using model = await Model.load('/models/any')
  const answer = await model.generate('Why?', { maxNewTokens: 4 })
  return answer.text
}
export type Kind = EweError['code']
// @ts-expect-error no such option
export const wrong = async (model: Model) => model.generate('Why?', { maxNewTokenz: 4 })
`
  compile(code)
})

test('with its peer, the language model of LangChain answers', () => {
  mkdirSync(join(home, 'node_modules/@langchain'), { recursive: true })
  symlinkSync(join(root, 'node_modules/@langchain/core'), join(home, 'node_modules/@langchain/core'))
  const code = `import { Model, shippedModel } from 'ewe'
import { EweLLM } from 'ewe/langchain'
const model = await Model.load(shippedModel(), { device: 'cpu' })
console.log(await new EweLLM({ model, options: { temperature: 0 } }).invoke('${question}'))
await model.dispose()`
  assert.match(succeed(process.execPath, ['--input-type=module', '-e', code]), 'Tokyo')
})

test('the types of its language model of LangChain compile', () => {
  // LangChain's own do not with exactOptionalPropertyTypes.
  compile(
    `import type { Model } from 'ewe'
import { EweLLM } from 'ewe/langchain'
export const llm = (model: Model): Promise<string> => new EweLLM({ model, raw: true }).invoke('Why?')
// @ts-expect-error no model
export const wrong = new EweLLM({ raw: true })
`,
    { skipLibCheck: true },
  )
})

function compile(code: string, options: object = {}): void {
  writeFileSync(join(home, 'ask.ts'), code)
  const compilerOptions = { ...options, module: 'nodenext', target: 'es2022', lib: ['es2023', 'esnext.disposable'], strict: true, exactOptionalPropertyTypes: true, noEmit: true }
  const types = { types: ['node'], typeRoots: [join(root, 'node_modules/@types')] }
  writeFileSync(join(home, 'tsconfig.json'), JSON.stringify({ compilerOptions: { ...compilerOptions, ...types }, files: ['ask.ts'] }))
  succeed(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', home])
}

test('publint and are-the-types-wrong find nothing', () => {
  const tarball = join(folder, packed.filename)
  const quiet = { cwd: root, env: { NO_COLOR: '1' } }
  assert.match(succeed(process.execPath, [join(root, 'node_modules/publint/src/cli.js'), 'run', tarball, '--strict'], quiet), 'All good')
  succeed(process.execPath, [join(root, 'node_modules/@arethetypeswrong/cli/dist/index.js'), tarball, '--profile', 'esm-only'], quiet)
})

// npm's packages node-linux-* are Node itself.
for (const major of ['20', '22', '24', '26'].filter((version) => !process.version.startsWith(`v${version}.`))) {
  test(`it answers on Node ${major}`, () => {
    const cache = join(root, '.cache', `node-${major}`)
    const name = `node-linux-${process.arch}`
    const node = join(cache, 'node_modules', name, 'bin/node')
    if (!existsSync(node)) {
      mkdirSync(cache, { recursive: true })
      writeFileSync(join(cache, 'package.json'), '{"private":true}')
      npm(['install', '--ignore-scripts', '--prefer-offline', '--no-save', `${name}@${major}`], { cwd: cache })
    }
    const main = join(home, 'node_modules/ewe/dist/cli/main.js')
    const answer = succeed(node, [main, 'generate', question], { env: { PATH: dirname(node) } })
    assert.match(answer, /Tokyo/)
  })
}

test.run()
