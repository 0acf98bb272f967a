#!/usr/bin/env node
// The command line. A command's own code, and with it the native addon, is loaded only when the command runs.
import { Command, CommanderError, Option } from 'commander'
import { packageVersion } from '../package.js'
import { addCommonFlags, addModelFlags, addSamplingFlags, wholeNumber, type CommonFlags } from './flags.js'
import type { BuildOptions } from './build.js'
import type { ChatFlags } from './chat.js'
import type { GenerateFlags } from './generate.js'
import { endWithReader, exitCodes, showError } from './output.js'

const exitCodeHelp = `
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 does not fit into memory, 130 interrupted.
Data go to stdout, notes and progress to stderr. Without --model, the small model that ships with ewe is used.`

let code: number = exitCodes.ok

function program(): Command {
  const ewe = new Command('ewe')
    .description('Runs Dolly and other GPT-NeoX and GPT-J language models on this machine.')
    .version(packageVersion(), '-V, --version')
    .exitOverride()
    .configureOutput({ outputError: () => {} }) // main() shows errors
    .addHelpText('after', exitCodeHelp)

  const generate = ewe.command('generate').description('answer an instruction')
  generate.argument('[instruction]', 'what to do; from stdin when it is missing or -')
  addSamplingFlags(addModelFlags(addCommonFlags(generate)))
    .option('--input <text>', 'text that the instruction is about; - reads it from stdin')
    .option('--system <text>', 'text before the instruction')
    .option('--raw', 'continue the text as it is, without the template; defaults are those of generation_config.json, else greedy, 16 tokens')
    .option('--n <count>', 'answers to give (default: 1)', wholeNumber)
    .option('--logprobs <count>', 'with --json: log-probabilities of the tokens, and of that many best ones at each place', wholeNumber)
    .action(async (instruction: string | undefined, flags: GenerateFlags) => {
      code = await (await import('./generate.js')).generate(instruction, flags)
    })

  const chat = ewe.command('chat').description('hold a conversation; from a pipe, one instruction a line')
  addSamplingFlags(addModelFlags(addCommonFlags(chat)))
    .option('--system <text>', 'text before the conversation')
    .action(async (flags: ChatFlags) => {
      code = await (await import('./chat.js')).chat(flags)
    })

  const inspect = ewe.command('inspect').description('tell what a model folder holds and how much memory it takes')
  inspect.argument('[model]', 'folder of a model, or its Hub id in the local Hub cache')
  addCommonFlags(inspect).action(async (model: string | undefined, flags: CommonFlags) => {
    code = await (await import('./inspect.js')).inspect(model, flags)
  })

  const doctor = ewe.command('doctor').description('tell what was found on this machine, what is missing and what to do')
  addCommonFlags(doctor).action(async (flags: CommonFlags) => {
    code = await (await import('./doctor.js')).doctor(flags)
  })

  const build = ewe.command('build').description('build the native addon from the sources in the package')
  build
    .option('--verbose', 'tell of errors where they came from')
    .option('--force', 'build again even when nothing changed')
    .addOption(new Option('--tool <tool>', 'what to build with (default: CMake where it is installed)').choices(['cmake', 'gyp']))
    .action(async (flags: BuildOptions) => {
      code = (await import('./build.js')).build(flags)
    })
  return ewe
}

async function main(words: readonly string[]): Promise<number> {
  endWithReader()
  const ewe = program()
  try {
    await ewe.parseAsync(words, { from: 'user' })
    return code
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return exitCodes.ok
    if (error instanceof CommanderError && error.code === 'commander.help') return exitCodes.usage
    // The flags may be what was wrong, so they are looked up in the words themselves.
    const command = ewe.commands.find((candidate) => candidate.name() === words[0])
    const help = command === undefined ? 'ewe --help' : `ewe ${command.name()} --help`
    return showError(error, { json: words.includes('--json'), verbose: words.includes('--verbose'), help })
  }
}

process.exitCode = await main(process.argv.slice(2))
