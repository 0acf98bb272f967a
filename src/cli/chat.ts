import { ContextLengthError, OptionError, TokenizerError } from '../errors.js'
import type { Model } from '../model.js'
import type { ChatTurn } from '../prompts.js'
import type { ModelFlags, SamplingFlags } from './flags.js'
import { Lines } from './lines.js'
import { given, loadOptionsOf, openModel, samplingOf } from './open.js'
import { exitCodes, formatBytes, interruptible, note, paint, writeJson, writeText } from './output.js'
import { Tally } from './tally.js'

export interface ChatFlags extends ModelFlags, SamplingFlags {
  system?: string
}

const help = `A line is an instruction, and its answer follows. A line that begins with / is a command:
  /input TEXT   the text that the next instruction is about; without TEXT: none
  /system TEXT  text that stands before the conversation; without TEXT: none
  /reset        forgets the conversation
  /stats        tokens, speed and memory
  /help         this
  /quit         leaves
A line that begins with // is an instruction that begins with /.
Ctrl-C stops an answer and, at an empty line, leaves; so does Ctrl-D.
`

/** `ewe chat`: a conversation on a terminal, or with one instruction a line from a pipe. Returns the exit code. */
export async function chat(flags: ChatFlags): Promise<number> {
  const load = loadOptionsOf(flags)
  const sampling = samplingOf(flags)
  let model: Model | undefined
  const code = await interruptible(async (signal) => {
    model = await openModel(flags, load, signal)
    return exitCodes.ok
  })
  if (model === undefined) return code
  const lines = new Lines(paint('bold', '> '))
  try {
    if (lines.interactive) note(`a conversation with ${model.config.family}; /help lists the commands`)
    return await new Conversation(model, flags, sampling, lines).run()
  } finally {
    lines.close()
    await model.dispose()
  }
}

class Conversation {
  readonly #model: Model
  readonly #flags: ChatFlags
  readonly #sampling: SamplingFlags
  readonly #lines: Lines
  #turns: ChatTurn[] = []
  #system: string | undefined
  /** Of the next instruction. */
  #input: string | undefined
  #last: Tally | undefined

  constructor(model: Model, flags: ChatFlags, sampling: SamplingFlags, lines: Lines) {
    this.#model = model
    this.#flags = flags
    this.#sampling = sampling
    this.#lines = lines
    this.#system = flags.system
  }

  async run(): Promise<number> {
    for (;;) {
      const line = await this.#lines.next()
      if (line === undefined) return this.#lines.interrupted ? exitCodes.interrupted : exitCodes.ok
      if (/^\/(quit|exit)\s*$/.test(line)) return exitCodes.ok
      if (/^\/(?!\/)/.test(line)) this.#command(line)
      else if (line.trim() !== '') {
        const code = await this.#ask(line.replace(/^\/\//, '/'))
        if (code === exitCodes.interrupted && !this.#lines.interactive) return code
      }
    }
  }

  #command(line: string): void {
    const [, name = '', text = ''] = /^(\/\S*)\s*(.*?)\s*$/.exec(line) ?? []
    switch (name) {
      case '/input':
        this.#input = text === '' ? undefined : text
        return
      case '/system':
        this.#system = text === '' ? undefined : text
        return
      case '/reset':
        this.#turns = []
        this.#input = undefined
        note('the conversation is forgotten')
        return
      case '/stats':
        this.#showStats()
        return
      case '/help':
        process.stderr.write(help)
        return
      default:
        // A script that is misunderstood must not go on; a person can type it again.
        if (!this.#lines.interactive) throw new OptionError('command', 'one of /input, /system, /reset, /stats, /help, /quit', name)
        note(`there is no command ${name}; /help lists them`)
    }
  }

  /** One exchange. Its turns stay in the conversation unless nothing was answered. */
  async #ask(instruction: string): Promise<number> {
    this.#turns.push({ role: 'user', content: instruction, input: this.#input })
    this.#input = undefined
    const tally = (this.#last = new Tally(1))
    const shows = this.#flags.json !== true
    try {
      const code = await interruptible(async (signal) => {
        for await (const piece of this.#model.stream(this.#turns, { ...this.#sampling, ...given({ system: this.#system }), signal })) {
          if (piece.asked !== undefined) this.#forget(piece.asked.droppedTurns)
          tally.add(piece)
          if (shows) writeText(piece.text)
        }
        return exitCodes.ok
      })
      const stopped = code === exitCodes.interrupted
      if (shows) process.stdout.write('\n')
      else writeJson(tally.json(this.#model.plan))
      if (stopped) note('stopped')
      if (this.#flags.verbose === true) note(tally.summary())
      this.#keep(tally.text)
      return code
    } catch (error) {
      this.#keep('')
      if (!this.#lines.interactive || !(error instanceof ContextLengthError || error instanceof TokenizerError)) throw error
      note(error.message)
      return exitCodes.failed
    }
  }

  #keep(answer: string): void {
    if (answer === '') this.#turns.pop()
    else this.#turns.push({ role: 'assistant', content: answer })
  }

  /** Exchanges that did not fit will not fit later either. */
  #forget(exchanges: number): void {
    if (exchanges === 0) return
    this.#turns.splice(0, 2 * exchanges)
    note(`the context is full: the oldest ${exchanges === 1 ? 'exchange was' : `${exchanges} exchanges were`} left out`)
  }

  #showStats(): void {
    const { memory, promptTokens, generatedTokens } = this.#model.stats()
    const { device, weights, threads, maxContext } = this.#model.plan
    note(`${device}, ${threads} threads, ${weights} weights, ${formatBytes(memory['total'] ?? 0)}`)
    note(`${Math.ceil(this.#turns.length / 2)} exchanges; ${promptTokens} prompt tokens and ${generatedTokens} generated ones in all`)
    if (this.#last === undefined) return
    const used = (this.#last.asked?.promptTokens ?? 0) + this.#last.tokens
    note(`last: ${this.#last.summary()}; ${used} of ${maxContext} tokens of context`)
  }
}
