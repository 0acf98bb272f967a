// The page to try a model with: streams an answer, and shows once a second what /metrics says. It talks to its own server only.
const at = (id) => document.getElementById(id)
const answer = at('answer')
const note = at('note')
let running
let model = ''

function headers() {
  const key = at('key').value.trim()
  return { 'content-type': 'application/json', ...(key === '' ? {} : { authorization: `Bearer ${key}` }) }
}

async function get(path) {
  const response = await fetch(path, { headers: headers() })
  if (!response.ok) throw new Error(await problem(response))
  return response
}

async function problem(response) {
  try {
    return (await response.json()).error.message
  } catch {
    return `Status ${response.status}`
  }
}

async function findModel() {
  const { data } = await (await get('/v1/models')).json()
  model = data[0].id
  at('model').textContent = model
}

/** The data of each event of a response, as they come. */
async function* eventsOf(response) {
  let rest = ''
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    const events = (rest + value).split('\n\n')
    rest = events.pop()
    for (const event of events) yield event.replace(/^data: /, '')
  }
}

function numberIn(id) {
  return at(id).value === '' ? undefined : Number(at(id).value)
}

async function ask(signal) {
  if (model === '') await findModel()
  const body = {
    model,
    messages: [{ role: 'user', content: at('instruction').value }],
    max_tokens: numberIn('most'),
    temperature: numberIn('temperature'),
    top_p: numberIn('top-p'),
    seed: numberIn('seed'),
    stream: true,
    stream_options: { include_usage: true },
  }
  const started = performance.now()
  const response = await fetch('/v1/chat/completions', { method: 'POST', headers: headers(), body: JSON.stringify(body), signal })
  if (!response.ok) throw new Error(await problem(response))
  for await (const data of eventsOf(response)) {
    if (data === '[DONE]') return
    const { error, choices, usage } = JSON.parse(data)
    if (error) throw new Error(error.message)
    answer.textContent += choices[0]?.delta.content ?? ''
    if (usage) {
      const seconds = (performance.now() - started) / 1000
      note.textContent = `${usage.completion_tokens} tokens in ${seconds.toFixed(2)} s, ${(usage.completion_tokens / seconds).toFixed(1)} tokens/s`
    }
  }
}

async function run() {
  running = new AbortController()
  answer.textContent = ''
  note.textContent = 'Waiting …'
  at('send').disabled = true
  at('stop').disabled = false
  try {
    await ask(running.signal)
  } catch (error) {
    note.textContent = error.name === 'AbortError' ? 'Stopped' : error.message
  } finally {
    at('send').disabled = false
    at('stop').disabled = true
  }
}

at('ask').addEventListener('submit', (event) => {
  event.preventDefault()
  void run()
})
at('stop').addEventListener('click', () => running.abort())
at('instruction').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) at('ask').requestSubmit()
})

let before
function show(text) {
  const values = Object.fromEntries([...text.matchAll(/^(ewe_\w+)\{[^}]*\} (\S+)$/gm)].map(([, name, value]) => [name, Number(value)]))
  const now = performance.now()
  const generated = values.ewe_generated_tokens_total
  if (before !== undefined) at('rate').textContent = (((generated - before.generated) / (now - before.now)) * 1000).toFixed(1)
  before = { now, generated }
  at('running').textContent = values.ewe_requests_running
  at('waiting').textContent = values.ewe_requests_waiting
  at('cache').textContent = `${(100 * values.ewe_cache_usage_ratio).toFixed(0)} %`
  at('cache-meter').value = values.ewe_cache_usage_ratio
  const looked = values.ewe_prefix_queries_total
  at('shared').textContent = looked === 0 ? '–' : `${((100 * values.ewe_prefix_hits_total) / looked).toFixed(0)} %`
}

async function watch() {
  try {
    if (model === '') await findModel()
    if (!document.hidden) show(await (await get('/metrics')).text())
  } catch (error) {
    at('model').textContent = error.message
  }
  setTimeout(watch, 1000)
}

await watch()
