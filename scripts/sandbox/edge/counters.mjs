// How often things happened, for each device jid; kept over restarts.
const NAMES = [
  'logins', 'pairings', 'failures', 'replaced', 'max_simultaneous',
  'messages_received', 'messages_delivered', 'acks_sent', 'receipts_received',
]

export class Counters {
  constructor(ledger) {
    this.ledger = ledger
    this.perJid = new Map()
    for (const [, document] of ledger.load()) this.perJid = new Map(Object.entries(document))
  }

  #of(jid) {
    let counts = this.perJid.get(jid)
    if (!counts) this.perJid.set(jid, counts = Object.fromEntries(NAMES.map((name) => [name, 0])))
    this.ledger.mark('counters', () => this.toJSON())
    return counts
  }

  add(jid, name, by = 1) {
    this.#of(jid)[name] += by
  }

  raise(jid, name, value) {
    const counts = this.#of(jid)
    counts[name] = Math.max(counts[name], value)
  }

  reset() {
    this.perJid.clear()
    this.ledger.mark('counters', () => this.toJSON())
  }

  toJSON() {
    return Object.fromEntries(this.perJid)
  }
}
