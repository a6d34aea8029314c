// One websocket of one client: framing, the Noise handshake, and the encrypted stream of nodes.
import { DelayLine } from './faults.mjs'
import { NoiseResponder } from './noise.mjs'
import { decode, encode, node, nowSeconds } from './stanza.mjs'

const HEADER_BYTES = 4
const CLOSE_GRACE_MS = 2000
const HANDLING_MS = 50

/** For finish(): a client that was told to go, or that logged out, closes by itself. */
export const CLIENT_CLOSES_MS = 2000

export class Link {
  /**
   * @param edge  what the link belongs to: identity, faults, trace, and the handlers
   *              onPayload(link, payload), onNode(link, stanza), onClosed(link).
   */
  constructor(edge, id, socket, websocket) {
    this.edge = edge
    this.id = id
    this.socket = socket
    this.websocket = websocket
    this.phase = 'handshake'
    this.since = new Date().toISOString()
    this.jid = null
    this.device = null
    this.pairing = null
    this.buffer = Buffer.alloc(0)
    this.frozen = null
    this.queries = 0
    const oneWay = () => edge.faults.oneWayMs()
    this.inbound = new DelayLine(oneWay)
    this.outbound = new DelayLine(oneWay)
    websocket.on('message', (data) => this.inbound.push(() => this.#receive(data)))
    websocket.on('error', (error) => edge.trace.add('protocol-error', { link: id, jid: this.jid, error: error.message }))
    socket.on('close', () => {
      this.phase = 'closed'
      edge.onClosed(this)
    })
  }

  get open() {
    return this.phase !== 'closed' && this.phase !== 'closing'
  }

  #receive(data) {
    if (!this.open) return
    try {
      this.buffer = this.buffer.length ? Buffer.concat([this.buffer, data]) : data
      if (!this.noise) {
        if (this.buffer.length < HEADER_BYTES) return
        this.noise = new NoiseResponder(this.edge.identity, this.buffer.subarray(0, HEADER_BYTES))
        this.buffer = this.buffer.subarray(HEADER_BYTES)
      }
      while (this.open && this.buffer.length >= 3) {
        const length = this.buffer.readUIntBE(0, 3)
        if (this.buffer.length < 3 + length) break
        const frame = this.buffer.subarray(3, 3 + length)
        this.buffer = this.buffer.subarray(3 + length)
        this.#frame(frame)
      }
    } catch (error) {
      this.edge.trace.add('protocol-error', { link: this.id, jid: this.jid, error: error.message })
      this.destroy()
    }
  }

  #frame(frame) {
    if (this.phase !== 'handshake') {
      this.edge.onNode(this, decode(this.noise.decrypt(frame)))
    } else if (!this.noise.ephemeral) {
      this.#write(this.noise.answerHello(frame))
    } else {
      const { clientStatic, payload } = this.noise.readFinish(frame)
      this.noiseKey = clientStatic
      this.phase = 'login'
      this.edge.onPayload(this, payload)
    }
  }

  #write(payload) {
    const frame = Buffer.allocUnsafe(3 + payload.length)
    frame.writeUIntBE(payload.length, 0, 3)
    payload.copy(frame, 3)
    this.outbound.push(() => this.#transmit(frame))
  }

  #transmit(frame) {
    if (this.frozen) this.frozen.outgoing.push(frame)
    else if (this.websocket.readyState === 1) this.websocket.send(frame)
  }

  send(stanza) {
    if (this.open) this.#write(this.noise.encrypt(encode(stanza)))
  }

  /**
   * Send a last node, if there is one, and close the line behind it. The client must have taken the node in
   * before it sees the end of the line, or it never handles it: it answers a ping, and gets a
   * moment more. With a patience it is left to the client to close for so long.
   */
  finish(stanza, patienceMs = HANDLING_MS) {
    if (stanza) this.send(stanza)
    if (this.open) this.phase = 'closing'
    this.outbound.push(() => {
      if (!this.frozen && this.websocket.readyState === 1) this.websocket.ping()
      const giveUp = setTimeout(() => this.#hangUp(), CLOSE_GRACE_MS)
      this.websocket.once('pong', () => {
        clearTimeout(giveUp)
        setTimeout(() => this.#hangUp(), patienceMs)
      })
    })
  }

  close() {
    if (this.open) this.phase = 'closing'
    this.outbound.push(() => this.#hangUp())
  }

  #hangUp() {
    if (this.frozen) return
    this.socket.end()
    setTimeout(() => this.socket.destroy(), CLOSE_GRACE_MS).unref()
  }

  /** Cut the TCP connection: no goodbye on any layer. */
  destroy() {
    this.socket.destroy()
  }

  fail(reason, details = {}) {
    this.finish(node('failure', { reason, t: nowSeconds(), ...details }))
  }

  /** A line that passes nothing in either direction, though it stays open; FIN is still seen. */
  freeze() {
    if (this.frozen) return
    const listeners = this.socket.listeners('data')
    this.frozen = { listeners, incoming: [], outgoing: [] }
    this.socket.removeAllListeners('data')
    this.socket.on('data', (chunk) => this.frozen?.incoming.push(chunk))
  }

  /** The line works again; what was held back arrives late but in order. */
  thaw() {
    if (!this.frozen) return
    const { listeners, incoming, outgoing } = this.frozen
    this.frozen = null
    this.socket.removeAllListeners('data')
    for (const listener of listeners) this.socket.on('data', listener)
    for (const chunk of incoming) this.socket.emit('data', chunk)
    for (const frame of outgoing) this.#transmit(frame)
    if (this.phase === 'closing') this.#hangUp()
  }

  toJSON() {
    return {
      id: this.id, jid: this.jid, phase: this.frozen ? 'frozen' : this.phase, since: this.since,
      ...(this.pairing?.linkCodeNumber ? { number: this.pairing.linkCodeNumber } : {}),
    }
  }
}

/** Answer an iq with a result. */
export function answer(link, query, content = undefined) {
  link.send(node('iq', { from: query.attrs.to ?? '@s.whatsapp.net', id: query.attrs.id, type: 'result' }, content))
}

export function refuse(link, query, code, text) {
  link.send(node('iq', { from: query.attrs.to ?? '@s.whatsapp.net', id: query.attrs.id, type: 'error' },
    [node('error', { code, text })]))
}
