// Everything that can be made to go wrong. Levers are forgotten when the sandbox restarts.
import { parseJid } from './stanza.mjs'

/** Does a lever's "jid" (a device jid, a number, a number's jid, or "*") mean this device? */
export function selects(selector, deviceJid) {
  if (selector === '*') return true
  const wanted = parseJid(selector)
  const actual = parseJid(deviceJid)
  return wanted.user === actual.user && (!String(selector).includes(':') || wanted.device === actual.device)
}

/** Keep things in order while each is late by its own delay, as on a slow line. */
export class DelayLine {
  constructor(delayMs) {
    this.delayMs = delayMs
    this.lastDue = 0
    this.waiting = []
  }

  // Timers of different lengths may fire in any order, so the timer only says that something is
  // due: what goes out is always the oldest.
  push(action) {
    const delay = this.delayMs()
    if (delay <= 0 && this.waiting.length === 0) return action()
    const now = performance.now()
    this.lastDue = Math.max(this.lastDue, now + delay)
    this.waiting.push(action)
    setTimeout(() => this.waiting.shift()(), this.lastDue - now)
    return undefined
  }
}

const HEALTHY = {
  refuse: false, latency_ms: 0, jitter_ms: 0, slow_login_ms: 0, drop_acks: false, auto_receipts: 'none',
}

export class Faults {
  constructor() {
    this.network = { ...HEALTHY }
    this.failures = []
    this.loginHoles = new Set()
    this.held = []
    this.qrLifetimeSeconds = null
  }

  reset() {
    Object.assign(this, { network: { ...HEALTHY }, failures: [], qrLifetimeSeconds: null })
    this.clearHoles('*')
  }

  setNetwork(change) {
    for (const [key, value] of Object.entries(change)) {
      if (!(key in HEALTHY)) throw new Error(`unknown network setting "${key}"`)
      if (typeof value !== typeof HEALTHY[key]) throw new Error(`"${key}" must be a ${typeof HEALTHY[key]}`)
      if (typeof value === 'number' && value < 0) throw new Error(`"${key}" must not be negative`)
    }
    if (change.auto_receipts && !['none', 'delivered', 'read'].includes(change.auto_receipts)) {
      throw new Error('"auto_receipts" must be "none", "delivered" or "read"')
    }
    Object.assign(this.network, change)
  }

  /** Delay of one direction: half the round trip, plus or minus half the jitter. */
  oneWayMs() {
    const { latency_ms: latency, jitter_ms: jitter } = this.network
    if (!latency && !jitter) return 0
    return Math.max(0, latency / 2 + (Math.random() - 0.5) * jitter)
  }

  roundTripMs() {
    return this.oneWayMs() + this.oneWayMs()
  }

  failLogins(selector, failure) {
    this.failures = this.failures.filter((entry) => entry.selector !== selector)
    if (failure.count !== 0) this.failures.push({ selector, ...failure })
  }

  /** The failure this login must get, counting it; exact selectors win over "*". */
  takeFailure(jid) {
    const rank = ({ selector }) => (selector === '*' ? 0 : selector.includes(':') ? 2 : 1)
    const found = this.failures.filter((entry) => selects(entry.selector, jid)).sort((a, b) => rank(b) - rank(a))[0]
    if (found && found.count > 0 && --found.count === 0) {
      this.failures = this.failures.filter((entry) => entry !== found)
    }
    return found
  }

  swallowsEverything() {
    return this.loginHoles.has('*')
  }

  swallowsLogin(jid) {
    return [...this.loginHoles].some((selector) => selects(selector, jid))
  }

  /** Keep a swallowed connection; it goes on when the hole closes, as TCP would. */
  hold(selectorOrJid, resume) {
    const entry = { jid: selectorOrJid, resume }
    this.held.push(entry)
    return () => { this.held = this.held.filter((other) => other !== entry) }
  }

  clearHoles(selector) {
    const gone = (own) => selector === '*' || own === selector
    this.loginHoles = new Set([...this.loginHoles].filter((own) => !gone(own)))
    const freed = this.held.filter(({ jid }) => (jid === '*' ? !this.swallowsEverything() : !this.swallowsLogin(jid)))
    this.held = this.held.filter((entry) => !freed.includes(entry))
    for (const { resume } of freed) resume()
  }
}
