import Benchmark from 'benchmark'

/** What several runs of the same thing gave. */
export interface Figure {
  median: number
  least: number
  most: number
  runs: number
}

/**
 * Runs something again and again, at least five times and for about `seconds`, after one run that does not count. How often is for the package
 * `benchmark` to say; what a run measured is what it returns, because a run may have parts that do not count.
 */
export async function measure(name: string, seconds: number, run: () => Promise<number>): Promise<Figure> {
  await run()
  const values: number[] = []
  await new Promise<void>((resolve, reject) => {
    const benchmark = new Benchmark(name, {
      defer: true,
      async: true,
      minSamples: 5,
      maxTime: seconds,
      fn: (deferred: Benchmark.Deferred) => {
        run().then(
          (value) => {
            values.push(value)
            deferred.resolve()
          },
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
  return figureOf(values)
}

export function figureOf(values: readonly number[]): Figure {
  if (values.length === 0) throw new Error('nothing was measured')
  return { median: quantile(values, 0.5), least: Math.min(...values), most: Math.max(...values), runs: values.length }
}

/** Between the neighbours where none is exact. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  const place = (sorted.length - 1) * share
  const below = sorted[Math.floor(place)]!
  return below + (sorted[Math.ceil(place)]! - below) * (place - Math.floor(place))
}
