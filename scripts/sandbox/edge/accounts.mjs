// Phones (primary devices), the devices linked to them, and how both are stored.
import { createHash, randomInt } from 'node:crypto'
import { newKeyPair, newSignedPreKey } from './keys.mjs'
import { parseJid } from './stanza.mjs'

const PRE_KEY_RECORD = 35 // three bytes of id, 32 of public key
const FIRST_NUMBER = 5511900000001
const NUMBER = /^[1-9][0-9]{6,14}$/

const b64 = (bytes) => (bytes ? Buffer.from(bytes).toString('base64') : null)
const raw = (text) => (text ? Buffer.from(text, 'base64') : null)
const packKeys = (fields) => Object.fromEntries(
  Object.entries(fields).map(([key, value]) => [key, Buffer.isBuffer(value) ? b64(value) : value]))
const unpackKeys = (fields) => fields && Object.fromEntries(
  Object.entries(fields).map(([key, value]) => [key, typeof value === 'string' ? raw(value) : value]))

/** LIDs are derived, so that any number has the same one after any restart. */
function lidOf(number) {
  const digest = createHash('sha256').update(`lid ${number}`).digest()
  return String(100_000_000_000_000n + (digest.readBigUInt64BE() % 800_000_000_000_000n))
}

/** One linked device, as WhatsApp's server knows it. */
export class Device {
  constructor(phone, id, fields) {
    this.phone = phone
    this.id = id
    this.preKeys = Buffer.alloc(0)
    this.uploaded = false
    this.reportedCount = 0
    this.introduced = false
    this.pending = new Map() // stanzas not yet receipted: message id -> {stanza, ...}
    Object.assign(this, fields)
    this.jid = `${phone.number}:${id}@s.whatsapp.net`
    this.lid = `${phone.lid}:${id}@lid`
  }

  preKeyCount() {
    return this.uploaded ? this.preKeys.length / PRE_KEY_RECORD : this.reportedCount
  }

  addPreKeys(records) {
    this.preKeys = Buffer.concat([this.preKeys, ...records])
    this.uploaded = true
  }

  /** Hand out one one-time key, or null when there is none left. */
  takePreKey() {
    if (this.preKeys.length < PRE_KEY_RECORD) return null
    const record = this.preKeys.subarray(0, PRE_KEY_RECORD)
    this.preKeys = this.preKeys.subarray(PRE_KEY_RECORD)
    return { id: record.readUIntBE(0, 3), public: Buffer.from(record.subarray(3)) }
  }

  toDocument() {
    const { phone, preKeys, pending, jid, lid, signedPreKey, ...plain } = this
    return {
      ...packKeys(plain), preKeys: b64(preKeys), signedPreKey: packKeys(signedPreKey), pending: [...pending],
    }
  }

  static fromDocument(phone, { id, preKeys, pending, signedPreKey, noiseKey, identityKey, ...plain }) {
    return new Device(phone, id, {
      ...plain,
      preKeys: raw(preKeys) ?? Buffer.alloc(0),
      pending: new Map(pending),
      signedPreKey: unpackKeys(signedPreKey),
      noiseKey: raw(noiseKey),
      identityKey: raw(identityKey),
    })
  }
}

/** One account and its primary device, which holds the account's keys. */
export class Phone {
  constructor(number, fields) {
    this.number = number
    this.lid = lidOf(number)
    this.devices = new Map()
    this.preKeys = new Map()
    this.sessions = new Map()
    this.nextDeviceId = 1
    this.nextPreKeyId = 1
    this.signedPreKey = null
    this.appState = null
    Object.assign(this, fields)
    this.jid = `${number}@s.whatsapp.net`
    this.lidJid = `${this.lid}@lid`
  }

  /** The signed key is made when somebody first asks for it: a signature costs time. */
  getSignedPreKey() {
    this.signedPreKey ??= newSignedPreKey(this.identity.private, 1)
    return this.signedPreKey
  }

  newPreKey() {
    const id = this.nextPreKeyId++
    const pair = newKeyPair()
    this.preKeys.set(id, pair)
    return { id, public: pair.public }
  }

  toDocument() {
    return {
      number: this.number,
      name: this.name,
      registered: this.registered,
      registrationId: this.registrationId,
      nextDeviceId: this.nextDeviceId,
      nextPreKeyId: this.nextPreKeyId,
      appState: this.appState,
      identity: packKeys(this.identity),
      signedPreKey: this.signedPreKey && packKeys(this.signedPreKey),
      preKeys: [...this.preKeys].map(([id, pair]) => [id, packKeys(pair)]),
      sessions: [...this.sessions],
      devices: [...this.devices.values()].map((device) => device.toDocument()),
    }
  }

  static fromDocument({ number, identity, signedPreKey, preKeys, sessions, devices, ...plain }) {
    const phone = new Phone(number, {
      ...plain,
      identity: unpackKeys(identity),
      signedPreKey: unpackKeys(signedPreKey),
      preKeys: new Map(preKeys.map(([id, pair]) => [id, unpackKeys(pair)])),
      sessions: new Map(sessions),
    })
    for (const document of devices) phone.devices.set(document.id, Device.fromDocument(phone, document))
    return phone
  }
}

export class Accounts {
  constructor(ledger) {
    this.ledger = ledger
    this.phones = new Map()
    this.numberByLid = new Map()
    for (const [, document] of ledger.load()) this.#keep(Phone.fromDocument(document))
  }

  #keep(phone) {
    this.phones.set(phone.number, phone)
    this.numberByLid.set(phone.lid, phone.number)
  }

  /** The phone changed: store it soon. Call flush() before reporting something as done. */
  touch(phone) {
    this.ledger.mark(phone.number, () => phone.toDocument())
  }

  flush() {
    this.ledger.flush()
  }

  /** @throws when the number is malformed or taken. */
  createPhone({ number = this.#freeNumber(), name = '', registered = true } = {}) {
    const text = String(number).replace(/^\+/, '')
    if (!NUMBER.test(text)) throw new Error(`"${number}" is not a phone number in international form`)
    if (this.phones.has(text)) throw new Error(`the phone ${text} exists already`)
    const phone = new Phone(text, {
      name: name || `Phone ${text.slice(-4)}`,
      registered,
      identity: newKeyPair(),
      registrationId: randomInt(1, 16380),
    })
    this.#keep(phone)
    this.touch(phone)
    return phone
  }

  #freeNumber() {
    let number = FIRST_NUMBER + this.phones.size
    while (this.phones.has(String(number))) number++
    return String(number)
  }

  /** The phone behind a number, a jid or a LID; null when there is none. */
  findPhone(jid) {
    const { user, server } = parseJid(jid)
    const number = server === 'lid' ? this.numberByLid.get(user) : user.replace(/^\+/, '')
    return this.phones.get(number) ?? null
  }

  /** Like findPhone, but an unknown number becomes a phone: everybody is on WhatsApp. */
  reachPhone(jid) {
    const { user, server } = parseJid(jid)
    const known = this.findPhone(jid)
    if (known || server === 'lid' || !NUMBER.test(user.replace(/^\+/, ''))) return known
    return this.createPhone({ number: user })
  }

  findDevice(jid) {
    return this.findPhone(jid)?.devices.get(parseJid(jid).device) ?? null
  }

  * allDevices() {
    for (const phone of this.phones.values()) yield * phone.devices.values()
  }

  addDevice(phone, fields) {
    const id = fields.id ?? phone.nextDeviceId++
    const device = new Device(phone, id, { keyIndex: id, pairedAt: new Date().toISOString(), ...fields })
    phone.devices.set(id, device)
    this.touch(phone)
    return device
  }

  removeDevice(device) {
    device.phone.devices.delete(device.id)
    const address = `${device.phone.number}.${device.id}`
    for (const phone of this.phones.values()) {
      if (phone.sessions.delete(address)) this.touch(phone)
    }
    this.touch(device.phone)
  }

  clear() {
    this.ledger.clear()
    this.phones.clear()
    this.numberByLid.clear()
  }
}
