// What goes where: data to stdout; notes, progress and errors to stderr. With --json an error goes to stdout too, as JSON.
import { CommanderError } from 'commander'
import { BatchMismatchError, EweError, OptionError, OutOfMemoryError } from '../errors.js'

/** Exit codes of every command. */
export const exitCodes = { ok: 0, failed: 1, usage: 2, doesNotFit: 3, partly: 4, interrupted: 130 } as const

const styles = { bold: 1, dim: 2, red: 31 }

/** Text for stderr, in colour where that is a terminal which shows colours. Node's test of that honours NO_COLOR. */
export function paint(style: keyof typeof styles, text: string): string {
  return process.stderr.isTTY && process.stderr.hasColors() ? `\x1b[${styles[style]}m${text}\x1b[0m` : text
}

/** One line on stderr. */
export function note(text: string): void {
  process.stderr.write(`${paint('dim', `ewe: ${text}`)}\n`)
}

/** A model's text on stdout: as it is, but for a terminal without the control characters that could change what it shows or does. */
export function writeText(text: string): void {
  process.stdout.write(process.stdout.isTTY ? text.replaceAll(/[^\P{Cc}\n\t]/gu, '\ufffd') : text)
}

export function writeJson(value: unknown, indent?: number): void {
  process.stdout.write(`${JSON.stringify(value, undefined, indent)}\n`)
}

/** Shows an error in the way of all commands and returns the exit code that belongs to it. `help` is the command that tells the right usage. */
export function showError(error: unknown, { json, verbose, help }: { json: boolean; verbose: boolean; help: string }): number {
  const { code, message } = describe(error, help)
  const [first = '', ...rest] = message.split('\n')
  process.stderr.write(`${[`${paint('red', 'ewe:')} ${first} [${code}]`, ...rest].join('\n')}\n`)
  if (verbose && error instanceof Error) process.stderr.write(`${error.stack}\n`)
  if (json) writeJson({ error: { code, message } })
  if (error instanceof OptionError || error instanceof BatchMismatchError || error instanceof CommanderError) return exitCodes.usage
  return error instanceof OutOfMemoryError ? exitCodes.doesNotFit : exitCodes.failed
}

function describe(error: unknown, help: string): { code: string; message: string } {
  if (error instanceof EweError) return error
  if (error instanceof CommanderError) {
    // Commander's own words, with its proposal of a similar name on the same line.
    const message = error.message.replace(/^error: /, '').replaceAll('\n', ' ')
    return { code: 'EWE_OPTION', message: `${message.replace(/[^.?)]$/, '$&.')} See ${help}.` }
  }
  if (error instanceof Error) return { code: (error as NodeJS.ErrnoException).code ?? 'EWE_INTERNAL', message: error.message }
  return { code: 'EWE_INTERNAL', message: String(error) }
}

/**
 * Runs work that Ctrl-C cancels through the signal. A second Ctrl-C ends the process without waiting.
 *
 * @returns the work's exit code, or 130 when it was interrupted.
 */
export async function interruptible(work: (signal: AbortSignal) => Promise<number>): Promise<number> {
  const controller = new AbortController()
  const { signal } = controller
  const interrupt = (): void => {
    if (signal.aborted) process.exit(exitCodes.interrupted)
    controller.abort()
  }
  process.on('SIGINT', interrupt)
  try {
    return await work(signal)
  } catch (error) {
    if (error !== signal.reason) throw error
    return exitCodes.interrupted
  } finally {
    process.off('SIGINT', interrupt)
  }
}

/** A reader that leaves (`ewe generate ... | head -1`) ends the process quietly: nobody is left to fail for. */
export function endWithReader(): void {
  const onError = (error: NodeJS.ErrnoException): void => {
    if (error.code === 'EPIPE') process.exit(exitCodes.ok)
    throw error
  }
  process.stdout.on('error', onError)
  process.stderr.on('error', onError)
}

/** Bytes in the largest binary unit that leaves a number above 1. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB']
  const unit = bytes < 1024 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10))
  return unit === 0 ? `${bytes} bytes` : `${(bytes / 2 ** (10 * unit)).toFixed(1)} ${units[unit]}`
}

/** 3.5 M, 2.8 B. */
export function formatCount(count: number): string {
  if (count >= 1e9) return `${(count / 1e9).toFixed(1)} B`
  if (count >= 1e6) return `${(count / 1e6).toFixed(1)} M`
  return count >= 1e3 ? `${(count / 1e3).toFixed(1)} k` : String(count)
}

/** Rows of cells as aligned columns, the last one as it is. */
export function table(rows: readonly (readonly string[])[]): string {
  const columns = Math.max(...rows.map((row) => row.length))
  const widths = Array.from({ length: columns }, (_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  return rows.map((row) => row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd((widths[column] ?? 0) + 2))).join('')).join('\n')
}
