// The HTTP server: routes.ts says what there is, openai.ts what bodies mean, call.ts what is under way; here a request comes in and its answer goes out.
import { createServer as createHttpServer, STATUS_CODES, type Server as HttpServer } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { getRequestListener } from '@hono/node-server'
import { Hono, type Context } from 'hono'
import { cors } from 'hono/cors'
import { ListenError } from '../errors.js'
import type { Model } from '../model.js'
import { check } from '../options.js'
import { readJson } from './body.js'
import { Call, Work } from './call.js'
import { clientLeft, errorResponse, failureOf, RequestError, type Failure } from './failures.js'
import { Hosts } from './hosts.js'
import { jobRoutes } from './job-routes.js'
import { keyCheck } from './keys.js'
import { Metrics } from './metrics.js'
import { openapi } from './openapi.js'
import { pageRoutes } from './page.js'
import { routes as apiRoutes, type Answer, type Route, type Service } from './routes.js'
import { listenOptions, serverOptions, type ListenOptions, type ServerOptions } from './settings.js'
import { eventStream } from './stream.js'

export { Jobs, type JobsOptions } from './jobs.js'
export type { ListenOptions, Log, ServerOptions } from './settings.js'

export interface Server {
  /** Answers one request, wherever it comes from. */
  fetch(request: Request): Promise<Response>
  /**
   * Opens a port of its own.
   *
   * @throws OptionError; ListenError when the port is in use or may not be opened.
   */
  listen(options?: ListenOptions): Promise<{ host: string; port: number; url: string }>
  /**
   * Takes no new work (503, and so says `/ready`), waits for what runs, gives up what takes longer than `timeout` milliseconds (default 45,000), then closes
   * its port.
   */
  drain(timeout?: number): Promise<void>
  /** Gives up what runs and closes its port. The model stays loaded. Idempotent. */
  close(): Promise<void>
}

/**
 * A server of OpenAI's interface over a loaded model. It installs no signal handlers and does not end with the model: `drain()` or `close()` it, then
 * dispose of the model.
 *
 *     const server = createServer(model, { apiKeys: [key] })
 *     const { url } = await server.listen({ port: 8000 })
 *
 * @throws OptionError.
 */
export function createServer(model: Model, options: ServerOptions = {}): Server {
  const settings = check(serverOptions, options)
  const [first = model.name, ...aliases] = settings.names ?? []
  const work = new Work()
  const metrics = new Metrics(model, first)
  const hosts = new Hosts(settings.allowedHosts)
  const service: Service = { model, names: [first, ...aliases], settings, work, metrics, hosts, created: Math.floor(Date.now() / 1000) }
  const app = application(service)
  const fetch = async (request: Request): Promise<Response> => await app.fetch(request)

  let http: HttpServer | undefined
  const closePort = async (): Promise<void> => {
    const server = http
    http = undefined
    metrics.close()
    if (server === undefined) return
    // Answers that are on their way get the time to arrive; a client that still sends, or does not read, gets no more than that.
    const idle = setInterval(() => server.closeIdleConnections(), 50)
    const late = setTimeout(() => server.closeAllConnections(), 2000)
    await new Promise<void>((resolve) => server.close(() => resolve()))
    clearInterval(idle)
    clearTimeout(late)
  }
  return {
    fetch,
    async listen(given = {}) {
      const { host, port } = check(listenOptions, given)
      if (http !== undefined) throw new ListenError('This server listens already')
      // Hono's own Request and Response would replace those of the whole process.
      const listener = getRequestListener(fetch, { overrideGlobalObjects: false, errorHandler: (thrown) => badRequest(service, thrown) })
      // A missing host has an answer of ours.
      const limits = { requestTimeout: 120_000, headersTimeout: 30_000, keepAliveTimeout: 30_000, requireHostHeader: false }
      const server = createHttpServer(limits, (incoming, outgoing) => {
        // It is told when nothing moves, which is also so while the model works: then nothing waits to be read.
        outgoing.setTimeout(settings.readTimeout, () => {
          if (outgoing.writableLength > 0) outgoing.destroy()
        })
        void listener(incoming, outgoing)
      })
      server.on('clientError', (error: NodeJS.ErrnoException, socket) => answerNoRequest(service, error, socket))
      hosts.listensAt(host, settings.apiKeys.length > 0)
      await opened(server, host, port)
      http = server
      const bound = server.address() as AddressInfo
      return { host, port: bound.port, url: `http://${host.includes(':') ? `[${host}]` : host}:${bound.port}` }
    },
    async drain(timeout = 45_000) {
      const drained = work.drain(timeout)
      await settings.jobs?.stop()
      await drained
      await closePort()
      await settings.jobs?.close()
    },
    async close() {
      work.abort()
      await settings.jobs?.stop()
      await work.drain(0)
      await closePort()
      await settings.jobs?.close()
    },
  }
}

function application(service: Service): Hono {
  const { settings, model } = service
  const app = new Hono({ strict: false })
  if (settings.corsOrigins.length > 0) {
    const origin = settings.corsOrigins.includes('*') ? '*' : settings.corsOrigins
    app.use(cors({ origin, allowHeaders: ['authorization', 'content-type', 'x-request-id'], exposeHeaders: ['x-request-id', 'retry-after'], maxAge: 600 }))
  }
  const document: Route = { method: 'get', path: '/openapi.json', summary: 'This document', open: true, type: 'application/json', handle: () => described }
  const interfaces = [...apiRoutes, ...(settings.jobs === undefined ? [] : jobRoutes(settings.jobs)), document]
  const routes = [...pageRoutes(), ...interfaces]
  const described = openapi(interfaces, { names: service.names, vocab: model.config.vocab, maxTokens: settings.maxTokens ?? model.plan.maxContext, withKeys: settings.apiKeys.length > 0 })
  const authorized = settings.apiKeys.length === 0 ? () => true : keyCheck(settings.apiKeys)
  const answer = (route: Route) => (context: Context) => dispatch(service, route, context.req.raw, nameIn(route, context), authorized)
  for (const route of routes) app.on(route.method, route.path, answer(route))
  for (const path of new Set(routes.map((route) => route.path))) {
    const allow = routes.filter((route) => route.path === path).map((route) => route.method.toUpperCase())
    const refuse = (): never => {
      throw new RequestError(405, 'method_not_allowed', `This path takes ${allow.join(' and ')} only`, { headers: { allow: allow.join(', ') } })
    }
    app.all(path, answer({ method: 'get', path, summary: '', open: true, handle: refuse }))
  }
  const nowhere = (): never => {
    throw new RequestError(404, 'not_found', 'There is no such path: /openapi.json lists those that there are')
  }
  app.notFound(answer({ method: 'get', path: 'none', summary: '', open: true, handle: nowhere }))
  return app
}

function nameIn({ path }: Route, context: Context): string {
  return path.includes(':') ? (Object.values(context.req.param())[0] ?? '') : ''
}

/** One request from its head to the end of its answer. */
async function dispatch(service: Service, route: Route, request: Request, name: string, authorized: (authorization: string | null) => boolean): Promise<Response> {
  const { settings, work, hosts } = service
  const call = new Call(request, route.work === true ? settings.deadline : undefined)
  let over = false
  const end = (status: number, failure?: Failure, thrown?: unknown): void => {
    if (over) return
    over = true
    work.end(call)
    call.end(failure !== undefined)
    record(service, route, call, request, call.left ? clientLeft : status, failure, thrown)
  }
  let response: Response
  try {
    if (route.open !== true && !hosts.allows(request)) {
      throw new RequestError(421, 'host_not_allowed', 'This server does not go by that name: its option allowedHosts (--allowed-host) lists others than localhost')
    }
    if (route.open !== true && !authorized(request.headers.get('authorization'))) {
      const headers = { 'www-authenticate': 'Bearer' }
      throw new RequestError(401, 'invalid_api_key', 'Expected `Authorization: Bearer KEY` with a key of this server', { headers })
    }
    if (route.work === true) work.begin(call)
    if (route.writes === true) work.check()
    const body = route.body === undefined ? undefined : check(route.body, await readJson(request, settings.maxBody), 'body')
    const answer: Answer = await route.handle({ service, call, body, name, request })
    if (isEvents(answer)) {
      call.fields['stream'] = true
      response = await eventStream(call, answer.events, (...ended) => {
        Object.assign(call.fields, answer.tally)
        end(...ended)
      })
    } else {
      response = answer instanceof Response ? answer : Response.json(answer)
      end(response.status)
    }
  } catch (thrown) {
    const failure = failureOf(thrown)
    end(failure.status, failure, thrown)
    response = errorResponse(failure)
  }
  response.headers.set('x-request-id', call.id)
  response.headers.set('x-content-type-options', 'nosniff')
  return response
}

function isEvents(answer: Answer): answer is Extract<Answer, { events: unknown }> {
  return 'events' in answer
}

/** The line of a request in the log, and its count. */
function record({ settings: { log }, metrics }: Service, route: Route, call: Call, request: Request, status: number, failure?: Failure, thrown?: unknown): void {
  metrics.answered(route.path, status)
  if (log === undefined || (route.watched === true && status < 400)) return
  const ms = Math.round(performance.now() - call.started)
  const error = failure === undefined || status === clientLeft ? {} : { code: failure.body.error.code }
  const fields = { id: call.id, method: request.method, route: route.path, status, ms, ...call.fields, ...error }
  if (failure === undefined || status < 500) log.info(fields, 'request')
  else if (failure.status === 500) log.error({ ...fields, stack: thrown instanceof Error ? thrown.stack : String(thrown) }, 'request')
  else log.warn(fields, 'request')
}

/** A request that is none: its host or its address makes no URL. */
function badRequest({ metrics }: Service, thrown: unknown): Response {
  metrics.answered('none', 400)
  return errorResponse(failureOf(new RequestError(400, 'bad_request', thrown instanceof Error ? thrown.message : 'Bad request')))
}

/** What is no HTTP at all: Node would close the connection with a status alone. */
function answerNoRequest({ metrics }: Service, { code }: NodeJS.ErrnoException, socket: Duplex): void {
  const [status, text] = notRequests[code ?? ''] ?? [400, 'The request is not HTTP']
  metrics.answered('none', status)
  // Nothing may be written into an answer that is on its way, nor to a client that has gone.
  if (!socket.writable || code === 'ECONNRESET' || (socket as Socket).bytesWritten > 0) {
    socket.destroy()
    return
  }
  const body = JSON.stringify(failureOf(new RequestError(status, 'bad_request', text)).body)
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`)
}

const notRequests: Record<string, [status: number, text: string]> = {
  HPE_HEADER_OVERFLOW: [431, 'The head of the request is larger than 16 KiB'],
  HPE_CHUNK_EXTENSIONS_OVERFLOW: [413, 'The chunks of the body have too long extensions'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'The request took too long to arrive'],
}

async function opened(server: HttpServer, host: string, port: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => reject(new ListenError(refusal(cause, host, port), { cause })))
    server.listen({ host, port }, () => {
      server.removeAllListeners('error')
      resolve()
    })
  })
}

function refusal({ code, message }: NodeJS.ErrnoException, host: string, port: number): string {
  if (code === 'EADDRINUSE') return `Port ${port} of ${host} is in use: choose another, or 0 for any free one`
  if (code === 'EACCES') return `Port ${port} of ${host} may not be opened by this user: choose one from 1024 on`
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') return `This machine has no address ${host}`
  return `Port ${port} of ${host} could not be opened: ${message}`
}
