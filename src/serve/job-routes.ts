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

const batchBody = z.looseObject({
  input_file_id: z.string(),
  endpoint: z.enum(['/v1/completions', '/v1/chat/completions']),
  completion_window: z.literal('24h'),
  metadata: z
    .record(z.string().max(64), z.string().max(512))
    .refine((pairs) => Object.keys(pairs).length <= 16, 'at most 16 pairs')
    .nullish(),
})
const file = z.looseObject({ id: z.string(), object: z.literal('file'), bytes: z.int(), created_at: z.int(), filename: z.string(), purpose: z.string() })
const batch = z.looseObject({ id: z.string(), object: z.literal('batch'), status: z.string(), request_counts: z.object({ total: z.int(), completed: z.int(), failed: z.int() }) })
const page = <T extends z.ZodType>(one: T) => z.object({ object: z.literal('list'), data: z.array(one), first_id: z.string().nullable(), last_id: z.string().nullable(), has_more: z.boolean() })

/** `/v1/files` and `/v1/batches`. */
export function jobRoutes(jobs: Jobs): Route[] {
  const { files } = jobs
  return [
    {
      method: 'post',
      path: '/v1/files',
      summary: 'Uploads a file for a batch (multipart/form-data: purpose and file)',
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
    { method: 'get', path: '/v1/files', summary: 'The files, newest first', answer: page(file), handle: ({ request }) => pageOf(files.list(), request) },
    { method: 'get', path: '/v1/files/:name', summary: 'About one file', answer: file, handle: ({ name }) => files.card(name) },
    {
      method: 'get',
      path: '/v1/files/:name/content',
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
      path: '/v1/files/:name',
      summary: 'Deletes a file',
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
      summary: 'Begins a batch',
      body: batchBody,
      answer: batch,
      handle({ body }) {
        const { input_file_id, endpoint, completion_window, metadata } = body as z.output<typeof batchBody>
        return jobs.create({ input_file_id, endpoint, completion_window, metadata: metadata ?? null })
      },
    },
    { method: 'get', path: '/v1/batches', summary: 'The batches, newest first', answer: page(batch), handle: ({ request }) => pageOf(jobs.list(), request) },
    { method: 'get', path: '/v1/batches/:name', summary: 'About one batch', answer: batch, handle: ({ name }) => jobs.card(name) },
    { method: 'post', path: '/v1/batches/:name/cancel', summary: 'Ends a batch early', answer: batch, handle: ({ name }) => jobs.cancel(name) },
  ]
}

/** A page of a list: `limit` entries behind the one named `after`. */
function pageOf(all: { id: string }[], request: Request): object {
  const query = new URL(request.url).searchParams
  const limit = Number(query.get('limit') ?? 20)
  if (!Number.isInteger(limit) || limit < 1 || limit > 10_000) throw new OptionError('limit', 'a whole number from 1 to 10000', query.get('limit'))
  const after = query.get('after')
  const start = after === null ? 0 : all.findIndex(({ id }) => id === after) + 1
  const data = all.slice(start, start + limit)
  return { object: 'list', data, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null, has_more: start + limit < all.length }
}
