import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { devices } from '../src/index.js'
import { packageFolder, packageVersion } from '../src/package.js'

/** What stands beside every figure, so that it can be understood later. */
export interface Facts {
  date: string
  cpu: string
  /** The best one of this machine, which is used unless another is asked for. */
  instructionSet: string
  processors: number
  versions: { ewe: string; node: string }
}

/** What the machine can do at most, by count of threads. */
export interface Limits {
  readGBs: Record<string, number>
  float32Gflops: Record<string, number>
  /** 0 where the processor has no such instruction. */
  bfloat16Gflops: Record<string, number>
}

export function facts(): Facts {
  return {
    date: new Date().toISOString().slice(0, 10),
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    instructionSet: devices()[0]?.instructionSets?.[0] ?? 'unknown',
    processors: availableParallelism(),
    versions: { ewe: packageVersion(), node: process.versions.node },
  }
}

const exec = promisify(execFile)

/** Builds bench/machine.cc with the system's compiler and runs it. */
export async function limits(threads: number): Promise<Limits> {
  const folder = await mkdtemp(join(tmpdir(), 'ewe-machine-'))
  try {
    const program = join(folder, 'machine')
    const source = join(packageFolder(), 'bench/machine.cc')
    await exec(process.env['CXX'] ?? 'g++', ['-std=c++17', '-O3', '-march=native', '-pthread', source, '-o', program])
    const { stdout } = await exec(program, [String(threads)])
    return JSON.parse(stdout) as Limits
  } finally {
    await rm(folder, { recursive: true })
  }
}
