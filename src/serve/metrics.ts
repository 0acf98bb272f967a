// What /metrics shows: counts of the engine, read when asked, and times of requests. Names of our own, and those of vLLM beside them, so that dashboards and
// autoscalers made for it work here.
import { Counter, Gauge, Histogram, Registry, type Metric } from 'prom-client'
import type { Model } from '../model.js'
import type { NativeStats } from '../native.js'

const seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160]
const tokens = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]

/** Own name, vLLM's name or none, help, and the value among the engine's counts. */
type Reading = [name: string, alias: string | undefined, help: string, read: (stats: NativeStats) => number]

const gauges: Reading[] = [
  ['ewe_requests_running', 'vllm:num_requests_running', 'Sequences that run', (stats) => stats.running],
  ['ewe_requests_waiting', 'vllm:num_requests_waiting', 'Sequences that wait', (stats) => stats.queued],
  ['ewe_cache_usage_ratio', 'vllm:kv_cache_usage_perc', 'Share of the cache pages that requests hold, 0 to 1', (stats) => stats.pagesUsed / stats.pages],
  ['ewe_cache_pages', undefined, 'Cache pages in all', (stats) => stats.pages],
  ['ewe_cache_pages_kept', undefined, 'Cache pages kept for prompts that may come again', (stats) => stats.pagesCached],
]

// The client libraries of Python, which vLLM uses, append _total to the names of counters.
const counters: Reading[] = [
  ['ewe_prompt_tokens_total', 'vllm:prompt_tokens_total', 'Tokens of prompts', (stats) => stats.promptTokens + stats.reusedTokens],
  ['ewe_generated_tokens_total', 'vllm:generation_tokens_total', 'Tokens generated', (stats) => stats.generatedTokens],
  ['ewe_prefix_queries_total', 'vllm:prefix_cache_queries_total', 'Tokens of prompts looked for in the cache', (stats) => stats.promptTokens + stats.reusedTokens],
  ['ewe_prefix_hits_total', 'vllm:prefix_cache_hits_total', 'Tokens of prompts found in the cache', (stats) => stats.reusedTokens],
  ['ewe_preemptions_total', 'vllm:num_preemptions_total', 'Sequences that gave up their pages and were computed again', (stats) => stats.preempted],
  ['ewe_steps_total', undefined, 'Steps of the engine', (stats) => stats.steps],
]

export class Metrics {
  readonly #registry = new Registry()
  readonly #http: Counter
  readonly #unwatch: () => void

  constructor(model: Model, name: string) {
    this.#registry.setDefaultLabels({ model_name: name })
    for (const reading of gauges) this.#read(reading, model, Gauge)
    for (const reading of counters) this.#read(reading, model, Counter)
    this.#http = this.#add(Counter, { name: 'ewe_http_requests_total', help: 'Answers, by route and status', labelNames: ['route', 'status'] })
    const firstToken = this.#histograms('ewe_time_to_first_token_seconds', 'vllm:time_to_first_token_seconds', 'From the call to its first token', seconds)
    const gaps = this.#histograms('ewe_inter_token_latency_seconds', 'vllm:inter_token_latency_seconds', 'From token to token of a sequence', seconds)
    const total = this.#histograms('ewe_request_seconds', 'vllm:e2e_request_latency_seconds', 'From the call to its last token', seconds)
    const prompts = this.#histograms('ewe_request_prompt_tokens', 'vllm:request_prompt_tokens', 'Tokens of a prompt', tokens)
    const answers = this.#histograms('ewe_request_generated_tokens', 'vllm:request_generation_tokens', 'Tokens generated for a prompt', tokens)
    const queued = this.#histograms('ewe_request_queue_seconds', 'vllm:request_queue_time_seconds', 'From the call to its first step', seconds)
    const prefill = this.#histograms('ewe_request_prefill_seconds', 'vllm:request_prefill_time_seconds', 'From the first step to the first token', seconds)
    const decode = this.#histograms('ewe_request_decode_seconds', 'vllm:request_decode_time_seconds', 'From the first token to the last', seconds)
    for (const each of ['ewe_step_tokens', 'vllm:iteration_tokens_total']) this.#registry.registerMetric(new StepSizes(each, model) as unknown as Metric)
    const ended = this.#add(Counter, { name: 'ewe_requests_finished_total', help: 'Prompts by how they ended', labelNames: ['reason'] })
    const succeeded = this.#add(Counter, { name: 'vllm:request_success_total', help: 'Prompts answered', labelNames: ['finished_reason'] })
    this.#unwatch = model.watch({
      token: (gap) => gaps(gap / 1000),
      finished: (request) => {
        ended.inc({ reason: request.reason })
        if (request.reason === 'stop' || request.reason === 'length') succeeded.inc({ finished_reason: request.reason })
        if (request.firstToken !== undefined) firstToken(request.firstToken / 1000)
        if (request.queue !== undefined) queued(request.queue / 1000)
        if (request.prefill !== undefined) prefill(request.prefill / 1000)
        if (request.decode !== undefined) decode(request.decode / 1000)
        total(request.total / 1000)
        prompts(request.promptTokens)
        answers(request.generatedTokens)
      },
    })
  }

  get contentType(): string {
    return this.#registry.contentType
  }

  answered(route: string, status: number): void {
    this.#http.inc({ route, status })
  }

  text(): Promise<string> {
    return this.#registry.metrics()
  }

  close(): void {
    this.#unwatch()
  }

  #add<M, C>(Kind: new (configuration: C & { registers: Registry[] }) => M, configuration: C): M {
    return new Kind({ ...configuration, registers: [this.#registry] })
  }

  #read([name, alias, help, read]: Reading, model: Model, Kind: typeof Gauge | typeof Counter): void {
    for (const each of alias === undefined ? [name] : [name, alias]) {
      this.#add(Kind, {
        name: each,
        help,
        collect(this: Gauge | Counter) {
          this.reset()
          this.inc(read(model.stats()))
        },
      })
    }
  }

  #histograms(name: string, alias: string, help: string, buckets: number[]): (value: number) => void {
    const both = [name, alias].map((each) => this.#add(Histogram, { name: each, help, buckets }))
    return (value) => {
      for (const one of both) one.observe(value)
    }
  }
}

/** A histogram that the engine itself keeps, so that no step needs a crossing for it. What prom-client asks of a metric. */
class StepSizes {
  readonly type = 'histogram'
  readonly help = 'Tokens computed in a step of the engine'
  readonly name: string
  readonly #model: Model

  constructor(name: string, model: Model) {
    this.name = name
    this.#model = model
  }

  get(): object {
    const { rows, stepsByRows } = this.#model.stats()
    const largest = stepsByRows.findLastIndex((count) => count > 0)
    let count = 0
    const buckets = stepsByRows.slice(0, Math.max(largest, 13) + 1).map((steps, i) => ({ metricName: `${this.name}_bucket`, labels: { le: 2 ** i }, value: (count += steps) }))
    const all = { metricName: `${this.name}_bucket`, labels: { le: '+Inf' }, value: count }
    const { name, help, type } = this
    return { name, help, type, values: [...buckets, all, { metricName: `${name}_sum`, labels: {}, value: rows }, { metricName: `${name}_count`, labels: {}, value: count }] }
  }
}
