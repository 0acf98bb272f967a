import { z } from 'zod'
import { Jobs } from './jobs.js'

/** What the server tells about itself: one line per request and per event. A logger of pino fits. Texts of prompts and answers never appear in it. */
export interface Log {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

/** Options of {@link createServer}. */
export const serverOptions = z.strictObject({
  /** Names that requests may call the model by; the first is the one that answers give. Default: the name of the model. */
  names: z.array(z.string().min(1).max(256)).min(1).max(64).optional(),
  /** Keys of which a request must bring one (`Authorization: Bearer KEY`). Default: none, everyone may ask. */
  apiKeys: z.array(z.string().min(1).max(1024)).max(1024).default([]),
  /** Origins whose web pages may call the server, or `*`. Default: none. */
  corsOrigins: z.array(z.string().min(1).max(256)).max(64).default([]),
  /**
   * Names, without ports, that the `Host` header of requests may have beside those of this machine (`localhost`, `127.0.0.1`, `[::1]`), or `*` for all:
   * name the one that a reverse proxy passes on. Others get status 421; paths that need no key, such as `/health`, are answered under every name. Default:
   * none beside this machine's where the server listens at one of its addresses and has no keys, so that no web page can reach it through a name of its
   * own; else all.
   */
  allowedHosts: z.array(z.string().regex(/^(\*|[\w.-]{1,253}|\[[\da-fA-F:.]+\])$/, 'host names without ports, or *')).min(1).max(64).optional(),
  /**
   * Special tokens, such as `### Instruction:`, count as such in the texts of `/v1/completions` and `/tokenize` whose bodies do not say `parse_special`: for
   * callers that make the template themselves, as evaluations do. Default false: they are plain text, and nobody who writes a part of a prompt can forge one.
   */
  parseSpecial: z.boolean().default(false),
  /** Largest body in bytes. Default 10 MB. */
  maxBody: z.int().min(1).max(1 << 30).default(10_000_000),
  /** Most new tokens that a request may ask for. Default: as many as the context takes. */
  maxTokens: z.int().min(1).max(1 << 24).optional(),
  /** Milliseconds after which a request is given up with status 504. Default: none. */
  deadline: z.number().gt(0).max(1e9).optional(),
  /** Milliseconds for which a client may leave unread what was sent to it; then it loses its connection, and its work ends. Default 60,000. */
  readTimeout: z.int().min(1).max(1e9).default(60_000),
  /** Files and batch jobs, `/v1/files` and `/v1/batches`. They stop with the server and go on with the next one. Default: none, these paths are not there. */
  jobs: z.custom<Jobs>((value) => value instanceof Jobs, 'what Jobs.open() gives').optional(),
  /** Receives the log. Default: nobody. */
  log: z.custom<Log>((value) => typeof value === 'object' && value !== null && 'info' in value, 'an object with info, warn and error').optional(),
})
export type ServerOptions = z.input<typeof serverOptions>
export type Settings = z.output<typeof serverOptions>

/** Where to listen. */
export const listenOptions = z.strictObject({
  /** Address to bind to. Default 127.0.0.1: this machine only. */
  host: z.string().min(1).max(255).default('127.0.0.1'),
  /** 0 takes a free one. Default 8000. */
  port: z.int().min(0).max(65535).default(8000),
})
export type ListenOptions = z.input<typeof listenOptions>
