// What happened, in order, for tests and for curious people; read by long-poll.
const KEPT = 50_000
const MAX_WAIT_SECONDS = 120

export class Trace {
  constructor() {
    // Numbers keep rising over restarts without a file: at most 1000 events a second on average.
    this.seq = Math.floor(Date.now() / 1000) * 1000
    this.events = []
    this.waiters = new Set()
  }

  add(type, details = {}) {
    const event = { seq: ++this.seq, at: new Date().toISOString(), type, ...details }
    this.events.push(event)
    if (this.events.length > KEPT * 1.2) this.events = this.events.slice(-KEPT)
    for (const waiter of this.waiters) waiter()
    return event
  }

  after(seq) {
    // Binary search: the list is sorted, and a poll wants only its tail.
    let low = 0
    let high = this.events.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.events[middle].seq > seq) high = middle
      else low = middle + 1
    }
    return this.events.slice(low)
  }

  /** Resolve as soon as an event later than seq exists, or with [] after the time is up. */
  wait(seq, timeoutSeconds, signal) {
    const ready = this.after(seq)
    if (ready.length || timeoutSeconds <= 0) return Promise.resolve(ready)
    return new Promise((resolve) => {
      const finish = () => {
        this.waiters.delete(finish)
        clearTimeout(timer)
        signal?.removeEventListener('abort', finish)
        resolve(this.after(seq))
      }
      const timer = setTimeout(finish, Math.min(timeoutSeconds, MAX_WAIT_SECONDS) * 1000)
      signal?.addEventListener('abort', finish)
      this.waiters.add(finish)
    })
  }
}
