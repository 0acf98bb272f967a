import { pino } from 'pino'
import { resolveModel } from '../checkpoint/hub.js'
import { OptionError } from '../errors.js'
import type { Model } from '../model.js'
import { loadOptions, type LoadOptions } from '../options.js'
import { createServer, Jobs, type Server, type ServerOptions } from '../serve/server.js'
import { isLoopback } from '../serve/hosts.js'
import { listenOptions, serverOptions } from '../serve/settings.js'
import type { CacheFlags, ModelFlags } from './flags.js'
import { checkFlags, chosenModel, given, loadOptionsOf, openModel } from './open.js'
import { exitCodes, note, writeJson } from './output.js'

export interface ServeFlags extends ModelFlags, CacheFlags {
  host?: string
  port?: number
  apiKey?: string[]
  servedModelName?: string[]
  corsOrigin?: string[]
  allowedHost?: string[]
  parseSpecial?: boolean
  maxBody?: number
  maxTokens?: number
  timeout?: number
  drainTimeout?: number
  maxBatch?: number
  maxQueue?: number
  data?: string
  quiet?: boolean
}

const signals = ['SIGTERM', 'SIGINT'] as const
const numbers = { SIGTERM: 15, SIGINT: 2 }

/** `ewe serve`: serves until it is told to stop, then drains. Returns the exit code. */
export async function serve(flags: ServeFlags): Promise<number> {
  const load: LoadOptions = { ...loadOptionsOf(flags), ...given({ maxBatch: flags.maxBatch, maxQueue: flags.maxQueue }) }
  checkFlags(loadOptions, load)
  checkFlags(listenOptions, given({ host: flags.host, port: flags.port }))
  const address = listenOptions.parse(given({ host: flags.host, port: flags.port }))
  const options = optionsOf(flags)
  if (!isLoopback(address.host) && options.apiKeys.length === 0) {
    note(`everyone who reaches ${address.host} may use this server: --api-key or EWE_API_KEY asks for a key`)
  }

  const stop = untilStopped()
  try {
    const chosen = flags.data === undefined ? flags.model : chosenModel(flags.model, '--model FOLDER or --model org/name')
    const model = await openModel({ ...flags, ...given({ model: chosen }) }, load, stop.signal)
    try {
      const jobs = flags.data === undefined || chosen === undefined ? {} : { jobs: await openJobs(model, flags.data, await resolveModel(chosen), options, load) }
      return await run(model, createServer(model, { ...options, ...jobs }), address, flags, stop)
    } finally {
      await model.dispose()
    }
  } catch (error) {
    if (error !== stop.signal.reason) throw error
    return exitCodes.ok
  } finally {
    stop.forget()
  }
}

async function run(model: Model, server: Server, address: { host: string; port: number }, { json, quiet, drainTimeout = 45 }: ServeFlags, stop: Stop): Promise<number> {
  try {
    const { url, host, port } = await server.listen(address)
    if (json === true) writeJson({ url, host, port, pid: process.pid, device: model.plan.device })
    else note(`serving ${model.name} on ${url} (${model.plan.device}, ${model.plan.maxBatch} sequences at a time); Ctrl-C stops`)
    await stop.told
    if (quiet !== true) note('stopping: new work is refused, what runs is finished; a second signal stops at once')
    await server.drain(drainTimeout * 1000)
    return exitCodes.ok
  } finally {
    await server.close()
  }
}

function openJobs(model: Model, folder: string, modelFolder: string, { names }: ServerOptions, { instructionSet }: LoadOptions): Promise<Jobs> {
  return Jobs.open(model, { folder, modelFolder, names, instructionSet })
}

function optionsOf(flags: ServeFlags): ServerOptions & { apiKeys: string[] } {
  const fromEnvironment = process.env['EWE_API_KEY'] ?? ''
  const apiKeys = flags.apiKey ?? (fromEnvironment === '' ? [] : [fromEnvironment])
  // What is wrong with a key is told without the key.
  if (apiKeys.some((key) => !/^[\x21-\x7e]{1,1024}$/.test(key))) throw new OptionError('--api-key', 'a key of 1 to 1024 characters of ASCII without spaces', undefined)
  const { servedModelName: names, corsOrigin: corsOrigins, allowedHost: allowedHosts, parseSpecial, maxBody, maxTokens, timeout, drainTimeout, quiet } = flags
  if (timeout === 0) throw new OptionError('--timeout', 'at least 1 second', timeout)
  if (drainTimeout !== undefined && drainTimeout > 86_400) throw new OptionError('--drain-timeout', 'at most 86400 seconds', drainTimeout)
  const options = { apiKeys, ...given({ names, corsOrigins, allowedHosts, parseSpecial, maxBody, maxTokens, deadline: timeout === undefined ? undefined : timeout * 1000 }) }
  checkFlags(serverOptions, options)
  // On stderr, as all that is no data; the level as a word, the time as others can read it.
  const log = pino({ base: null, timestamp: pino.stdTimeFunctions.isoTime, formatters: { level: (level) => ({ level }) } }, pino.destination({ dest: 2, sync: true }))
  return quiet === true ? options : { ...options, log }
}

interface Stop {
  /** Aborted by the first signal. */
  signal: AbortSignal
  told: Promise<void>
  forget(): void
}

/** The first SIGTERM or SIGINT asks to stop; a second one ends the process at once. */
function untilStopped(): Stop {
  const controller = new AbortController()
  const { signal } = controller
  const onSignal = (name: (typeof signals)[number]): void => {
    if (signal.aborted) process.exit(128 + numbers[name])
    controller.abort()
  }
  for (const name of signals) process.on(name, onSignal)
  const told = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
  const forget = (): void => {
    for (const name of signals) process.off(name, onSignal)
  }
  return { signal, told, forget }
}
