import Benchmark from 'benchmark'
import { readFileSync } from 'node:fs'

/** What several runs of the same thing gave: those during which other programs took least of the processors, at least half of all. */
export interface Figure {
  median: number
  least: number
  most: number
  runs: number
  /** Processors that other programs used meanwhile, the median of the runs. Above about 0.2 the figure says as much of them as of us. */
  others: number
}

/**
 * Runs something again and again, at least five times and for about `seconds`, after one run that does not count. How often is for the package
 * `benchmark` to say; what a run measured is what it returns, because a run may have parts that do not count.
 */
export async function measure(name: string, seconds: number, run: () => Promise<number>): Promise<Figure> {
  await run()
  const values: { value: number; others: number }[] = []
  const once = async (): Promise<void> => {
    const before = processors()
    const value = await run()
    const after = processors()
    values.push({ value, others: Math.max(0, after.others - before.others) / (after.at - before.at) })
  }
  await new Promise<void>((resolve, reject) => {
    const benchmark = new Benchmark(name, {
      defer: true,
      async: true,
      minSamples: 5,
      maxTime: seconds,
      fn: (deferred: Benchmark.Deferred) => {
        once().then(
          () => deferred.resolve(),
          (error: unknown) => {
            benchmark.abort()
            reject(error instanceof Error ? error : new Error(String(error)))
          },
        )
      },
      onComplete: () => resolve(),
    })
    benchmark.run()
  })
  const usual = quantile(values.map(({ others }) => others), 0.5)
  const quiet = values.filter(({ others }) => others <= usual)
  const kept = quiet.map(({ value }) => value)
  const busy = quiet.map(({ others }) => others)
  return { median: quantile(kept, 0.5), least: Math.min(...kept), most: Math.max(...kept), runs: kept.length, others: quantile(busy, 0.5) }
}

/** Seconds that the processors have worked for other programs than this one, in steps of 10 ms, and the time of day in seconds. */
function processors(): { others: number; at: number } {
  const [user, nice, system, , , irq, softirq] = readFileSync('/proc/stat', 'utf8').split('\n', 1)[0]!.trim().split(/\s+/).slice(1).map(Number)
  const own = process.cpuUsage()
  return { others: (user! + nice! + system! + irq! + softirq!) / 100 - (own.user + own.system) / 1e6, at: performance.now() / 1e3 }
}

/** Between the neighbours where none is exact. */
export function quantile(values: readonly number[], share: number): number {
  if (values.length === 0) throw new Error('nothing was measured')
  const sorted = values.toSorted((a, b) => a - b)
  const place = (sorted.length - 1) * share
  const below = sorted[Math.floor(place)]!
  return below + (sorted[Math.ceil(place)]! - below) * (place - Math.floor(place))
}
