import { spawnSync } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { availableParallelism, cpus, freemem, totalmem } from 'node:os'
import { join } from 'node:path'
import { addonPath, glibcVersion, platformKey, tryLoad } from '../native.js'
import type { NativeDevice } from '../native.js'
import { packageFolder, packageVersion } from '../package.js'

/** Every environment variable that ewe reads. */
export const environmentVariables: Record<string, string> = {
  EWE_API_KEY: 'the key that `ewe serve` asks its clients for',
  EWE_EMULATOR: 'how the emulator of cards runs its threads (native/emulator/settings.h)',
  EWE_EMULATOR_DIR: 'folder of the emulators of cards, libewe-emulator-PATH.so',
  EWE_NATIVE: 'path of the native addon to load instead of the one in the package',
  HF_HOME: 'folder of the Hugging Face caches; default ~/.cache/huggingface',
  HF_HUB_CACHE: 'folder of the Hub cache; default hub in HF_HOME',
  NO_COLOR: 'no colours in the output of the command line',
}

/** Shown as set or not: what doctor prints is sent around. */
const secret = new Set(['EWE_API_KEY'])

const modelFiles = ['config.json', 'generation_config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json']

/** What `ewe doctor` found. */
export interface Diagnosis {
  /** Whether text can be generated on the CPU. */
  ok: boolean
  ewe: { version: string; folder: string }
  node: { version: string; path: string }
  platform: { key: string; glibc: string | undefined }
  addon: { path: string; version?: string; cause?: string }
  /** Memory in bytes. */
  cpu: { name: string; threads: number; memory: number; freeMemory: number; instructionSets: string[] }
  cuda: { devices: NativeDevice[]; reason: string }
  tokenizer: { cause?: string }
  /** The model that ships with the package. */
  model: { folder: string; missing: string[] }
  /** First line of each tool's `--version`, or nothing: what `ewe build` can use. */
  tools: Record<string, string | undefined>
  environment: Record<string, string | undefined>
  /** What is missing, each with what to do. */
  problems: { what: string; help: string; fatal: boolean }[]
}

/** Looks at this machine and this package. Never throws for what it finds; works without the addon. */
export async function diagnose(): Promise<Diagnosis> {
  const path = addonPath()
  const result = tryLoad(path)
  const found = 'native' in result ? result.native.devices() : { devices: [], cudaReason: 'the native addon is not loaded' }
  const cpu = found.devices.find((device) => device.kind === 'cpu')
  const tokenizer = await import('tokenizers').then(
    () => ({}),
    (error: unknown) => ({ cause: error instanceof Error ? error.message : String(error) }),
  )
  const folder = join(packageFolder(), 'models', 'lamb')
  const diagnosis: Diagnosis = {
    ok: false,
    ewe: { version: packageVersion(), folder: packageFolder() },
    node: { version: process.versions.node, path: process.execPath },
    platform: { key: platformKey(), glibc: glibcVersion() },
    addon: 'native' in result ? { path, version: result.native.version() } : { path, cause: result.cause },
    cpu: {
      name: cpus()[0]?.model.trim() ?? 'unknown',
      threads: cpu?.threads ?? availableParallelism(),
      memory: totalmem(),
      freeMemory: freemem(),
      instructionSets: cpu?.instructionSets ?? [],
    },
    cuda: { devices: found.devices.filter((device) => device.kind === 'cuda'), reason: found.cudaReason },
    tokenizer,
    model: { folder, missing: modelFiles.filter((name) => !existsSync(join(folder, name)) || statSync(join(folder, name)).size === 0) },
    tools: Object.fromEntries(['cmake', 'c++', 'make', 'python3', 'nvcc'].map((name) => [name, toolVersion(name)])),
    environment: Object.fromEntries(Object.keys(environmentVariables).map((name) => [name, shown(name, process.env[name])])),
    problems: [],
  }
  diagnosis.problems = findProblems(diagnosis)
  diagnosis.ok = diagnosis.problems.every((problem) => !problem.fatal)
  return diagnosis
}

function shown(name: string, value: string | undefined): string | undefined {
  return secret.has(name) && value !== undefined ? 'set' : value
}

function findProblems(found: Diagnosis): Diagnosis['problems'] {
  const problems: Diagnosis['problems'] = []
  const [major = 0, minor = 0] = found.node.version.split('.').map(Number)
  if (major < 20 || (major === 20 && minor < 9)) problems.push({ what: `Node ${found.node.version} is too old`, help: 'install Node 20.9 or newer', fatal: true })
  if (found.addon.cause !== undefined) {
    const lacking = missingTools(found.tools)
    const build = existsSync(join(found.ewe.folder, 'src')) ? 'npm run build' : 'npx ewe build'
    const first = lacking.length > 0 ? `install ${lacking.join(', ')} (Debian and Ubuntu: apt-get install g++ make python3), then ` : ''
    const help = !found.environment['EWE_NATIVE'] ? `${first}${build}` : 'unset EWE_NATIVE, or let it name the addon of this version'
    problems.push({ what: `the native addon cannot be loaded: ${found.addon.cause}`, help, fatal: true })
  }
  if (found.tokenizer.cause !== undefined) {
    problems.push({ what: `the tokenizers library cannot be loaded: ${found.tokenizer.cause}`, help: 'npm install --include=optional', fatal: true })
  }
  if (found.model.missing.length > 0) {
    const help = 'npm install ewe again, or name a model with --model'
    problems.push({ what: `the model of the package lacks ${found.model.missing.join(', ')}`, help, fatal: false })
  }
  return problems
}

/** What a build from source lacks: a compiler, make, and CMake or Python. */
function missingTools(tools: Diagnosis['tools']): string[] {
  const missing = tools['c++'] === undefined ? ['a C++ compiler'] : []
  if (tools['make'] === undefined) missing.push('make')
  if (tools['cmake'] === undefined && tools['python3'] === undefined) missing.push('cmake or python3')
  return missing
}

function toolVersion(name: string): string | undefined {
  const { status, stdout } = spawnSync(name, ['--version'], { encoding: 'utf8', timeout: 10_000 })
  const lines = status === 0 ? stdout.trim().split('\n') : []
  return name === 'nvcc' ? lines.find((line) => line.includes('release')) : lines[0]
}

/**
 * `ewe doctor`: prints what was found, what is missing and what to do; as JSON with `json`.
 *
 * @returns the exit code: 0 when text can be generated on the CPU, else 1.
 */
export async function doctor(options: { json?: boolean } = {}): Promise<number> {
  const found = await diagnose()
  console.log(options.json ? JSON.stringify(found, undefined, 2) : describe(found))
  return found.ok ? 0 : 1
}

function usable({ problem, computeCapability, weights }: NativeDevice): string {
  return problem ?? `compute capability ${(computeCapability / 10).toFixed(1)}, weights in ${weights.join(', ')}`
}

function describe(found: Diagnosis): string {
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`
  const rows: [string, string][] = [
    ['ewe', `${found.ewe.version} in ${found.ewe.folder}`],
    ['Node', `${found.node.version} (${found.node.path})`],
    ['platform', `${found.platform.key}, ${found.platform.glibc === undefined ? 'no glibc' : `glibc ${found.platform.glibc}`}`],
    ['addon', found.addon.cause === undefined ? `${found.addon.version} (${found.addon.path})` : `none: ${found.addon.path}: ${found.addon.cause}`],
    ['processor', `${found.cpu.name}, ${found.cpu.threads} threads`],
    ['instruction sets', found.cpu.instructionSets.join(', ') || 'unknown without the addon'],
    ['memory', `${gib(found.cpu.memory)}, ${gib(found.cpu.freeMemory)} free`],
    ...found.cuda.devices.map((device): [string, string] => [device.id, `${device.name}, ${gib(device.memory)}, ${usable(device)}`]),
    ...(found.cuda.devices.length === 0 ? [['CUDA', `no device: ${found.cuda.reason}`] satisfies [string, string]] : []),
    ['tokenizers', found.tokenizer.cause ?? 'found'],
    ['model', found.model.missing.length === 0 ? found.model.folder : `${found.model.folder} lacks ${found.model.missing.join(', ')}`],
    ...Object.entries(found.tools).map(([name, version]): [string, string] => [name, version ?? 'not found (only needed to build from source)']),
    ...Object.entries(found.environment).map(([name, value]): [string, string] => [name, value ?? `not set (${environmentVariables[name] ?? ''})`]),
  ]
  const lines = rows.map(([name, value]) => `${name.padEnd(18)}${value}`)
  lines.push('', found.ok ? 'Text can be generated on the CPU.' : 'Text cannot be generated yet.')
  for (const problem of found.problems) lines.push(`- ${problem.what}\n  do: ${problem.help}`)
  return lines.join('\n')
}
