// The HTTP API of the sandbox, and the phone page, on loopback only.
import fs from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import { PairingError } from './pairing.mjs'

const BODY_LIMIT = 40 * 1024 * 1024
const PAGE = path.join(import.meta.dirname, '..', 'page')
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' }

/** A request that cannot be done, with its HTTP status. */
export class RequestError extends Error {
  constructor(status, message) {
    super(message)
    this.status = status
  }
}

const need = (value, name) => {
  if (value === undefined || value === null || value === '') throw new RequestError(400, `"${name}" is missing`)
  return value
}
const wholeNumber = (value, name) => {
  if (!Number.isInteger(value)) throw new RequestError(400, `"${name}" must be a whole number`)
  return value
}

async function readBody(request) {
  const chunks = []
  let size = 0
  for await (const chunk of request) {
    size += chunk.length
    if (size > BODY_LIMIT) throw new RequestError(413, 'the body is too large')
    chunks.push(chunk)
  }
  if (!size) return {}
  try {
    const body = JSON.parse(Buffer.concat(chunks).toString())
    if (body && typeof body === 'object' && !Array.isArray(body)) return body
  } catch (error) {
    throw new RequestError(400, `the body is not JSON: ${error.message}`)
  }
  throw new RequestError(400, 'the body must be a JSON object')
}

export class Admin {
  constructor(edge, { onReset }) {
    this.edge = edge
    this.onReset = onReset
    this.routes = {
      'GET /api/health': () => ({ ok: true }),
      'GET /api/state': () => this.#state(),
      'POST /api/phones': (body) => this.#createPhone(body),
      'POST /api/scan': (body) => edge.pairing.scan(need(body.qr, 'qr'), body.number),
      'POST /api/pair-code': (body) =>
        edge.pairing.code.enter(need(body.code, 'code'), need(body.number, 'number'), PairingError),
      'POST /api/unlink': ({ jid }) => this.#hit(edge.unlink(need(jid, 'jid')), jid),
      'POST /api/replace': ({ jid }) => this.#hit(edge.replace(need(jid, 'jid')), jid),
      'POST /api/stream-error': ({ jid, code, close = true }) =>
        this.#hit(edge.streamError(need(jid, 'jid'), wholeNumber(code, 'code'), close), jid),
      'POST /api/cut': ({ jid }) => this.#hit(edge.cut(need(jid, 'jid')), jid),
      'POST /api/fail-logins': (body) => this.#failLogins(body),
      'POST /api/black-hole': (body) => this.#blackHole(body),
      'GET /api/network': () => edge.faults.network,
      'POST /api/network': (body) => this.#setNetwork(body),
      'POST /api/uploads': (body) => this.#holdUploads(body),
      'POST /api/qr-lifetime': (body) => this.#qrLifetime(body),
      'POST /api/messages': (body) => this.#sendMessage(body),
      'GET /api/messages': (_, query) => edge.post.after(Number(query.get('after') ?? 0)),
      'POST /api/receipts': (body) => this.#sendReceipt(body),
      'GET /api/events': (_, query, signal) =>
        edge.trace.wait(Number(query.get('after') ?? 0), Number(query.get('timeout') ?? 0), signal),
      'POST /api/devices': (body) => this.#createDevices(body),
      'POST /api/reset-counters': () => this.#resetCounters(),
      'POST /api/reset': () => this.#reset(),
    }
    this.server = http.createServer((request, response) => this.#serve(request, response))
  }

  async #serve(request, response) {
    const url = new URL(request.url, 'http://sandbox')
    const aborted = new AbortController()
    response.on('close', () => aborted.abort())
    try {
      this.#checkOrigin(request)
      const route = this.routes[`${request.method} ${url.pathname}`]
      if (!route) return this.#serveFile(request, url, response)
      const body = request.method === 'POST' ? await readBody(request) : {}
      const result = await route(body, url.searchParams, aborted.signal)
      return this.#send(response, 200, JSON.stringify(result))
    } catch (error) {
      const status = error.status ?? (error instanceof PairingError ? 409 : error instanceof TypeError ? 500 : 400)
      return this.#send(response, status, JSON.stringify({ error: error.message }))
    }
  }

  /** A web page of somebody else must not drive the phones of a developer's machine. */
  #checkOrigin(request) {
    const host = (request.headers.host ?? '').replace(/:\d+$/, '')
    if (!['127.0.0.1', 'localhost', '[::1]'].includes(host)) throw new RequestError(403, 'only reachable as localhost')
    const { origin } = request.headers
    if (request.method === 'POST' && origin && !/^https?:\/\/(127\.0\.0\.1|localhost|\[::1\])(:\d+)?$/.test(origin)) {
      throw new RequestError(403, `pages of ${origin} may not use the sandbox`)
    }
  }

  #send(response, status, body, type = 'application/json') {
    if (response.destroyed) return
    const content = Buffer.from(body)
    response.writeHead(status, {
      'content-type': `${type}; charset=utf-8`, 'content-length': content.length, 'cache-control': 'no-store',
      'content-security-policy': "default-src 'self'; frame-ancestors 'self' http://127.0.0.1:* http://localhost:*",
    })
    response.end(content)
  }

  #serveFile(request, url, response) {
    const name = url.pathname === '/' ? 'index.html' : path.basename(url.pathname)
    const type = TYPES[path.extname(name)]
    const file = path.join(PAGE, name)
    if (request.method !== 'GET' || !type || !fs.existsSync(file)) {
      throw new RequestError(404, `there is no ${request.method} ${url.pathname}`)
    }
    return this.#send(response, 200, fs.readFileSync(file), type)
  }

  #phone(phone) {
    return {
      number: phone.number, name: phone.name, jid: phone.jid, lid: phone.lidJid, registered: phone.registered,
      devices: [...phone.devices.values()].map((device) => ({
        jid: device.jid, lid: device.lid, platform: device.platform, paired_at: device.pairedAt,
        connected: Boolean(this.edge.findLine(device.jid)), prekeys: device.preKeyCount(), backlog: device.pending.size,
      })),
    }
  }

  #state() {
    const { accounts, links, counters, totals } = this.edge
    return {
      phones: [...accounts.phones.values()].map((phone) => this.#phone(phone)),
      connections: [...links.values()],
      counters,
      totals: { ...totals, open_connections: links.size },
    }
  }

  /** A new phone, or the one that has this number already. */
  #createPhone({ number, name, registered }) {
    const { accounts } = this.edge
    const phone = (number && accounts.findPhone(String(number))) || accounts.createPhone({ number, name, registered })
    if (name) phone.name = name
    if (typeof registered === 'boolean') phone.registered = registered
    accounts.touch(phone)
    accounts.flush()
    return this.#phone(phone)
  }

  /** A lever for one device must hit it; one for "*" may hit nobody. */
  #hit(jids, selector) {
    if (!jids.length && selector !== '*') throw new RequestError(404, `nothing is connected or linked as ${selector}`)
    return { jids }
  }

  #failLogins({ jid, reason, count = 1, code, expire, message }) {
    this.edge.faults.failLogins(need(jid, 'jid'), {
      reason: wholeNumber(reason, 'reason'), count: wholeNumber(count, 'count'), code, expire, message,
    })
    return { ok: true }
  }

  #blackHole({ jid, mode }) {
    const { edge } = this
    need(jid, 'jid')
    if (mode === 'login') edge.faults.loginHoles.add(jid)
    else if (mode === 'link') return this.#hit(edge.freeze(jid), jid)
    else if (mode === 'off') {
      edge.faults.clearHoles(jid)
      edge.thaw(jid)
    } else throw new RequestError(400, '"mode" must be "login", "link" or "off"')
    return { ok: true }
  }

  #setNetwork(body) {
    this.edge.faults.setNetwork(body)
    return this.edge.faults.network
  }

  #holdUploads({ hold }) {
    if (typeof hold !== 'boolean') throw new RequestError(400, '"hold" must be true or false')
    this.edge.media.hold(hold)
    return { hold }
  }

  #qrLifetime({ seconds }) {
    if (seconds !== null && !(seconds > 0)) throw new RequestError(400, '"seconds" must be positive or null')
    this.edge.faults.qrLifetimeSeconds = seconds
    this.edge.pairing.setLifetime(seconds)
    return { seconds }
  }

  #sendMessage(body) {
    return this.edge.post.send({ ...body, jid: need(body.jid, 'jid'), from: need(body.from, 'from') })
  }

  #sendReceipt({ jid, message_id: id, type }) {
    if (!/^[a-z][a-z_-]*$/.test(need(type, 'type'))) throw new RequestError(400, '"type" must be a word')
    return this.edge.post.sendReceipt(need(jid, 'jid'), need(id, 'message_id'), type)
  }

  #createDevices({ number, count = 1, prekeys_reported: reported = 812, one_time_keys: oneTimeKeys = 10 }) {
    const limits = { count: [count, 1, 5000], prekeys_reported: [reported, 0, 65_535], one_time_keys: [oneTimeKeys, 0, 812] }
    for (const [name, [value, least, most]] of Object.entries(limits)) {
      if (wholeNumber(value, name) < least || value > most) {
        throw new RequestError(400, `"${name}" must be between ${least} and ${most}`)
      }
    }
    const { accounts, pairing } = this.edge
    const owner = number && pairing.phoneFor(number)
    const made = Array.from({ length: count }, () => pairing.createDevice(owner || accounts.createPhone(), { reported, oneTimeKeys }))
    accounts.flush()
    return made
  }

  #resetCounters() {
    this.edge.counters.reset()
    for (const [jid, lines] of this.edge.online) this.edge.counters.raise(jid, 'max_simultaneous', lines.size)
    this.edge.totals.connections_accepted = 0
    this.edge.totals.highest_open_connections = this.edge.links.size
    return { ok: true }
  }

  #reset() {
    this.onReset()
    return { ok: true }
  }
}
