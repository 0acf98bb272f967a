// Whom a request may be addressed to. A web page can have a name of its own point at this machine (DNS rebinding): its requests then count as those of the
// same origin, whatever CORS says, and only the Host header tells them from others.

/** Addresses that this machine alone reaches, and names of them that nobody else can give. */
export function isLoopback(host: string): boolean {
  return /^(127(\.\d{1,3}){3}|\[?::1\]?|(.+\.)?localhost)$/.test(host)
}

export class Hosts {
  readonly #allowed: ReadonlySet<string>
  #checked: boolean

  /** @param allowed names without ports, or `*` for all. */
  constructor(allowed: readonly string[] | undefined) {
    this.#allowed = new Set(allowed?.map((name) => name.toLowerCase()))
    this.#checked = allowed !== undefined && !this.#allowed.has('*')
  }

  /** A server for this machine alone that asks for no key takes requests to this machine only, unless it was told otherwise. */
  listensAt(address: string, withKeys: boolean): void {
    if (isLoopback(address) && !withKeys && !this.#allowed.has('*')) this.#checked = true
  }

  allows(request: Request): boolean {
    if (!this.#checked) return true
    const host = (request.headers.get('host') ?? new URL(request.url).host).toLowerCase().replace(/\.?(:\d*)?$/, '')
    return isLoopback(host) || this.#allowed.has(host)
  }
}
