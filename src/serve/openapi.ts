// The routes as an OpenAPI document, made of the schemas that check them. A schema with an `id` goes to the components, so that generated clients name it.
import { z } from 'zod'
import { packageVersion } from '../package.js'
import type { Route } from './routes.js'

type Json = Record<string, unknown>

const error = z
  .object({ error: z.object({ message: z.string(), type: z.string(), param: z.string().nullable(), code: z.string().nullable() }) })
  .meta({ id: 'Error' })

const headers = {
  'x-request-id': { description: 'Names the request in the log: what the client sent under this name, or a new one', required: true, schema: { type: 'string' } },
  'retry-after': { description: 'Seconds to wait before the next try', schema: { type: 'string', pattern: '^\\d+$' } },
  'www-authenticate': { description: 'How to bring a key', required: true, schema: { type: 'string' } },
}

/** What no schema knows of a server. */
export interface Facts {
  /** What requests may call the model. */
  names: readonly string[]
  /** Token ids there are. */
  vocab: number
  /** Most tokens that a request may ask for. */
  maxTokens: number
  withKeys: boolean
}

interface Context extends Facts {
  /** Filled on the way. */
  schemas: Record<string, Json>
}

export function openapi(routes: readonly Route[], facts: Facts): object {
  const { withKeys } = facts
  const context: Context = { ...facts, schemas: { TokenId: { type: 'integer', minimum: 0, maximum: facts.vocab - 1 } } }
  const paths: Record<string, Record<string, object>> = {}
  for (const route of routes) (paths[route.path.replace(/:(\w+)(\{.*\})?/, '{$1}')] ??= {})[route.method] = operation(route, context)
  return {
    openapi: '3.1.0',
    info: { title: 'ewe', version: packageVersion(), license: { name: 'Apache-2.0', identifier: 'Apache-2.0' }, description: "OpenAI's interface, and what serving needs." },
    servers: [{ url: '/' }],
    paths,
    components: { schemas: context.schemas, headers, ...(withKeys ? { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } } : {}) },
  }
}

function operation(route: Route, context: Context): object {
  const { links } = route
  const good = { description: 'The answer', headers: named('x-request-id'), content: content(route, context), ...(links === undefined ? {} : { links }) }
  const responses: Record<string, object> = { 200: good }
  const fail = (status: number, description: string, ...more: (keyof typeof headers)[]): void => {
    responses[status] = { description, headers: named('x-request-id', ...more), content: { 'application/json': { schema: json(error, 'output', context) } } }
  }
  const keyed = context.withKeys && route.open !== true
  const name = /:(\w+)/.exec(route.path)?.[1]
  if (keyed) fail(401, 'No key, or a wrong one', 'www-authenticate')
  if (route.open !== true) fail(421, 'The Host header has a name that this server does not go by')
  if (route.body !== undefined || route.form !== undefined || route.query !== undefined) fail(400, 'The request is wrong: `param` names what')
  if (route.body !== undefined || route.form !== undefined) {
    fail(413, 'The body is too large')
    fail(415, `The body is not ${route.form === undefined ? 'application/json' : 'multipart/form-data'}`)
  }
  if (route.body !== undefined) fail(404, 'Nothing of a name that the body gives')
  if (name !== undefined) fail(404, 'No such name')
  if (route.work === true) {
    fail(429, 'The queue is full', 'retry-after')
    fail(504, 'The deadline passed')
  }
  fail(500, 'An error inside the server')
  fail(503, 'The server is about to stop, or has no model', 'retry-after')
  for (const [status, description] of Object.entries(route.refusals ?? {})) fail(Number(status), description)
  const parameters = [...(name === undefined ? [] : [{ name, in: 'path', required: true, schema: { type: 'string', minLength: 1 } }]), ...queries(route, context)]
  return {
    summary: route.summary,
    operationId: `${route.method}${route.path.replace('{.+}', '').replaceAll(/\W+(\w)/g, (_, letter: string) => letter.toUpperCase())}`,
    ...(parameters.length === 0 ? {} : { parameters }),
    ...requestBody(route, context),
    ...(keyed ? { security: [{ key: [] }] } : {}),
    responses,
  }
}

function requestBody({ body, form, work, example }: Route, context: Context): object {
  if (form !== undefined) return { requestBody: { required: true, content: { 'multipart/form-data': { schema: json(form, 'input', context) } } } }
  if (body === undefined) return {}
  const schema = json(body, 'input', context)
  const described = typeof schema['$ref'] === 'string' ? context.schemas[schema['$ref'].split('/').at(-1) ?? ''] : schema
  const { properties, required = [] } = described as { properties: Record<string, Json>; required?: string[] }
  if ('model' in properties) properties['model'] = { enum: work === true ? context.names : [...context.names, null] }
  for (const name of ['max_tokens', 'max_completion_tokens']) {
    for (const one of (properties[name]?.['anyOf'] ?? []) as Json[]) if ('maximum' in one) one['maximum'] = context.maxTokens
  }
  if (work === true && described !== undefined) described['required'] = [...new Set(['model', ...required])]
  const value = { model: context.names[0], ...example }
  const stream = { value: { ...value, stream: true, stream_options: { include_usage: true } } }
  const examples = example === undefined ? {} : { examples: { whole: { value }, stream } }
  return { requestBody: { required: true, content: { 'application/json': { schema, ...examples } } } }
}

function queries({ query }: Route, context: Context): object[] {
  if (query === undefined) return []
  return Object.entries(json(query, 'input', context)['properties'] as Json).map(([name, schema]) => ({ name, in: 'query', schema }))
}

function content({ type, answer, events }: Route, context: Context): object {
  if (answer === undefined) return { [type ?? 'application/octet-stream']: { schema: type === 'application/json' ? { type: 'object' } : { type: 'string' } } }
  const found = { 'application/json': { schema: json(answer, 'output', context) } }
  if (events === undefined) return found
  // Of an event, as OpenAPI 3.1 leaves it to be read; itemSchema of 3.2 would say so.
  const data = { type: 'string', contentMediaType: 'application/json', contentSchema: { anyOf: [json(events, 'output', context), json(error, 'output', context)] } }
  const schema = { type: 'object', required: ['data'], properties: { data: { anyOf: [{ const: '[DONE]' }, data] } }, description: 'With `stream`: an event. The last one is [DONE]' }
  return { ...found, 'text/event-stream': { schema } }
}

function named(...names: (keyof typeof headers)[]): object {
  return Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }]))
}

/** A schema, or a reference to it. */
function json(schema: z.ZodType, io: 'input' | 'output', { schemas }: Context): Json {
  const found = z.toJSONSchema(schema, { io, unrepresentable: 'any' }) as Json
  const moved = JSON.parse(JSON.stringify(found).replaceAll('"#/$defs/', '"#/components/schemas/')) as Json
  const { $schema: _, $defs = {}, ...rest } = moved
  for (const [id, one] of Object.entries({ ...($defs as Record<string, Json>), ...(typeof rest['id'] === 'string' ? { [rest['id']]: rest } : {}) })) {
    const { id: __, ...bare } = one
    schemas[id] ??= bare
  }
  return typeof rest['id'] === 'string' ? { $ref: `#/components/schemas/${rest['id']}` } : rest
}
