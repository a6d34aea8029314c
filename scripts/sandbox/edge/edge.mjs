// WhatsApp's server in one object: it knows every open line and lets clients log in.
import { selects } from './faults.mjs'
import { decode, encode, node, nowSeconds, parseJid, SERVER } from './stanza.mjs'
import { CLIENT_CLOSES_MS, Link } from './link.mjs'
import { Pairing } from './pairing.mjs'
import { Queries } from './queries.mjs'

const REPLACED = () => node('stream:error', {}, [node('conflict', { type: 'replaced' })])
const REMOVED = () => node('stream:error', { code: 401 }, [node('conflict', { type: 'device_removed' })])

export class Edge {
  constructor({ identity, accounts, counters, faults, trace, post, media }) {
    Object.assign(this, { identity, accounts, counters, faults, trace, post, media })
    this.pairing = new Pairing(this)
    this.queries = new Queries(this)
    this.links = new Map()
    this.online = new Map() // jid -> links from their login until their TCP connection is closed
    this.nextLinkId = 1
    this.totals = { connections_accepted: 0, tunnels: 0, held: 0, highest_open_connections: 0 }
    post.edge = this
  }

  accept(socket, websocket) {
    const link = new Link(this, this.nextLinkId++, socket, websocket)
    this.links.set(link.id, link)
    this.totals.connections_accepted++
    this.totals.highest_open_connections = Math.max(this.totals.highest_open_connections, this.links.size)
    this.trace.add('connection', { link: link.id, phase: 'handshake' })
  }

  onPayload(link, payload) {
    if (payload.devicePairingData) return this.pairing.begin(link, payload.devicePairingData)
    const number = String(payload.username ?? '')
    link.jid = `${number}:${payload.device ?? 0}@s.whatsapp.net`
    const swallowed = this.faults.swallowsLogin(link.jid)
    if (swallowed) {
      this.trace.add('connection', { link: link.id, jid: link.jid, phase: 'black-hole' })
      const release = this.faults.hold(link.jid, () => this.#login(link))
      link.socket.once('close', release)
      return undefined
    }
    return this.#login(link)
  }

  #login(link) {
    const { jid } = link
    const failure = this.faults.takeFailure(jid)
    if (failure) {
      const { reason, code, expire, message } = failure
      return this.#rejectLogin(link, reason, { code, expire, message })
    }
    const device = this.accounts.findDevice(jid)
    if (!device || !device.noiseKey.equals(link.noiseKey)) return this.#rejectLogin(link, 401)
    const wait = this.faults.network.slow_login_ms
    if (!wait) return this.#welcome(link, device)
    return setTimeout(() => link.open && this.#welcome(link, device), wait)
  }

  #rejectLogin(link, reason, details) {
    this.counters.add(link.jid, 'failures')
    this.trace.add('login-failed', { link: link.id, jid: link.jid, reason })
    link.fail(reason, details)
  }

  #welcome(link, device) {
    const { jid } = device
    const lines = this.online.get(jid) ?? new Set()
    for (const other of lines) {
      if (!other.open) continue
      this.counters.add(jid, 'replaced')
      this.trace.add('replaced', { link: other.id, jid, by: link.id })
      other.finish(REPLACED())
    }
    lines.add(link)
    this.online.set(jid, lines)
    this.counters.add(jid, 'logins')
    this.counters.raise(jid, 'max_simultaneous', lines.size)
    Object.assign(link, { device, phase: 'connected', since: new Date().toISOString() })
    link.socket.cork() // one packet for what follows
    link.send(node('success', {
      t: nowSeconds(), lid: device.lid, display_name: device.phone.name, creation: nowSeconds(), location: 'lla',
    }))
    this.#deliverBacklog(link, device)
    link.socket.uncork()
    this.trace.add('login', { link: link.id, jid })
  }

  #deliverBacklog(link, device) {
    const count = device.pending.size
    if (count) link.send(node('ib', { from: SERVER }, [node('offline_preview', { count, message: count })]))
    let index = 0
    for (const { stanza } of device.pending.values()) {
      const late = decode(Buffer.from(stanza, 'base64'))
      late.attrs.offline = String(index++)
      link.send(late)
    }
    link.send(node('ib', { from: SERVER }, [node('offline', { count })]))
  }

  /** The line over which a device can be reached now, or null. */
  findLine(jid) {
    for (const link of this.online.get(jid) ?? []) if (link.open) return link
    return null
  }

  /** Give a stanza to a device, now or at its next login; it stays until it is receipted. */
  deliver(device, stanza, extra = {}) {
    const key = stanza.tag === 'receipt' ? `receipt ${stanza.attrs.id} ${stanza.attrs.type ?? ''}` : stanza.attrs.id
    device.pending.set(key, { stanza: encode(stanza).toString('base64'), ...extra })
    this.accounts.touch(device.phone)
    this.counters.add(device.jid, 'messages_delivered', stanza.tag === 'message' ? 1 : 0)
    this.findLine(device.jid)?.send(stanza)
  }

  /** The key bundle of a phone or a linked device; takes one of its one-time keys. */
  keyHolder(jid) {
    const phone = this.accounts.reachPhone(jid)
    if (!phone?.registered) return null
    this.accounts.touch(phone)
    if (parseJid(jid).device === 0) {
      const { registrationId, identity } = phone
      return {
        registrationId, identityKey: identity.public, signedPreKey: phone.getSignedPreKey(), preKey: phone.newPreKey(),
      }
    }
    const device = phone.devices.get(parseJid(jid).device)
    if (!device) return null
    const { registrationId, identityKey, signedPreKey } = device
    return { registrationId, identityKey, signedPreKey, preKey: device.takePreKey() }
  }

  settle(device, key) {
    if (device.pending.delete(key)) this.accounts.touch(device.phone)
  }

  onNode(link, stanza) {
    if (link.phase === 'pairing') return this.pairing.onNode(link, stanza)
    if (link.phase !== 'connected') return undefined
    switch (stanza.tag) {
      case 'iq': return this.queries.handle(link, stanza)
      case 'message': return this.post.receive(link, stanza)
      case 'receipt': return this.post.onReceipt(link, stanza)
      case 'ack': return this.post.onAck(link, stanza)
      default:
        return this.trace.add(stanza.tag, { link: link.id, jid: link.jid, attrs: stanza.attrs })
    }
  }

  onClosed(link) {
    this.links.delete(link.id)
    this.pairing.forget(link)
    const lines = this.online.get(link.jid)
    lines?.delete(link)
    if (lines?.size === 0) this.online.delete(link.jid)
    this.trace.add('disconnected', { link: link.id, jid: link.jid, logged_in: Boolean(link.device) })
  }

  /** Every logged-in line that a lever's jid selects. */
  select(jid) {
    return [...this.links.values()].filter((link) => link.device && link.open && selects(jid, link.jid))
  }

  unlink(jid) {
    const devices = [...this.accounts.allDevices()].filter((device) => selects(jid, device.jid))
    for (const device of devices) this.remove(device, 'phone')
    this.accounts.flush()
    return devices.map((device) => device.jid)
  }

  /** Take a device off its account; a connected one is told so. */
  remove(device, by) {
    this.accounts.removeDevice(device)
    this.trace.add('unlinked', { jid: device.jid, by })
    for (const link of this.online.get(device.jid) ?? []) {
      if (by === 'phone') link.finish(REMOVED())
      else link.finish(null, CLIENT_CLOSES_MS)
    }
  }

  replace(jid) {
    return this.select(jid).map((link) => {
      this.trace.add('replaced', { link: link.id, jid: link.jid })
      link.finish(REPLACED())
      return link.jid
    })
  }

  streamError(jid, code, close) {
    return this.select(jid).map((link) => {
      const error = node('stream:error', { code })
      if (close) link.finish(error)
      else link.send(error)
      return link.jid
    })
  }

  cut(jid) {
    return this.select(jid).map((link) => {
      link.destroy()
      return link.jid
    })
  }

  freeze(jid) {
    return this.select(jid).map((link) => {
      link.freeze()
      return link.jid
    })
  }

  thaw(jid) {
    for (const link of this.links.values()) if (link.jid && selects(jid, link.jid)) link.thaw()
  }
}
