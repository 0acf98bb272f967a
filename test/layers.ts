// The rules of the house, checked by reading the sources: who may include or import whom, what only one file may contain, how long a file may be.
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { basename, dirname, join, normalize } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

/** Path -> text. */
type Tree = Record<string, string>

// TypeScript, bottom row first. A file may import its own part and rows below; the parts of one row do not know each other.
const rows = [
  ['errors.ts'],
  ['package.ts'],
  ['native.ts'],
  ['prompts.ts', 'checkpoint', 'tokenizer', 'memory', 'devices.ts'],
  ['options.ts'],
  ['plan.ts'],
  ['answers.ts'],
  ['engine.ts'],
  ['model.ts'],
  ['openai'],
  ['openai.ts'],
  ['serve', 'batch', 'adapters', 'train'],
  ['index.ts'],
  ['cli'],
]
const sidesteps = ['src/serve/jobs.ts -> src/batch/']

// Native code: which parts a part may include, besides itself and base. `a/b` is one header.
const may: Record<string, string[]> = {
  base: [],
  ops: [],
  model: ['ops'],
  engine: ['model', 'ops'],
  cpu: ['ops'],
  cuda: ['ops', 'kernels/plan.h', 'kernels/*.plan.h'],
  emulator: ['cuda/driver.h', 'kernels/*.cu'],
  napi: ['engine', 'model', 'ops'],
  'napi/devices': ['cpu', 'cuda', 'emulator', 'ops'],
  kernels: ['ops/args.h', 'ops/draw.h'],
  'kernels/seam': ['emulator/twins.h'],
}
const pure = ['scheduler', 'pages', 'text', 'layout'] // of engine: no clocks, no threads
const assembler: Record<string, string> = {
  'native/base/threads.cc': 'the yield of aarch64 has no intrinsic in every g++',
  'native/emulator/fiber.cc': 'the switch between fibers',
}
export function problems(tree: Tree): string[] {
  const found: string[] = []
  for (const [path, text] of Object.entries(tree)) {
    const limit = /^(src|native|kernels|test|bench|scripts)\//.test(path)
    const count = text.split('\n').length - 1
    if (limit && count > 400) found.push(`${path}: ${count} lines, more than 400`)
    text.split('\n').forEach((line, index) => {
      const broken = path.startsWith('src/') ? importProblem(path, line, tree) : /^(native|kernels)\//.test(path) ? nativeProblem(path, line) : undefined
      if (broken !== undefined) found.push(`${path}:${index + 1}: ${line.trim()} (${broken})`)
    })
  }
  return [...found, ...stemProblems(tree)]
}

function importProblem(path: string, line: string, tree: Tree): string | undefined {
  if (/\bdlopen\b|\.node['"`]/.test(code(line)) && path !== 'src/native.ts' && path !== 'src/cli/doctor.ts') return 'only src/native.ts touches the addon'
  const target = /(?:from|import\()\s*'(\.[^']+)'|^import '(\.[^']+)'/.exec(line)
  if (target === null) return undefined
  const to = normalize(join(dirname(path), (target[1] ?? target[2] ?? '').replace(/\.js$/, '.ts')))
  if (!(to in tree)) return `${to} does not exist`
  if (sidesteps.some((step) => `${path} -> ${to}`.startsWith(step))) return undefined
  const part = (file: string) => file.split('/')[1] ?? ''
  const row = (file: string) => rows.findIndex((parts) => parts.includes(part(file)))
  if (row(path) < 0 || row(to) < 0) return `${row(path) < 0 ? path : to} has no row in test/layers.ts`
  return part(path) === part(to) || row(to) < row(path) ? undefined : `${part(path)} may not know ${part(to)}`
}

function nativeProblem(path: string, line: string): string | undefined {
  const text = code(line)
  const [, part = '', stem = ''] = /^(?:native\/)?([^/]+)\/([^.]+)/.exec(path) ?? []
  if (/\basm\b|__asm/.test(text) && path !== 'kernels/seam.cuh' && !(path in assembler)) return 'assembler belongs in kernels/seam.cuh'
  if (/__CUDA_ARCH__|<<</.test(text) && path !== 'kernels/seam.cuh') return 'only kernels/seam.cuh knows architectures and launches'
  const system = /^#include <(.+)>/.exec(text)?.[1]
  if (system !== undefined) {
    if (/^(napi|node_api|js_native_api)/.test(system) && part !== 'napi') return 'only napi knows Node'
    if (/^native\/ops\/(args|draw)\.h$|^kernels\//.test(path)) return 'device compilers read this file: no standard header'
    if (part === 'engine' && pure.includes(stem) && /^(chrono|ctime|time\.h|thread|mutex)$/.test(system)) return `${stem} knows no clocks and no threads`
    return undefined
  }
  const to = /^#include "(.+)"/.exec(text)?.[1]
  if (to === undefined) return undefined
  const target = to.includes('/') ? to.replace(/^.*?(kernels\/)/, '$1') : `${part}/${to}`
  const toPart = target.split('/')[0] ?? ''
  if (part === 'kernels' && toPart === 'kernels') {
    // A kernel is built of .cuh files, which name the plans they were written for, and of its own plan; a plan may go on from another.
    if (path.endsWith('.cu')) return target === `kernels/${stem}.plan.h` || target.endsWith('.cuh') ? undefined : 'a kernel knows its own plan'
    return target.endsWith('.cuh') && path.endsWith('.h') ? 'a plan is plain C++ for the host too' : undefined
  }
  if (toPart === part || (toPart === 'base' && part !== 'kernels')) return undefined
  const allowed = [...(may[part] ?? []), ...(may[`${part}/${stem}`] ?? [])]
  const fits = (rule: string) => rule === toPart || new RegExp(`^${rule.replace(/[.]/g, '\\.').replace('*', '[^/]+')}$`).test(target)
  return allowed.some(fits) ? undefined : `${part} may not know ${target}`
}

/** An op is a virtual function of ops.h over a struct of args.h that has a cost; its stem is the file of cpu/ that implements it. */
function stemProblems(tree: Tree): string[] {
  const costs = [...(tree['native/ops/args.h'] ?? '').matchAll(/\bcost\(const (\w+)&/g)].map((match) => match[1])
  const ops = [...(tree['native/ops/ops.h'] ?? '').matchAll(/virtual Status (\w+)\(const (\w+)&\w*\) = 0/g)]
  const paths = Object.keys(tree)
  const kernels = paths.some((path) => path.startsWith('kernels/') && path.endsWith('.cu'))
  const found = costs.filter((name) => !ops.some((op) => op[2] === name)).map((name) => `native/ops/ops.h: no function for ${name} of args.h`)
  for (const [, name = '', struct = ''] of ops) {
    if (!new RegExp(`struct ${struct}\\b`).test(tree['native/ops/args.h'] ?? '')) continue
    if (!costs.includes(struct)) found.push(`native/ops/args.h: ${struct} has no cost`)
    const home = paths.find((path) => /^native\/cpu\/\w+\.cc$/.test(path) && new RegExp(`::${name}\\(const ${struct}&`).test(tree[path] ?? ''))
    const stem = home?.replace(/^.*\/|\.cc$/g, '')
    if (stem === undefined) found.push(`native/cpu: no file implements ${name}(const ${struct}&)`)
    else if (!paths.includes(`test/ops/${stem}.cc`)) found.push(`test/ops/${stem}.cc is missing: ${home} implements ${name}`)
    else if (kernels && !paths.includes(`kernels/${stem}.cu`)) found.push(`kernels/${stem}.cu is missing: ${home} implements ${name}`)
  }
  return found
}

/** A line without its `//` comment. */
function code(line: string): string {
  return line.replace(/\/\/.*$/, '').replace(/^\s*\*.*$/, '')
}

/** Paths that a document names in backticks or links to. */
export function pathsIn(text: string): string[] {
  const named = text.matchAll(/`((?:\.ci|src|native|kernels|test|bench|scripts|models)\/[\w./-]*)`|\]\((?!https?:|#)([^)#]+)/g)
  return [...named].map((match) => (match[1] ?? match[2] ?? '').replace(/[./]+$/, ''))
}

/** Whether a path exists; NAME in it stands for the stem of any file. */
function standsFor(path: string): boolean {
  if (!path.includes('NAME') || !existsSync(dirname(path))) return existsSync(path)
  const [before = '', after = ''] = basename(path).split('NAME')
  return readdirSync(dirname(path)).some((name) => name.startsWith(before) && name.endsWith(after))
}

function readTree(tops: string[]): Tree {
  const tree: Tree = {}
  for (const top of tops) {
    for (const name of readdirSync(top, { recursive: true, encoding: 'utf8' })) {
      const path = join(top, name)
      if (/\.(ts|mjs|cc|h|cu|cuh|sh)$/.test(name) && !path.startsWith('test/fixtures/')) tree[path] = readFileSync(path, 'utf8')
    }
  }
  return tree
}

test('every include and import of the sources obeys the house', () => {
  const tree = readTree(['src', 'native', 'kernels', 'test', 'bench', 'scripts'].filter((top) => existsSync(top)))
  for (const top of ['src/', 'native/', 'test/']) assert.ok(Object.keys(tree).some((path) => path.startsWith(top)), `no file of ${top} was read`)
  assert.equal(problems(tree), [])
})

test('every native source is listed in sources.json, so that both builds have it', () => {
  const paths = Object.keys(readTree(['native', 'kernels', 'test'].filter((top) => existsSync(top)))).filter((path) => /\.(cc|cu)$/.test(path))
  const listed = readFileSync('sources.json', 'utf8')
  assert.ok(paths.length > 0)
  assert.equal(paths.filter((path) => !listed.includes(`"${path}"`)), [])
})

test('every path that the documents name exists', () => {
  for (const document of ['README.md', 'CONTRIBUTING.md']) {
    const paths = pathsIn(readFileSync(document, 'utf8'))
    assert.ok(paths.length > 0, `${document} names no path`)
    assert.equal(paths.filter((path) => !standsFor(path)), [], document)
  }
})

// Each rule turns red.
const op = { 'native/ops/ops.h': 'virtual Status norm(const Norm&) = 0;', 'native/ops/args.h': 'struct Norm {' }
const refused: [string, Tree, string][] = [
  ['an import of a higher row', { 'src/native.ts': "import { Model } from './model.js'", 'src/model.ts': '' }, 'native.ts may not know model.ts'],
  ['an import of a sibling', { 'src/memory/planner.ts': "import type { A } from '../checkpoint/config.js'", 'src/checkpoint/config.ts': '' }, 'memory may not know checkpoint'],
  ['a dynamic import upwards', { 'src/model.ts': "await import('./cli/main.js')", 'src/cli/main.ts': '' }, 'model.ts may not know cli'],
  ['an import of a file without a row', { 'src/model.ts': "import './odd.js'", 'src/odd.ts': '' }, 'has no row'],
  ['an import of nothing', { 'src/model.ts': "import { a } from './gone.js'" }, 'src/gone.ts does not exist'],
  ['the addon touched elsewhere', { 'src/model.ts': 'process.dlopen(holder, path)' }, 'only src/native.ts touches the addon'],
  ['an include upwards', { 'native/model/forward.cc': '#include "engine/loop.h"' }, 'model may not know engine/loop.h'],
  ['a device named outside napi/devices', { 'native/napi/addon.cc': '#include "cpu/cpu.h"' }, 'napi may not know cpu/cpu.h'],
  ['Node known outside napi', { 'native/engine/loop.cc': '#include <node_api.h>' }, 'only napi knows Node'],
  ['a clock in the scheduler', { 'native/engine/scheduler.cc': '#include <chrono>' }, 'scheduler knows no clocks'],
  ['a standard header in args.h', { 'native/ops/args.h': '#include <cstdint>' }, 'no standard header'],
  ['a kernel that reads another plan', { 'kernels/norm.cu': '#include "linear.plan.h"' }, 'its own plan'],
  ['a plan that reads device code', { 'kernels/norm.plan.h': '#include "tile.cuh"' }, 'plain C++ for the host'],
  ['assembler outside the seam', { 'kernels/norm.cu': '  asm volatile("bar.sync 0;");' }, 'kernels/seam.cuh'],
  ['an architecture test outside the seam', { 'kernels/norm.cu': '#if __CUDA_ARCH__ >= 800' }, 'kernels/seam.cuh'],
  ['a long file', { 'native/engine/loop.cc': 'int x;\n'.repeat(401) }, '401 lines'],
  ['an op without a cost', { ...op }, 'Norm has no cost'],
  ['a cost without an op', { 'native/ops/args.h': 'constexpr Cost cost(const Norm& a) {' }, 'no function for Norm'],
  ['an op that no file implements', { ...op }, 'no file implements norm'],
  ['an op without cases', { ...op, 'native/cpu/norm.cc': 'Status Cpu::norm(const Norm& a) {' }, 'test/ops/norm.cc is missing'],
]
for (const [name, tree, message] of refused) {
  test(`refuses ${name}`, () => {
    const found = problems(tree)
    assert.ok(found.some((problem) => problem.includes(message)), `expected "${message}" among: ${found.join('; ') || 'nothing'}`)
  })
}

test('accepts what the house allows', () => {
  const tree: Tree = {
    'src/errors.ts': '',
    'src/batch/job.ts': '',
    'src/serve/jobs.ts': "import { a } from '../batch/job.js'",
    'native/napi/devices.cc': '#include "cpu/cpu.h"\n#include "napi/devices.h"\n#include "base/error.h"',
    'kernels/norm.cu': '#include "norm.plan.h"\n#include "seam.cuh"\n#include "rownorm.cuh"\n#include "ops/args.h"',
    'kernels/block.plan.h': '#include "linear.plan.h"',
    'native/cuda/backend.cc': '#include "kernels/norm.plan.h"\n#include "cuda/driver.h"  // no asm here',
  }
  assert.equal(problems(tree), [])
})

test.run()
