// Chromium without a window, and what its pages did that they should not.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { chromium, type Browser, type BrowserContextOptions, type Page } from 'playwright-core'

/** The program, which comes from the system: the driver has none of its own and downloads none. */
function findChromium(): string {
  const folders = (process.env['PATH'] ?? '').split(':')
  const names = ['chromium', 'chromium-browser', 'google-chrome']
  const found = names.flatMap((name) => folders.map((folder) => join(folder, name))).find((path) => existsSync(path))
  if (found === undefined) throw new Error('These tests need Chromium on the PATH. On Debian: apt-get install chromium')
  return found
}

export function openBrowser(): Promise<Browser> {
  // Chromium has no sandbox for root.
  return chromium.launch({ executablePath: findChromium(), args: process.getuid?.() === 0 ? ['--no-sandbox'] : [] })
}

/** A page that is open, with all that its console said of errors, and all it asked for. */
export interface Visit {
  page: Page
  errors: string[]
  requests: string[]
}

export async function visit(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<Visit> {
  const context = await browser.newContext(options)
  const errors: string[] = []
  const requests: string[] = []
  context.on('request', (request) => requests.push(request.url()))
  context.on('console', (message) => {
    if (message.type() !== 'log') errors.push(message.text())
  })
  context.on('weberror', (error) => errors.push(String(error.error())))
  const page = await context.newPage()
  await page.goto(url)
  return { page, errors, requests }
}
