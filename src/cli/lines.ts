import { createInterface, type Interface } from 'node:readline'

/** Why there is no line: the end of the input, or Ctrl-C at an empty prompt. */
export type End = 'end' | 'interrupted'

/**
 * Lines of stdin: edited and with a history where stdin and stderr are a terminal, else as they are. The prompt goes to stderr, so that stdout holds
 * answers only.
 */
export class Lines {
  readonly interactive: boolean
  readonly #readline: Interface
  readonly #ready: string[] = []
  #ended: End | undefined
  #waiting: (() => void) | undefined

  constructor(prompt: string) {
    this.interactive = process.stdin.isTTY && process.stderr.isTTY
    this.#readline = createInterface({ input: process.stdin, prompt, terminal: this.interactive, ...(this.interactive ? { output: process.stderr } : {}) })
    this.#readline.on('line', (line) => {
      this.#ready.push(line)
      this.#wake()
    })
    this.#readline.on('close', () => this.#end('end'))
    this.#readline.on('SIGINT', () => {
      if (this.#readline.line === '') return this.#end('interrupted')
      // As in a shell, the line is given up.
      process.stderr.write('^C\n')
      this.#readline.write(null, { ctrl: true, name: 'e' })
      this.#readline.write(null, { ctrl: true, name: 'u' })
    })
    this.#release()
  }

  /** The next line. Lines that were pasted or piped together come one by one. */
  async next(): Promise<string | End> {
    ...
  }
}
