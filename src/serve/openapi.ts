// The routes as an OpenAPI document, made of the schemas that check them.
import { z } from 'zod'
import { packageVersion } from '../package.js'
import type { Route } from './routes.js'

const error = z.object({ error: z.object({ message: z.string(), type: z.string(), param: z.string().nullable(), code: z.string().nullable() }) })

export function openapi(routes: readonly Route[], withKeys: boolean): object {
  const paths: Record<string, Record<string, object>> = {}
  for (const route of routes) (paths[route.path.replace(/:(\w+)(\{.*\})?/, '{$1}')] ??= {})[route.method] = operation(route, withKeys)
  return {
    openapi: '3.1.0',
    info: { title: 'ewe', version: packageVersion(), license: { name: 'Apache-2.0' }, description: "OpenAI's interface, and what serving needs." },
    paths,
    components: {
      schemas: { Error: json(error, 'output') },
      ...(withKeys ? { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } } : {}),
    },
  }
}

function operation(route: Route, withKeys: boolean): object {
  const responses: Record<string, object> = { 200: { description: 'The answer', content: content(route) } }
  const fail = (status: number, description: string): void => {
    responses[status] = { description, content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } } }
  }
  const keyed = withKeys && route.open !== true
  if (keyed) fail(401, 'No key, or a wrong one')
  if (route.open !== true) fail(421, 'The Host header has a name that this server does not go by')
  if (route.body !== undefined) {
    fail(400, 'The request is wrong: `param` names what')
    fail(404, 'No model of that name')
    fail(413, 'The body is too large')
    fail(415, 'The body is not application/json')
  }
  if (route.path.includes(':')) fail(404, 'No such name')
  if (route.work === true) {
    fail(429, 'The queue is full: Retry-After says when to try again')
    fail(504, 'The deadline passed')
  }
  fail(500, 'An error inside the server')
  fail(503, 'The server is about to stop, or has no model')
  const name = /:(\w+)/.exec(route.path)?.[1]
  return {
    summary: route.summary,
    operationId: `${route.method}${route.path.replace('{.+}', '').replaceAll(/\W+(\w)/g, (_, letter: string) => letter.toUpperCase())}`,
    ...(name === undefined ? {} : { parameters: [{ name, in: 'path', required: true, schema: { type: 'string', minLength: 1 } }] }),
    ...(route.body === undefined ? {} : { requestBody: { required: true, content: { 'application/json': { schema: json(route.body, 'input') } } } }),
    ...(keyed ? { security: [{ key: [] }] } : {}),
    responses,
  }
}

function content({ type, answer, work }: Route): object {
  if (answer === undefined) return { [type ?? 'application/octet-stream']: { schema: { type: 'string' } } }
  const found = { 'application/json': { schema: json(answer, 'output') } }
  return work === true ? { ...found, 'text/event-stream': { schema: { type: 'string' } } } : found
}

function json(schema: z.ZodType, io: 'input' | 'output'): object {
  const { $schema: _, '~standard': __, ...rest } = z.toJSONSchema(schema, { io, unrepresentable: 'any' }) as Record<string, unknown>
  return rest
}
