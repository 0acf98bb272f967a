import { ContextLengthError, OptionError } from '../errors.js'
import type { Model } from '../model.js'
import type { ChatTurn } from '../prompts.js'
import type { ModelFlags, SamplingFlags } from './flags.js'
import { Lines } from './lines.js'
import { loadOptionsOf, openModel, samplingOf } from './open.js'
import { exitCodes, formatBytes, formatCount, interruptible, note, paint, writeJson } from './output.js'
import { Tally } from './tally.js'

export interface ChatFlags extends ModelFlags, SamplingFlags {
  system?: string
}

const help = `A line is an instruction; the answer follows. A line that begins with / is a command:
  /input TEXT   the text that the next instruction is about; without TEXT, none
  /system TEXT  text that stands before the whole conversation; without TEXT, none
  /reset        forget the conversation
  /stats        tokens, speed and memory
  /quit         leave
A line that begins with // is an instruction that begins with /.
Ctrl-C stops an answer, and leaves at an empty line; Ctrl-D leaves.`

/** `ewe chat`: a conversation, on a terminal or with one instruction a line from a pipe. Returns the exit code. */
export async function chat(flags: ChatFlags): Promise<number> {
  const load = loadOptionsOf(flags)
  const sampling = samplingOf(flags)
  const opened = await interruptible(async (signal) => {
    model = await openModel(flags, load, signal)
    return exitCodes.ok
  })
  if (model === undefined) return opened
  const lines = new Lines()
  try {
    return await new Conversation(model, flags, sampling, lines).run()
  } finally {
    lines.close()
    await model.dispose()
  }
}
