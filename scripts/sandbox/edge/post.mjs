// Messages and receipts: what linked devices send, and what phones send to them.
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import { decodeMessage, encodeMessage, makeContent, readContent } from './content.mjs'
import { keyShare } from './introduction.mjs'
import { Conversation } from './signal_store.mjs'
import { bytes, child, children, childrenOf, decode, node, nowSeconds, parseJid, uint } from './stanza.mjs'

const KEPT = 20_000
const MAX_RETRIES = 5
const UNSUPPORTED = new Set(['g.us', 'broadcast', 'newsletter'])

function readLines(file) {
  if (!fs.existsSync(file)) return []
  const lines = fs.readFileSync(file, 'utf8').split('\n')
  lines.pop() // what follows the last line end was cut off by a kill
  return lines.map((line) => JSON.parse(line)).slice(-KEPT)
}

/** The ciphertexts of a message stanza, each with the jid it is meant for. */
function envelopes(stanza) {
  const direct = child(stanza, 'enc')
  return [
    ...(direct ? [{ jid: stanza.attrs.to, enc: direct }] : []),
    ...childrenOf(child(stanza, 'participants'), 'to').map((to) => ({ jid: to.attrs.jid, enc: child(to, 'enc') })),
  ].filter(({ enc }) => enc)
}

export class Post {
  constructor({ file, accounts, counters, faults, trace, media }) {
    Object.assign(this, { file, accounts, counters, faults, trace, media })
    this.messages = readLines(file)
    this.byId = new Map(this.messages.map((message) => [message.id, message]))
    this.seq = this.messages.at(-1)?.seq ?? 0
    this.chains = new Map()
    this.retries = new Map()
  }

  clear() {
    fs.rmSync(this.file, { force: true })
    this.media.clear()
    Object.assign(this, { messages: [], byId: new Map(), seq: 0, retries: new Map() })
  }

  after(seq) {
    return this.messages.filter((message) => message.seq > seq)
  }

  /** Run jobs with the same key one after the other. */
  #inOrder(key, job) {
    const done = (this.chains.get(key) ?? Promise.resolve()).then(job)
    const settled = done.then(() => {}, () => {}).then(() => {
      if (this.chains.get(key) === settled) this.chains.delete(key)
    })
    this.chains.set(key, settled)
    return done
  }

  #talk(phone, device) {
    return new Conversation(phone, device, () => this.accounts.touch(phone))
  }

  // ---- from a linked device -------------------------------------------------------------

  receive(link, stanza) {
    const { id, to } = stanza.attrs
    const { server } = parseJid(to)
    if (UNSUPPORTED.has(server)) {
      this.trace.add('message-unsupported', { jid: link.jid, id, to })
      return this.#ack(link, stanza, 404)
    }
    this.#ack(link, stanza)
    const sender = link.device
    return this.#inOrder(`from ${sender.jid}`, async () => {
      for (const { jid, enc } of envelopes(stanza)) await this.#pass(sender, stanza, jid, enc)
    }).catch((error) => this.trace.add('message-error', { jid: sender.jid, id, error: error.message }))
  }

  #ack(link, stanza, error = null) {
    const { id, to, type, participant } = stanza.attrs
    if (stanza.tag === 'message' && this.faults.network.drop_acks) {
      return this.trace.add('ack-dropped', { jid: link.jid, id })
    }
    if (stanza.tag === 'message') this.counters.add(link.jid, 'acks_sent')
    return link.send(node('ack', {
      class: stanza.tag, id, from: to, t: nowSeconds(), participant, error,
      type: stanza.tag === 'receipt' ? type : null,
    }))
  }

  async #pass(sender, stanza, jid, enc) {
    const phone = this.accounts.reachPhone(jid)
    const { device: deviceId } = parseJid(jid)
    if (!phone) return this.trace.add('message-undeliverable', { jid: sender.jid, to: jid, id: stanza.attrs.id })
    if (deviceId === 0) return this.#open(sender, phone, stanza, enc)
    const device = phone.devices.get(deviceId)
    if (device) this.#relay(sender, device, stanza, enc)
    return undefined
  }

  async #open(sender, phone, stanza, enc) {
    const { id, to } = stanza.attrs
    let message
    try {
      message = decodeMessage(await this.#talk(phone, sender).open(enc.attrs.type, bytes(enc)))
    } catch (error) {
      if (this.byId.has(id)) return undefined // sent again after a reconnect, and already read
      return this.#askAgain(sender, phone, stanza, error)
    }
    this.retries.delete(`${id} ${phone.number}`)
    if (stanza.attrs.category === 'peer') return this.#onPeerMessage(sender, phone, message)
    if (message.deviceSentMessage && this.accounts.findPhone(to) !== phone) return undefined
    return this.#record(sender, phone, stanza, message.deviceSentMessage?.message ?? message)
  }

  #record(sender, phone, stanza, message) {
    const { id, to } = stanza.attrs
    if (this.byId.has(id)) return
    const content = readContent(message, this.media)
    const entry = {
      seq: ++this.seq, id, from_jid: sender.jid, to: phone.jid, chat: to, ...content, at: new Date().toISOString(),
    }
    fs.appendFileSync(this.file, `${JSON.stringify(entry)}\n`)
    this.messages.push(entry)
    if (this.messages.length > KEPT * 1.2) this.messages = this.messages.slice(-KEPT)
    this.byId.set(id, entry)
    this.counters.add(sender.jid, 'messages_received')
    this.trace.add('message', { jid: sender.jid, direction: 'in', id, to: phone.jid, kind: entry.kind, text: entry.text })
    const { auto_receipts: wanted } = this.faults.network
    if (wanted !== 'none') this.sendReceipt(sender.jid, id, 'delivered')
    if (wanted === 'read') this.sendReceipt(sender.jid, id, 'read')
  }

  /** A device asks its own phone for something; the phone has nothing to give but its name. */
  #onPeerMessage(sender, phone, message) {
    const { type } = message.protocolMessage ?? {}
    this.trace.add('peer-message', { jid: sender.jid, protocol: type ?? null })
  }

  /** The phone cannot read it: ask for it again, with keys for a new session. */
  #askAgain(sender, phone, stanza, error) {
    const { id, to, t } = stanza.attrs
    const count = (this.retries.get(`${id} ${phone.number}`) ?? 0) + 1
    this.retries.set(`${id} ${phone.number}`, count)
    this.trace.add('undecryptable', { jid: sender.jid, id, to: phone.jid, count, error: error.message })
    if (count > MAX_RETRIES) return
    const own = sender.phone === phone
    const key = (tag, { id: keyId, public: value, signature }) => node(tag, {}, [
      node('id', {}, uint(keyId, 3)), node('value', {}, value),
      ...(signature ? [node('signature', {}, signature)] : []),
    ])
    const from = own && this.accounts.findPhone(to) !== phone ? { from: phone.lidJid, recipient: to } : { from: to }
    this.edge.findLine(sender.jid)?.send(node('receipt', { ...from, id, type: 'retry', t: nowSeconds() }, [
      node('retry', { count, id, t: t ?? nowSeconds(), v: 1 }),
      node('registration', {}, uint(phone.registrationId, 4)),
      node('keys', {}, [
        node('type', {}, Buffer.from([5])), node('identity', {}, phone.identity.public),
        key('key', phone.newPreKey()), key('skey', phone.getSignedPreKey()),
      ]),
    ]))
    this.accounts.touch(phone)
  }

  /** Pass a ciphertext on, unread, from one linked device to another. */
  #relay(sender, device, stanza, enc) {
    const { id, to, type } = stanza.attrs
    const own = sender.phone === device.phone
    const recipient = own && this.accounts.findPhone(to)
    const identity = child(stanza, 'device-identity')
    this.byId.get(id) ?? this.byId.set(id, { id, from_jid: sender.jid, chat: to, relayed: true })
    this.edge.deliver(device, node('message', {
      from: sender.jid, sender_lid: own ? null : sender.lid, id, t: nowSeconds(), type, notify: sender.phone.name,
      recipient: recipient ? recipient.jid : null, peer_recipient_lid: recipient ? recipient.lidJid : null,
    }, [enc, ...(identity ? [identity] : [])]))
  }

  // ---- from a phone ---------------------------------------------------------------------

  /**
   * A phone writes: to every linked device of the recipient, and to its own other devices.
   *
   * raw: the plaintext as it is, base64, however malformed. group: a group's jid; the message comes
   * as one of its participants' (encrypted to each device, as group messages are when resent).
   */
  async send({
    jid, from, text, media, content, raw, group, addressing = 'pn', id = randomBytes(10).toString('hex').toUpperCase(),
  }) {
    const sender = this.accounts.reachPhone(from)
    const recipient = this.accounts.reachPhone(jid)
    if (!sender || !recipient) throw new Error(`"${sender ? jid : from}" is not a phone number`)
    if (sender === recipient) throw new Error('"from" and "jid" are the same account')
    const copies = [...recipient.devices.values(), ...sender.devices.values()]
    if (!copies.length) throw new Error(`no device is linked to ${recipient.number}`)
    const { message, type, mediatype } = raw ? { type: 'text' } : makeContent({ text, media, content }, this.media)
    const plain = raw ? Buffer.from(raw, 'base64') : encodeMessage(message)
    const copy = message ? encodeMessage({ deviceSentMessage: { destinationJid: recipient.jid, message } }) : plain
    const common = { id, t: nowSeconds(), type }
    await Promise.all(copies.map((device) => {
      const mine = device.phone === sender
      const own = { from: sender.jid, recipient: recipient.jid, peer_recipient_lid: recipient.lidJid }
      const attrs = group
        ? { ...this.#inGroup(sender, group, addressing), notify: sender.name }
        : mine ? own : { ...this.#addressed(sender, addressing), notify: sender.name }
      return this.#sendTo(sender, device, { ...common, ...attrs }, mine ? copy : plain, { mediatype })
    }))
    if (copies.some((device) => !this.edge.findLine(device.jid))) this.accounts.flush()
    this.trace.add('message', { jid: recipient.jid, direction: 'out', id, from: sender.jid, kind: type, text: text ?? null })
    return { id, devices: copies.length }
  }

  /** After a pairing, when the device has uploaded keys: its phone hands over the settings' key. */
  async introduce(device) {
    if (device.introduced) return
    const { phone } = device
    device.introduced = true
    const attrs = {
      from: phone.jid, id: randomBytes(10).toString('hex').toUpperCase(), t: nowSeconds(), type: 'text', category: 'peer',
    }
    try {
      await this.#sendTo(phone, device, attrs, await keyShare(phone), {})
      this.trace.add('introduced', { jid: device.jid, name: phone.name })
    } catch (error) {
      this.trace.add('message-error', { jid: device.jid, id: attrs.id, error: error.message })
    }
  }

  #addressed(phone, addressing) {
    if (addressing === 'lid') return { from: phone.lidJid, addressing_mode: 'lid', sender_pn: phone.jid }
    return { from: phone.jid, sender_lid: phone.lidJid }
  }

  #inGroup(phone, group, addressing) {
    const from = { from: group, addressing_mode: addressing }
    if (addressing === 'lid') return { ...from, participant: phone.lidJid, participant_pn: phone.jid }
    return { ...from, participant: phone.jid, participant_lid: phone.lidJid }
  }

  #sendTo(phone, device, attrs, plain, encAttrs, bundle = null) {
    return this.#inOrder(`${phone.number} to ${device.jid}`, async () => {
      const talk = this.#talk(phone, device)
      if (bundle || !talk.exists) {
        await talk.begin(bundle ?? this.edge.keyHolder(device.jid))
        this.accounts.touch(device.phone)
      }
      const { type, body } = await talk.seal(plain)
      const stanza = node('message', attrs, [node('enc', { v: 2, type, ...encAttrs }, body)])
      this.edge.deliver(device, stanza, { from: phone.number, plain: plain.toString('base64'), retries: encAttrs.count ?? 0 })
    })
  }

  // ---- receipts -------------------------------------------------------------------------

  /** Tell a device that its message was delivered, read, or whatever else. */
  sendReceipt(jid, messageId, type) {
    const message = this.byId.get(messageId)
    const device = this.accounts.findDevice(message?.from_jid ?? '')
    if (!device) throw new Error(`no linked device sent a message ${messageId}`)
    if (parseJid(jid).user !== device.phone.number) throw new Error(`${messageId} was sent by ${device.jid}`)
    this.edge.deliver(device, node('receipt', {
      from: message.chat, id: messageId, t: nowSeconds(), type: type === 'delivered' ? null : type,
    }))
    return { ok: true }
  }

  onReceipt(link, stanza) {
    const { id, type, to } = stanza.attrs
    const { device } = link
    this.#ack(link, stanza)
    const ids = [id, ...childrenOf(child(stanza, 'list'), 'item').map((item) => item.attrs.id)]
    this.counters.add(device.jid, 'receipts_received')
    this.trace.add('receipt', { jid: device.jid, receipt: type ?? 'delivered', ids, to })
    if (type === 'retry') return this.#resend(device, stanza)
    for (const one of ids) {
      this.edge.settle(device, one)
      this.#forward(device, node('receipt', { id: one, type, t: nowSeconds() }), one)
    }
    return undefined
  }

  /** A receipt for a message of another linked device goes on to that device. */
  #forward(device, receipt, messageId) {
    const message = this.byId.get(messageId)
    if (!message?.from_jid || message.from_jid === device.jid) return
    const sender = this.accounts.findDevice(message.from_jid)
    if (!sender || sender.phone === device.phone) return
    receipt.attrs.from = parseJid(message.chat).server === 'lid' ? device.lid : device.jid
    this.edge.deliver(sender, receipt)
  }

  onAck(link, stanza) {
    const { class: what, id, type, error } = stanza.attrs
    if (what === 'receipt') this.edge.settle(link.device, `receipt ${id} ${type ?? ''}`)
    else if (what === 'message' && error) this.edge.settle(link.device, id)
    this.trace.add('ack', { jid: link.jid, class: what, id, error })
  }

  /** The device could not read a message: encrypt it again in a new session. */
  #resend(device, stanza) {
    const { id } = child(stanza, 'retry')?.attrs ?? stanza.attrs
    const waiting = device.pending.get(id)
    if (!waiting?.plain) {
      return this.#forward(device, node('receipt', { ...stanza.attrs, to: null, t: nowSeconds() }, children(stanza)), id)
    }
    const count = Number(child(stanza, 'retry')?.attrs.count ?? waiting.retries + 1)
    if (count > MAX_RETRIES) {
      this.trace.add('retry-given-up', { jid: device.jid, id })
      return this.edge.settle(device, id)
    }
    const old = decode(Buffer.from(waiting.stanza, 'base64'))
    const { v, type, ...encAttrs } = child(old, 'enc').attrs
    const phone = this.accounts.phones.get(waiting.from)
    const bundle = this.#bundleOf(stanza) ?? this.edge.keyHolder(device.jid)
    return this.#sendTo(phone, device, old.attrs, Buffer.from(waiting.plain, 'base64'), { ...encAttrs, count }, bundle)
      .catch((error) => this.trace.add('message-error', { jid: device.jid, id, error: error.message }))
  }

  #bundleOf(stanza) {
    const keys = child(stanza, 'keys')
    if (!keys) return null
    const read = (tag) => {
      const key = child(keys, tag)
      return key && {
        id: bytes(child(key, 'id')).readUIntBE(0, 3), public: bytes(child(key, 'value')),
        signature: bytes(child(key, 'signature')),
      }
    }
    return {
      registrationId: bytes(child(stanza, 'registration')).readUInt32BE(),
      identityKey: bytes(child(keys, 'identity')), signedPreKey: read('skey'), preKey: read('key'),
    }
  }
}
