// One process writes an output, or keeps a folder. A lock is a file beside it whose name says who holds it: OUT.lock.PID-START, with the time at which the process started,
// because numbers of processes are used again.
import { readFileSync } from 'node:fs'
import { open, readdir, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { BatchError } from '../errors.js'

export class Lock {
  readonly #path: string

  private constructor(path: string) {
    this.#path = path
  }

  /**
   * Whoever wants the output first says so and then looks for others: of two at the same moment at least one sees the other, and both may. What a process
   * left behind that was killed is removed.
   *
   * @param busy what to say when process `pid` has it.
   * @throws BatchError when another job that runs writes this output.
   */
  static async take(output: string, busy = (pid: number): string => `Another job, process ${pid}, is writing ${output}: wait for it, end it, or write to another file`): Promise<Lock> {
    const prefix = `${basename(output)}.lock.`
    const own = `${prefix}${process.pid}-${startOf(process.pid)}`
    const path = join(dirname(output), own)
    try {
      await (await open(path, 'wx')).close()
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw new BatchError(busy(process.pid))
      throw error
    }
    try {
      for (const name of await readdir(dirname(output))) {
        const [, pid, start] = (name.startsWith(prefix) && /^(\d+)-(\d+)$/.exec(name.slice(prefix.length))) || []
        if (name === own || pid === undefined) continue
        if (startOf(Number(pid)) === start) throw new BatchError(busy(Number(pid)))
        await unlink(join(dirname(output), name)).catch(ignoreMissing)
      }
    } catch (error) {
      await unlink(path).catch(ignoreMissing)
      throw error
    }
    return new Lock(path)
  }

  async release(): Promise<void> {
    await unlink(this.#path).catch(ignoreMissing)
  }
}

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error
}

/** When a process started, in ticks since the machine did; nothing where it does not run. */
function startOf(pid: number): string | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined
    throw error
  }
  // The name, in parentheses, may hold anything; behind it come the state and, as the 20th, the time.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19]
}
