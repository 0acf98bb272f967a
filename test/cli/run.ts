// Runs the real command line as a process of its own, with pipes or on a terminal.
import { spawn, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))

/** Flags of an answer of 2,871 tokens: chance alone, on the slowest path. Nothing waits for its end. */
export const longAnswer =
  '--temperature 1e6 --top-p 1 --seed 0 --max-new-tokens 8000 --max-context 8192 --instruction-set plain --threads 1 --weights float32'.split(' ')

/** The line that tells which model is used when none was named. */
export const shippedNote = 'ewe: using the small model that ships with ewe, lamb; name another with --model FOLDER or --model org/name\n'

export interface Result {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

/** A run of `ewe` under way. */
export class Run {
  stdout = ''
  stderr = ''
  readonly child: ChildProcess
  readonly ended: Promise<Result>
  #changed = (): void => {}

  constructor(command: string, words: readonly string[], env: NodeJS.ProcessEnv) {
    this.child = spawn(command, words, { env: { ...process.env, ...env } })
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text
      this.#changed()
    })
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text
      this.#changed()
    })
    this.child.stdin?.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error // it need not read its stdin
    })
    this.ended = new Promise((resolve) => {
      this.child.on('close', (code, signal) => {
        resolve({ code, signal, stdout: this.stdout, stderr: this.stderr })
        this.#changed()
      })
    })
  }

  /** Waits until what was printed satisfies a condition. */
  async until(what: string, holds: (run: Run) => boolean): Promise<void> {
    const late = performance.now() + 30_000
    while (!holds(this)) {
      if (this.child.exitCode !== null || performance.now() > late) throw new Error(`no ${what} in ${JSON.stringify([this.stdout, this.stderr])}`)
      await new Promise<void>((resolve) => {
        this.#changed = resolve
        setTimeout(resolve, 1000)
      })
    }
  }

  send(text: string): void {
    this.child.stdin?.write(text)
  }
}

export function start(words: readonly string[], env: NodeJS.ProcessEnv = {}): Run {
  return new Run(process.execPath, [main, ...words], env)
}

/** Runs `ewe` to its end with a text on stdin. */
export async function ewe(words: readonly string[], input = '', env: NodeJS.ProcessEnv = {}): Promise<Result> {
  const run = start(words, env)
  run.child.stdin?.end(input)
  return await run.ended
}

const bridge = `
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))
`

/** Runs `ewe` on a terminal of its own; what it shows is all in stdout. */
export function onTerminal(words: readonly string[], env: NodeJS.ProcessEnv = {}): Run {
  return new Run('python3', ['-c', bridge, process.execPath, main, ...words], { TERM: 'xterm', ...env })
}
