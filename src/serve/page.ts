import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageFolder } from '../package.js'
import type { Route } from './routes.js'

// Its own files and nothing else: no inline script or style, no other origin, no frame around it, no text made into HTML or code.
const own = ['script-src', 'style-src', 'img-src', 'connect-src'].map((kind) => `${kind} 'self'`)
const never = ['default-src', 'base-uri', 'form-action', 'frame-ancestors', 'trusted-types'].map((kind) => `${kind} 'none'`)
const policy = [...never, ...own, "require-trusted-types-for 'script'"].join('; ')

const files = [
  ['/', 'index.html', 'text/html; charset=utf-8'],
  ['/page.css', 'page.css', 'text/css; charset=utf-8'],
  ['/page.js', 'page.js', 'text/javascript; charset=utf-8'],
  ['/icon.svg', 'icon.svg', 'image/svg+xml'],
] as const

/** The page to try the model with, read once. The build puts it into dist/. */
export function pageRoutes(): Route[] {
  return files.map(([path, name, type]) => {
    const text = readFileSync(join(packageFolder(), 'dist/serve/page', name))
    const headers = { 'content-type': type, 'content-security-policy': policy, 'referrer-policy': 'no-referrer', 'cache-control': 'no-cache' }
    return { method: 'get', path, summary: `The page to try the model with: ${name}`, open: true, type: type.split(';')[0]!, handle: () => new Response(text, { headers }) }
  })
}
