import { createInterface, type Interface } from 'node:readline'

/**
 * Lines of stdin: edited, with a history, where stdin and stderr are a terminal; else as they are. The prompt goes to stderr, so that stdout holds
 * answers only.
 */
export class Lines {
  readonly interactive: boolean
  /** After the end: whether it was Ctrl-C at an empty prompt, not the end of the input. */
  interrupted = false
  readonly #readline: Interface
  readonly #ready: string[] = []
  #ended = false
  #wake: () => void = () => {}

  constructor(prompt: string) {
    this.interactive = process.stdin.isTTY && process.stderr.isTTY
    const shown = this.interactive ? { output: process.stderr, terminal: true, prompt } : { terminal: false }
    this.#readline = createInterface({ input: process.stdin, ...shown })
    this.#readline.on('line', (line) => {
      this.#ready.push(line)
      this.#wake()
    })
    this.#readline.on('close', () => {
      this.#ended = true
      this.#wake()
    })
    this.#readline.on('SIGINT', () => this.#interrupt())
    this.#release()
  }

  /** The next line, or nothing at the end. What was pasted or piped at once comes line by line. */
  async next(): Promise<string | undefined> {
    if (this.#ready.length === 0 && !this.#ended) {
      if (this.interactive) process.stdin.setRawMode(true)
      const woken = new Promise<void>((resolve) => (this.#wake = resolve))
      this.#readline.resume()
      if (this.interactive) this.#readline.prompt()
      await woken
      this.#release()
    }
    return this.#ready.shift()
  }

  close(): void {
    this.#readline.close()
  }

  /** Between lines the terminal is in its usual mode: Ctrl-C is a signal then, and nothing is echoed into an answer's line twice. */
  #release(): void {
    if (this.#ended) return
    this.#readline.pause()
    if (this.interactive) process.stdin.setRawMode(false)
  }

  /** Ctrl-C at the prompt: gives up the line, as a shell does, or leaves where it is empty. */
  #interrupt(): void {
    process.stderr.write('^C\n')
    if (this.#readline.line === '') {
      this.interrupted = true
      this.#readline.close()
    } else {
      this.#readline.write(null, { ctrl: true, name: 'e' })
      this.#readline.write(null, { ctrl: true, name: 'u' })
    }
  }
}
