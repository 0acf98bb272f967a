import { open } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { z } from 'zod'
import { OptionError } from '../errors.js'
import { readForm } from './form.js'
import { RequestError } from './failures.js'
import type { Stored } from './files.js'
import type { Jobs } from './jobs.js'
import type { Route } from './routes.js'

/** Largest file, as OpenAI has it. */
const maxFile = 200_000_000

const url = z.enum(['/v1/completions', '/v1/chat/completions'])
const completionWindow = z.literal('24h')
const pairs = z
  .record(z.string().max(64), z.string().max(512))
  .refine((given) => Object.keys(given).length <= 16, 'at most 16 pairs')
  .meta({ maxProperties: 16 })
const batchBody = z
  .looseObject({ input_file_id: z.string(), endpoint: url, completion_window: completionWindow, metadata: pairs.nullish() })
  .meta({ id: 'BatchRequest' })
const fileForm = z.object({ purpose: z.literal('batch'), file: z.file() }).meta({ id: 'FileForm' })
const file = z
  .object({
    id: z.string(),
    object: z.literal('file'),
    bytes: z.int(),
    created_at: z.int(),
    filename: z.string(),
    purpose: z.enum(['batch', 'batch_output']),
    status: z.literal('processed'),
  })
  .meta({ id: 'File' })
const time = z.int().optional()
const problem = z.object({ code: z.string(), message: z.string(), line: z.int().nullable(), param: z.string().nullable() })
const batch = z
  .object({
    id: z.string(),
    object: z.literal('batch'),
    endpoint: url,
    input_file_id: z.string(),
    completion_window: completionWindow,
    status: z.enum(['validating', 'failed', 'in_progress', 'finalizing', 'completed', 'cancelling', 'cancelled']),
    created_at: z.int(),
    in_progress_at: time,
    finalizing_at: time,
    completed_at: time,
    failed_at: time,
    cancelling_at: time,
    cancelled_at: time,
    output_file_id: z.string().optional(),
    error_file_id: z.string().optional(),
    errors: z.object({ object: z.literal('list'), data: z.array(problem) }).optional(),
    request_counts: z.object({ total: z.int(), completed: z.int(), failed: z.int() }),
    metadata: pairs.nullable(),
  })
  .meta({ id: 'Batch' })
const noPlace = { 404: 'Nothing has the id of `after`' }
const listQuery = z.object({ limit: z.int().min(1).max(10_000).default(20), after: z.string().optional() })
const page = <T extends z.ZodType>(one: T) => z.object({ object: z.literal('list'), data: z.array(one), first_id: z.string().nullable(), last_id: z.string().nullable(), has_more: z.boolean() })

/** `/v1/files` and `/v1/batches`. */
export function jobRoutes(jobs: Jobs): Route[] {
  const { files } = jobs
  return [
    {
      method: 'post',
      path: '/v1/files',
      writes: true,
      summary: 'Uploads a file for a batch',
      form: fileForm,
      refusals: { 507: 'The disk is full' },
      links: { begin: { operationId: 'postV1Batches', requestBody: { input_file_id: '$response.body#/id', endpoint: '/v1/completions', completion_window: '24h' } } },
      answer: file,
      async handle({ request }) {
        const receive = (bytes: AsyncIterable<Uint8Array>): Promise<Stored> => files.store(bytes)
        const discard = (stored: Stored): Promise<void> => files.discard(stored)
        const { fields, file: given } = await readForm(request, { field: 'file', limit: maxFile, receive, discard })
        const purpose = fields.get('purpose')
        if (purpose === 'batch' && given !== undefined) return await files.keep(given.kept, given.name.slice(0, 255), purpose)
        if (given === undefined) throw new OptionError('file', 'a file', fields.get('file'))
        await discard(given.kept)
        throw new OptionError('purpose', '`batch`, the only one here,', purpose)
      },
    },
    { method: 'get', path: '/v1/files', summary: 'The files, newest first', query: listQuery, refusals: noPlace, answer: page(file), handle: ({ request }) => pageOf(files.list(), request) },
    { method: 'get', path: '/v1/files/:file_id', summary: 'About one file', answer: file, handle: ({ name }) => files.card(name) },
    {
      method: 'get',
      path: '/v1/files/:file_id/content',
      summary: 'The text of a file',
      type: 'application/octet-stream',
      async handle({ name, request }) {
        const { id, bytes } = files.card(name)
        const headers = { 'content-type': 'application/octet-stream', 'content-length': String(bytes) }
        // Of an answer to HEAD nobody reads the body, and so nobody would close the file.
        if (request.method === 'HEAD') return new Response(null, { headers })
        return new Response(Readable.toWeb((await open(files.pathOf(id))).createReadStream()) as ReadableStream, { headers })
      },
    },
    {
      method: 'delete',
      path: '/v1/files/:file_id',
      writes: true,
      summary: 'Deletes a file',
      refusals: { 409: 'A batch that has not ended reads it' },
      answer: z.object({ id: z.string(), object: z.literal('file'), deleted: z.literal(true) }),
      async handle({ name }) {
        const user = jobs.list().find((each) => each.input_file_id === name && ['validating', 'in_progress', 'finalizing'].includes(each.status))
        if (user !== undefined) throw new RequestError(409, 'file_in_use', `The batch ${user.id} reads this file: cancel it first`)
        await files.remove(name)
        return { id: name, object: 'file', deleted: true }
      },
    },
    {
      method: 'post',
      path: '/v1/batches',
      writes: true,
      summary: 'Begins a batch',
      refusals: { 507: 'The disk is full' },
      body: batchBody,
      answer: batch,
      handle({ body }) {
        const { input_file_id, endpoint, completion_window, metadata } = body as z.output<typeof batchBody>
        return jobs.create({ input_file_id, endpoint, completion_window, metadata: metadata ?? null })
      },
    },
    { method: 'get', path: '/v1/batches', summary: 'The batches, newest first', query: listQuery, refusals: noPlace, answer: page(batch), handle: ({ request }) => pageOf(jobs.list(), request) },
    { method: 'get', path: '/v1/batches/:batch_id', summary: 'About one batch', answer: batch, handle: ({ name }) => jobs.card(name) },
    {
      method: 'post',
      path: '/v1/batches/:batch_id/cancel',
      writes: true,
      summary: 'Ends a batch early',
      refusals: { 409: 'It has ended already' },
      answer: batch,
      handle: ({ name }) => jobs.cancel(name),
    },
  ]
}

/** A page of a list: `limit` entries behind the one named `after`. */
function pageOf(all: { id: string }[], request: Request): object {
  const query = new URL(request.url).searchParams
  const limit = Number(query.get('limit') ?? 20)
  if (!Number.isInteger(limit) || limit < 1 || limit > 10_000) throw new OptionError('limit', 'a whole number from 1 to 10000', query.get('limit'))
  const after = query.get('after')
  const start = after === null ? 0 : all.findIndex(({ id }) => id === after) + 1
  if (after !== null && start === 0) throw new RequestError(404, 'not_found', 'There is nothing of that id to go on after', { param: 'after' })
  const data = all.slice(start, start + limit)
  return { object: 'list', data, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null, has_more: start + limit < all.length }
}
