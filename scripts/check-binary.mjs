// node scripts/check-binary.mjs FOLDER      checks what a build left in build-cmake or build/Release
// node scripts/check-binary.mjs --self-test checks that each rule below turns red
//
//  - the addon needs nothing newer than glibc 2.34 (Ubuntu 22.04, Debian 12, RHEL 9), no libstdc++ and no CUDA library, and exports only what Node calls.
//    libgcc_s is dynamic, for the static one of g++ 12 asks for glibc 2.35; Node itself needs it, so it is always there
//  - code of the baseline holds no AVX-512 register, and no AVX register but in the AVX2 library: an older processor would die of it
//  - a library of an instruction set defines nothing outside its own namespace: the linker could keep its copy of a function that others use
import { execFileSync } from 'node:child_process'
import { mkdtempSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readSources, sets } from './sources.mjs'

const floor = [2, 34]
const allowed = new Set(['libc.so.6', 'libm.so.6', 'libdl.so.2', 'libpthread.so.0', 'libgcc_s.so.1', 'ld-linux-x86-64.so.2', 'ld-linux-aarch64.so.1'])
const exported = new Set(['napi_register_module_v1', 'node_api_module_get_api_version_v1'])

function tool(name, ...args) {
  return execFileSync(name, args, { encoding: 'utf8', maxBuffer: 1 << 30 })
}

/** Problems of a shared library, and the facts that were looked at. */
function checkLibrary(path) {
  const problems = []
  const symbols = tool('objdump', '-T', path).split('\n').filter((line) => /^[0-9a-f]{8,}/.test(line))
  const versions = symbols.flatMap((line) => line.match(/GLIBC_([\d.]+)/)?.slice(1) ?? [])
  const newest = versions.map((text) => text.split('.').map(Number)).sort((a, b) => a[0] - b[0] || a[1] - b[1]).at(-1)
  if (newest === undefined) problems.push(`${path}: no symbol of glibc was found`)
  else if (newest[0] > floor[0] || newest[1] > floor[1]) {
    const culprits = symbols.filter((line) => line.includes(`GLIBC_${newest.join('.')})`)).map((line) => line.split(/\s+/).at(-1))
    problems.push(`${path}: needs glibc ${newest.join('.')} for ${culprits.join(', ')}`)
  }
  const needed = [...tool('objdump', '-p', path).matchAll(/NEEDED\s+(\S+)/g)].map((match) => match[1])
  for (const library of needed) if (!allowed.has(library)) problems.push(`${path}: needs ${library}`)
  const unresolved = symbols.filter((line) => line.includes('*UND*') && !/ w | {2}w|\(|GLIBC|GCC_/.test(line)).map((line) => line.split(/\s+/).at(-1))
  for (const name of unresolved) if (!/^(napi|node_api)_/.test(name)) problems.push(`${path}: uses ${name}, which is nowhere`)
  const own = symbols.filter((line) => !line.includes('*UND*')).map((line) => line.split(/\s+/).at(-1))
  for (const name of own) if (!exported.has(name)) problems.push(`${path}: exports ${name}`)
  if (own.length === 0) problems.push(`${path}: exports nothing`)
  return { problems, facts: `${symbols.length} symbols, newest of glibc ${newest?.join('.')}, needs ${needed.join(' ')}, exports ${own.join(' ')}` }
}

/** Problems of the objects of one library (native, ewe, cpu_SET). */
function checkObjects(library, objects) {
  const problems = []
  const set = library.startsWith('cpu_') ? library.slice(4) : undefined
  const forbidden = set?.startsWith('avx512') ? undefined : set === 'avx2' ? /%zmm\d+/ : /%[yz]mm\d+/
  let wide = 0
  for (const object of objects) {
    const code = tool('objdump', '-d', '--no-show-raw-insn', object)
    const found = forbidden?.exec(code)
    if (found) problems.push(`${object}: uses ${found[0]}`)
    if (/%zmm\d+/.test(code)) wide++
    if (set === undefined) continue
    for (const line of tool('nm', '-C', '--defined-only', '--extern-only', object).split('\n')) {
      const [, kind, name] = /^[0-9a-f]* *([A-Za-z]) (.+)$/.exec(line) ?? []
      if (name !== undefined && !name.startsWith('DW.ref.') && !name.includes(`ewe::cpu_${set}::`)) problems.push(`${object}: defines ${name} (${kind})`)
    }
  }
  if (set?.startsWith('avx512') && wide === 0) problems.push(`${library}: no AVX-512 register in ${objects.length} objects: was it built with its flags?`)
  return problems
}

function objectsOf(folder, library) {
  const places = [join(folder, 'CMakeFiles', `${library}.dir`), join(folder, 'obj.target', library)]
  for (const place of places) {
    let names
    try {
      names = readdirSync(place, { recursive: true })
    } catch (error) {
      if (error.code !== 'ENOENT') throw error
      continue
    }
    return names.filter((name) => name.endsWith('.o')).map((name) => join(place, name))
  }
  return []
}

function checkFolder(folder) {
  const { problems, facts } = checkLibrary(join(folder, 'ewe.node'))
  console.log(`${folder}/ewe.node: ${facts}`)
  const sources = readSources()
  const libraries = { native: sources.native.length + sources.cuda.length, ewe: sources.addon.length }
  for (const set of sets(sources)) libraries[`cpu_${set}`] = sources.isa.sources.length
  for (const [library, count] of Object.entries(libraries)) {
    const objects = objectsOf(folder, library)
    if (objects.length !== count || count === 0) problems.push(`${library}: ${objects.length} objects, but ${count} sources`)
    problems.push(...checkObjects(library, objects))
    console.log(`${folder}: ${library}: ${objects.length} objects`)
  }
  return problems
}

function selfTest() {
  const folder = mkdtempSync(join(tmpdir(), 'ewe-check-'))
  const compile = (name, text, ...flags) => {
    const source = join(folder, `${name}.cc`)
    writeFileSync(source, text)
    mkdirSync(join(folder, 'o'), { recursive: true })
    const output = join(folder, 'o', flags.includes('-shared') ? `${name}.so` : `${name}.o`)
    tool('g++', '-O2', '-fPIC', ...(flags.includes('-shared') ? [] : ['-c']), ...flags, source, '-o', output)
    return output
  }
  const wide = 'namespace ewe::cpu_avx512 { void f(float* a) { for (int i = 0; i < 64; i++) a[i] *= 2; } }'
  const flags = ['-mavx512f', '-mprefer-vector-width=512', '-ftree-vectorize', '-O3']
  /** @type {[name: string, check: () => string[], expected: RegExp][]} */
  const expectations = [
    ['a register of AVX-512 in the baseline', () => checkObjects('native', [compile('wide', wide, ...flags)]), /uses %[yz]mm/],
    ['AVX-512 flags that had no effect', () => checkObjects('cpu_avx512', [compile('narrow', wide)]), /no AVX-512 register/],
    ['a shared inline function', () => checkObjects('cpu_plain', [compile('weak', 'inline int twice(int a) { return a * 2; }\nnamespace ewe::cpu_plain { int (*f)(int) = twice; }')]), /defines twice\(int\) \(W\)/],
    ['an export', () => checkLibrary(compile('exports', '#include <cstdlib>\nextern "C" int surplus() { return std::rand(); }', '-shared')).problems, /exports surplus/],
    ['a dynamic libstdc++', () => checkLibrary(compile('dynamic', '#include <string>\nstd::string napi_register_module_v1(int n) { return std::string(n, 65); }', '-shared')).problems, /needs libstdc\+\+/],
    ['a symbol that is nowhere', () => checkLibrary(compile('nowhere', 'extern "C" int nowhere();\nextern "C" int napi_register_module_v1() { return nowhere(); }', '-shared')).problems, /uses nowhere, which is nowhere/],
    ['a new symbol of glibc', () => checkLibrary(compile('new', 'extern "C" unsigned arc4random();\nextern "C" unsigned napi_register_module_v1() { return arc4random(); }', '-shared')).problems, /needs glibc 2\.36 for arc4random/],
  ]
  const problems = []
  for (const [name, check, expected] of expectations) {
    const found = check()
    if (!found.some((problem) => expected.test(problem))) problems.push(`not noticed: ${name} (found: ${found.join('; ') || 'nothing'})`)
  }
  rmSync(folder, { recursive: true })
  console.log(`self-test: ${expectations.length} rules`)
  return problems
}

const [argument] = process.argv.slice(2)
if (argument === undefined) throw new Error('usage: node scripts/check-binary.mjs FOLDER | --self-test')
const problems = argument === '--self-test' ? selfTest() : checkFolder(argument)
for (const problem of problems) console.error(problem)
process.exitCode = problems.length > 0 ? 1 : 0
