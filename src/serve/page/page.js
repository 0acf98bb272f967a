// The page to try a model with: streams an answer, and shows once a second what /metrics says. It talks to its own server only.
const at = (id) => document.getElementById(id)
const answer = at('answer')
let key = '' // in memory only
let model = ''
let running
let next

function headers() {
  return key === '' ? {} : { authorization: `Bearer ${key}` }
}

/** A response that is good. What went wrong is thrown in words for the reader; a key that is missing or wrong is asked for. */
async function request(path, init = {}) {
  let response
  try {
    response = await fetch(path, { ...init, headers: { ...init.headers, ...headers() } })
  } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new Error('The server does not answer.', { cause: error })
  }
  if (response.ok) return response
  const type = response.headers.get('content-type') ?? ''
  const message = type.startsWith('application/json') ? (await response.json()).error.message : `The server answered with status ${response.status}.`
  if (response.status === 401) askForKey()
  throw new Error(message)
}

// ---- The key

function askForKey() {
  at('trouble').textContent = key === '' ? 'This server asks for a key.' : 'This server does not take this key.'
  at('trouble').hidden = false
  at('unlock').hidden = false
  at('key').focus()
  at('key').select()
}

at('unlock').addEventListener('submit', (event) => {
  event.preventDefault()
  key = at('key').value.trim()
  clearTimeout(next)
  void watch()
})

// ---- An answer

/** The data of each event of a response, as they come. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { done, value } = await reader.read().catch(brokeOff)
    if (done) return
    const events = (rest + value).split('\n\n')
    rest = events.pop()
    for (const event of events) yield event.replace(/^data: /, '')
  }
}

function brokeOff(cause) {
  throw cause?.name === 'AbortError' ? cause : new Error('The answer broke off: the server is gone.', { cause })
}

function numberIn(id) {
  return at(id).value === '' ? undefined : at(id).valueAsNumber
}

/** Streams the answer into the page. Returns what there is to say of it. */
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
  const init = { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body), signal }
  const response = await request('v1/chat/completions', init)
  let said = ''
  let cut = ''
  for await (const data of eventsOf(response)) {
    if (data === '[DONE]') return said + cut
    const { error, choices, usage } = JSON.parse(data)
    if (error) throw new Error(error.message)
    if (choices[0]?.delta.content) write(choices[0].delta.content)
    if (choices[0]?.finish_reason === 'length') cut = '; cut off there'
    if (usage) {
      const seconds = (performance.now() - started) / 1000
      said = `${usage.completion_tokens} tokens in ${seconds.toFixed(2)} s, ${rounded(usage.completion_tokens / seconds)} tokens/s`
    }
  }
  return brokeOff()
}

let unwritten = ''

/** Text, never HTML. Once a frame at most: tokens may come by the thousand, and each look at the box's height lays the page out anew. */
function write(text) {
  if (unwritten === '') requestAnimationFrame(flush)
  unwritten += text
}

/** Who reads at the end is kept there. */
function flush() {
  const atEnd = answer.scrollHeight - answer.scrollTop - answer.clientHeight < 8
  answer.append(unwritten)
  answer.normalize()
  unwritten = ''
  if (atEnd) answer.scrollTop = answer.scrollHeight
}

function say(text, isProblem = false) {
  at('note').textContent = text
  at('note').className = isProblem ? 'problem' : 'soft'
}

/** A button that is switched off would lose the keyboard's place. */
function switchTo(on, off) {
  const hadFocus = document.activeElement === off
  on.disabled = false
  if (hadFocus) on.focus()
  off.disabled = true
}

async function run() {
  running = new AbortController()
  answer.replaceChildren()
  answer.setAttribute('aria-busy', 'true') // read out when it is complete
  say('Answering …')
  switchTo(at('stop'), at('send'))
  try {
    say(await ask(running.signal))
  } catch (error) {
    if (error.name === 'AbortError') say('Stopped')
    else say(error.message, true)
  }
  flush()
  answer.setAttribute('aria-busy', 'false')
  switchTo(at('send'), at('stop'))
}

at('ask').addEventListener('submit', (event) => {
  event.preventDefault()
  if (!at('send').disabled) void run()
})
at('stop').addEventListener('click', () => running.abort())
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') running?.abort()
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && !at('send').disabled) at('ask').requestSubmit()
})

// ---- The server

async function findModel() {
  const { data } = await (await request('v1/models')).json()
  model = data[0].id
  at('model').textContent = model
  at('most').max = data[0].max_model_len
}

function rounded(value) {
  return value.toLocaleString('en', { maximumFractionDigits: value < 10 ? 1 : 0 })
}

const rates = Array(60).fill(0)
let before
function show(text) {
  const values = Object.fromEntries([...text.matchAll(/^(ewe_\w+)\{.*\} (\S+)$/gm)].map(([, name, value]) => [name, Number(value)]))
  const now = performance.now()
  const generated = values.ewe_generated_tokens_total
  if (before !== undefined) {
    rates.push(((generated - before.generated) / (now - before.now)) * 1000)
    rates.shift()
    const most = Math.max(1, ...rates)
    at('rate').textContent = rounded(rates.at(-1))
    at('history').firstElementChild.setAttribute('points', rates.map((rate, i) => `${i},${20 - (19 * rate) / most}`).join(' '))
  }
  before = { now, generated }
  at('running').textContent = values.ewe_requests_running
  at('waiting').textContent = values.ewe_requests_waiting
  at('cache').textContent = percent(values.ewe_cache_usage_ratio)
  at('cache-meter').value = values.ewe_cache_usage_ratio
  const looked = values.ewe_prefix_queries_total
  at('shared').textContent = looked === 0 ? '–' : percent(values.ewe_prefix_hits_total / looked)
}

function percent(share) {
  return `${(100 * share).toFixed(0)} %`
}

/** Looks at the server once a second, until it asks for a key. */
async function watch() {
  try {
    if (model === '') await findModel()
    if (!document.hidden) show(await (await request('metrics')).text())
    at('trouble').hidden = true
    at('unlock').hidden = true
  } catch (error) {
    if (!at('unlock').hidden) return
    before = undefined
    for (const id of ['rate', 'running', 'waiting', 'cache', 'shared']) at(id).textContent = '–'
    at('trouble').textContent = `${error.message} Trying again …`
    at('trouble').hidden = false
  }
  next = setTimeout(watch, 1000)
}

await watch()
