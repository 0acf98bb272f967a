#!/usr/bin/env node
// Builds what changed: the addon (prebuilds/PLATFORM/ewe.node), the TypeScript (dist/) and, where nvcc is, the kernels for CUDA devices
// (prebuilds/PLATFORM/ewe.kernels). `npm run prepare` and `ewe build` call it.
//
//   node scripts/build.mjs [--addon] [--types] [--kernels] [--emulator [--path 800]] [--cases] [--sanitize] [--tool cmake|gyp] [--force: everything again]
//
// Without a choice of parts: the addon, the types and the kernels. --kernels fails without nvcc. --cases: the program of the native test cases
// (build-cases/ewe-cases), for `npm test`.
// --emulator: the emulator with all kernels (build-emulator/), of every path or of one; scripts/emulator.mjs does more.
// --sanitize: addon and cases with AddressSanitizer and UndefinedBehaviorSanitizer, left in build-asan/.
// With CMake on the PATH the build is CMake's (through cmake-js where it is installed), else node-gyp's (python3 and make). Neither downloads anything.
// Each result has a stamp beside it, a hash of all that went into it: with nothing changed this returns at once.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { hashOfPack } from './kernel-pack.mjs'
import { KernelError, buildKernels, findCompilers, packFile } from './kernels.mjs'
import { files, kernelSources, kernelsHash, platformKey, readSources, root } from './sources.mjs'

const require = createRequire(join(root, 'package.json'))
const { values: options } = parseArgs({
  options: {
    addon: { type: 'boolean', default: false },
    types: { type: 'boolean', default: false },
    kernels: { type: 'boolean', default: false },
    emulator: { type: 'boolean', default: false },
    path: { type: 'string', default: '700,750,800,900' },
    cases: { type: 'boolean', default: false },
    sanitize: { type: 'boolean', default: false },
    force: { type: 'boolean', default: false },
    tool: { type: 'string' },
  },
})

class BuildError extends Error {}

function tryRun(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8' })
  return result.status === 0 ? result.stdout : undefined
}

/** Runs a step of the build with its output on stderr. */
function run(command, args) {
  // What npm says of Node's headers would override what is said here, and a full Node's common.gypi switches exceptions off.
  const { npm_config_nodedir: _, ...env } = process.env
  const { status, error, signal } = spawnSync(command, args, { cwd: root, env, stdio: ['ignore', 2, 2] })
  if (error) throw new BuildError(`${command}: ${error.message}`)
  if (status !== 0) throw new BuildError(`${command} ${args.join(' ')} ended with ${signal ?? `exit code ${status}`}`)
}

function hashOf(paths, ...facts) {
  const hash = createHash('sha256')
  for (const path of paths) hash.update(`${path}\0`).update(readFileSync(join(root, path))).update('\0')
  return hash.update(facts.join('\0')).digest('hex')
}

function readStamp(path) {
  return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : {}
}

// ---- The native part

function findCmake() {
  const text = tryRun('cmake', ['--version'])
  const found = text?.match(/version (\d+)\.(\d+)/)
  return found !== undefined && found !== null && (Number(found[1]) > 3 || Number(found[2]) >= 22)
}

/** node-gyp of this folder, else the one inside npm. */
function findNodeGyp() {
  try {
    return require.resolve('node-gyp/bin/node-gyp.js')
  } catch {
    const inside = 'lib/node_modules/npm/node_modules/node-gyp/bin/node-gyp.js'
    return [process.env.npm_config_node_gyp, join(dirname(process.execPath), '..', inside)].find((path) => path !== undefined && existsSync(path))
  }
}

function chooseTool() {
  if (options.tool !== undefined) return options.tool
  if (findCmake()) return 'cmake'
  if (tryRun('python3', ['--version']) !== undefined && tryRun('make', ['--version']) !== undefined && findNodeGyp() !== undefined) return 'gyp'
  throw new BuildError('no build tool: install cmake (3.22 or newer) and make, or python3 and make. On Debian and Ubuntu: apt-get install g++ make python3')
}

function buildWithCmake(folder, target, cases) {
  const settings = [`-DCMAKE_BUILD_TYPE=Release`, `-DEWE_CASES=${cases ? 'ON' : 'OFF'}`, `-DEWE_SANITIZE=${options.sanitize ? 'ON' : 'OFF'}`]
  let driver
  try {
    driver = require.resolve('cmake-js/bin/cmake-js')
  } catch {
    driver = undefined // a dependent: CMakeLists.txt needs nothing of cmake-js
  }
  if (driver === undefined) run('cmake', ['-S', root, '-B', folder, ...settings])
  else run(process.execPath, [driver, 'configure', '--log-level', 'warn', '--out', folder, ...settings.map((setting) => setting.replace(/^-D/, '--CD'))])
  const clean = options.force ? ['--clean-first'] : []
  run('cmake', ['--build', folder, ...clean, '--parallel', String(availableParallelism()), ...target.flatMap((name) => ['--target', name])])
  return folder
}

function buildWithGyp(cases) {
  // node-gyp wants a folder with Node's headers and settings, and would download one. Node-API needs neither: an empty one of the right form.
  if (options.force) rmSync(join(root, 'build'), { recursive: true, force: true })
  const headers = join(root, 'build', 'headers')
  mkdirSync(join(headers, 'include/node'), { recursive: true })
  writeFileSync(join(headers, 'include/node/config.gypi'), JSON.stringify({ target_defaults: {}, variables: {} }))
  writeFileSync(join(headers, 'include/node/common.gypi'), "{'target_defaults': {'default_configuration': 'Release', 'configurations': {'Release': {}}}}\n")
  const nodeGyp = findNodeGyp()
  if (nodeGyp === undefined) throw new BuildError('node-gyp was not found beside npm: npm install node-gyp')
  const common = ['--nodedir', headers, '--loglevel', 'warn']
  run(process.execPath, [nodeGyp, 'configure', ...common, '--', ...(cases ? ['-Dcases=1'] : [])])
  run(process.execPath, [nodeGyp, 'build', ...common, '--jobs', String(availableParallelism())])
  return join('build', 'Release')
}

/** A symbol that is nowhere shows only here: an addon is linked with Node's symbols missing. */
function checkLoads(path) {
  try {
    process.dlopen({ exports: {} }, path)
  } catch (error) {
    throw new BuildError(`the addon was built but does not load: ${error.message}`)
  }
}

/** Builds one native result unless its stamp tells that nothing changed. */
function buildNative(name, cases, output) {
  const sources = readSources()
  if ((cases ? sources.cases : sources.addon).length === 0) throw new BuildError(`sources.json lists nothing for ${name}`)
  const compiler = process.env.CXX ?? 'c++'
  const version = tryRun(compiler, ['--version']) ?? tryRun('g++', ['--version'])
  if (version === undefined) throw new BuildError(`no C++ compiler (${compiler}): on Debian and Ubuntu: apt-get install g++ make`)
  const inputs = ['sources.json', 'CMakeLists.txt', 'binding.gyp', 'package.json', 'scripts/build.mjs', 'scripts/sources.mjs']
  inputs.push(...files(root, ['native']), ...kernelSources())
  if (cases) inputs.push(...files(root, ['test', 'bench']).filter((file) => /\.(cc|h)$/.test(file)))
  const headers = ['node-addon-api/package.json', 'node-api-headers/package.json'].map((path) => require(path).version)
  const hash = hashOf(inputs, version, process.env.CXXFLAGS ?? '', process.arch, ...headers)
  const stampPath = `${join(root, output)}.stamp`
  const stamp = readStamp(stampPath)
  const current = stamp.hash === hash && existsSync(join(root, output)) && (options.tool === undefined || options.tool === stamp.tool)
  if (current && !options.force) return

  const started = Date.now()
  const tool = chooseTool()
  console.error(`ewe: building ${output} with ${tool === 'cmake' ? 'CMake' : 'node-gyp'} ...`)
  const folder = tool === 'cmake' ? buildWithCmake('build-cmake', [cases ? 'ewe-cases' : 'ewe'], cases) : buildWithGyp(cases)
  // Beside and renamed: a process that has the old file mapped keeps it.
  mkdirSync(dirname(join(root, output)), { recursive: true })
  copyFileSync(join(root, folder, name), `${join(root, output)}.new`)
  if (!cases) checkLoads(`${join(root, output)}.new`)
  renameSync(`${join(root, output)}.new`, join(root, output))
  writeFileSync(stampPath, `${JSON.stringify({ hash, tool })}\n`)
  console.error(`ewe: built ${output} in ${((Date.now() - started) / 1000).toFixed(1)} s`)
}

// ---- The TypeScript part

function buildTypes() {
  const hash = hashOf([...files(root, ['src']), 'tsconfig.json', 'scripts/build.mjs'], require('typescript/package.json').version)
  const stampPath = join(root, 'dist/.stamp')
  if (readStamp(stampPath).hash === hash && !options.force) return
  rmSync(join(root, 'dist'), { recursive: true, force: true }) // what a deleted source left behind would be packed
  run(process.execPath, [join(dirname(require.resolve('typescript/package.json')), 'bin/tsc'), '-p', 'tsconfig.json'])
  cpSync(join(root, 'src/serve/page'), join(root, 'dist/serve/page'), { recursive: true })
  const main = join(root, require('./package.json').bin.ewe)
  if (existsSync(main)) chmodSync(main, 0o755)
  writeFileSync(stampPath, `${JSON.stringify({ hash })}\n`)
}

// ---- The kernels

async function buildPack() {
  if (readSources().kernels.sources.length === 0) return
  const compilers = findCompilers()
  if (compilers !== undefined) return buildKernels(compilers, { force: options.force })
  const advice = 'scripts/cuda-toolchain.sh installs nvcc, without a GPU'
  if (options.kernels) throw new BuildError(`the kernels need nvcc, which is neither in .cuda/ nor on the PATH; ${advice}`)
  if (hashOfPack(packFile()) !== kernelsHash()) console.error(`ewe: kernels: not built (no nvcc). CUDA devices need them: ${advice}`)
}

try {
  if (options.tool !== undefined && options.tool !== 'cmake' && options.tool !== 'gyp') throw new BuildError(`--tool ${options.tool}: cmake or gyp`)
  if (options.sanitize) {
    buildWithCmake('build-asan', [], true)
  } else {
    const chosen = options.addon || options.types || options.kernels || options.emulator || options.cases
    if (options.addon || !chosen) buildNative('ewe.node', false, `prebuilds/${platformKey()}/ewe.node`)
    if (options.cases) buildNative('ewe-cases', true, 'build-cases/ewe-cases')
    if (options.emulator) run(process.execPath, ['scripts/emulator.mjs', '--path', options.path, '--folder', 'build-emulator'])
    if (options.types || !chosen) buildTypes()
    if (options.kernels || !chosen) await buildPack()
  }
} catch (error) {
  if (!(error instanceof BuildError) && !(error instanceof KernelError)) throw error
  console.error(`ewe: ${error.message}`)
  process.exitCode = 1
}
