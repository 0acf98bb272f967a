#!/usr/bin/env node
// The command line. A command's own code, and with it the native addon, is loaded only when the command runs.
import { Command, CommanderError, Option } from 'commander'
import { packageVersion } from '../package.js'
import { addCacheFlags, addCommonFlags, addModelFlags, addSamplingFlags, append, wholeNumber, type CommonFlags } from './flags.js'
import type { BatchFlags } from './batch.js'
import type { BuildOptions } from './build.js'
import type { ChatFlags } from './chat.js'
import type { GenerateFlags } from './generate.js'
import type { ServeFlags } from './serve.js'
import { endWithReader, exitCodes, showError } from './output.js'

const exitCodeHelp = `
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 does not fit into memory, 4 some lines of a batch failed, 130 interrupted.
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

  const batch = ewe.command('batch').description('answer every line of a file; the same command goes on with a job that was stopped')
  batch.argument('[input]', 'lines of JSON: texts, {"instruction", "context"} rows, or OpenAI batch lines, whose bodies say how to sample; - is stdin')
  addSamplingFlags(addCacheFlags(addModelFlags(addCommonFlags(batch))), 'each line has a seed made of this and its number (default: 0)')
    .option('-o, --output <file>', 'where the answers go, one a line; - is stdout')
    .option('--text', 'lines are prompts as they are, not JSON')
    .option('--raw', 'continue texts as they are, without the template; defaults are those of generation_config.json, else greedy, 16 tokens')
    .addOption(new Option('--order <order>', 'of the answers: that of the input, or as they finished').choices(['input', 'finished']).default('input'))
    .option('--shard <i/n>', 'answer the i-th of n parts of the input; the outputs of all parts, joined, are that of the whole')
    .option('--concurrency <count>', 'most sequences that run at a time (default: 32 on the CPU, 256 on a card)', wholeNumber)
    .option('--created <seconds>', 'time in answers to OpenAI batch lines, in seconds since 1970 (default: 0, so that equal jobs give equal answers)', wholeNumber)
    .option('--redis <url>', 'let workers on other machines answer lines too, over this Redis (redis://HOST:PORT); needs the packages bullmq and ioredis')
    .option('--worker', 'with --redis, in place of input and output: answer lines of jobs with the same model, device and instruction set, until Ctrl-C')
    .action(async (input: string | undefined, flags: BatchFlags) => {
      code = await (await import('./batch.js')).batch(input, flags)
    })

  const serve = ewe.command('serve').description("serve OpenAI's interface over HTTP, with a page to try the model at /")
  addCacheFlags(addModelFlags(addCommonFlags(serve)))
    .option('--host <address>', 'address to bind to (default: 127.0.0.1, this machine only)')
    .option('--port <port>', '0 takes a free one (default: 8000)', wholeNumber)
    .option('--api-key <key>', 'a key of which requests must bring one; may be given several times (default: EWE_API_KEY; none)', append)
    .option('--served-model-name <name>', 'what requests call the model; the first is its id, the others aliases (default: its Hub id or folder)', append)
    .option('--allowed-host <name>', 'requests may call this server so beside localhost, as behind a reverse proxy; * for any name (default: any; none without keys on this machine)', append)
    .option('--cors-origin <origin>', 'web pages of this origin, or *, may call the server; may be given several times (default: none)', append)
    .option('--parse-special', 'special tokens typed in texts of /v1/completions and /tokenize count as such: for callers that make the template themselves')
    .option('--max-body <bytes>', 'largest request (default: 10000000)', wholeNumber)
    .option('--max-tokens <count>', 'most new tokens that a request may ask for (default: what the context takes)', wholeNumber)
    .option('--max-batch <count>', 'most sequences that run at a time (default: 32 on the CPU, 256 on a card)', wholeNumber)
    .option('--max-queue <count>', 'most that wait; more get status 429 (default: 4096)', wholeNumber)
    .option('--timeout <seconds>', 'a request that takes longer is given up with status 504 (default: none)', wholeNumber)
    .option('--drain-timeout <seconds>', 'after SIGTERM, what runs has this long to end (default: 45)', wholeNumber)
    .option('--data <folder>', 'keep files and batch jobs here, for /v1/files and /v1/batches (default: none, these are not there)')
    .option('--quiet', 'no log')
    .action(async (flags: ServeFlags) => {
      code = await (await import('./serve.js')).serve(flags)
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
