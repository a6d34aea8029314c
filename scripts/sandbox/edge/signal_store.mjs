// A phone's half of Signal: its keys and sessions, in the form libsignal asks for them.
import { randomInt } from 'node:crypto'
import libsignal from 'libsignal'
import { withType } from './keys.mjs'

const pair = (keys) => ({ pubKey: withType(keys.public), privKey: keys.private })

class SignalStore {
  constructor(phone, onChange) {
    this.phone = phone
    this.onChange = onChange
  }

  // Sessions are kept as plain data and rebuilt for each use: libsignal changes a record
  // before it knows whether the message is genuine.
  loadSession(address) {
    const data = this.phone.sessions.get(address)
    return data && libsignal.SessionRecord.deserialize(data)
  }

  storeSession(address, record) {
    this.phone.sessions.set(address, record.serialize())
    this.onChange()
  }

  isTrustedIdentity() {
    return true
  }

  loadPreKey(id) {
    const keys = this.phone.preKeys.get(id)
    return keys && pair(keys)
  }

  removePreKey(id) {
    this.phone.preKeys.delete(id)
    this.onChange()
  }

  loadSignedPreKey(id) {
    const signed = this.phone.getSignedPreKey()
    return signed.id === id ? pair(signed) : undefined
  }

  getOurRegistrationId() {
    return this.phone.registrationId
  }

  getOurIdentity() {
    return pair(this.phone.identity)
  }
}

/** WhatsApp pads a message with 1 to 15 bytes, each holding their number. */
function pad(plain) {
  const count = randomInt(1, 16)
  return Buffer.concat([plain, Buffer.alloc(count, count)])
}

const unpad = (padded) => padded.subarray(0, padded.length - padded[padded.length - 1])

/** The Signal conversation between one phone and one linked device of somebody. */
export class Conversation {
  constructor(phone, device, onChange) {
    this.phone = phone
    this.address = new libsignal.ProtocolAddress(device.phone.number, device.id)
    this.store = new SignalStore(phone, onChange)
    this.cipher = new libsignal.SessionCipher(this.store, this.address)
  }

  get exists() {
    return this.phone.sessions.has(this.address.toString())
  }

  /** Start anew from a key bundle: {registrationId, identityKey, signedPreKey, preKey}. */
  async begin({ registrationId, identityKey, signedPreKey, preKey }) {
    this.phone.sessions.delete(this.address.toString())
    await new libsignal.SessionBuilder(this.store, this.address).initOutgoing({
      registrationId,
      identityKey: withType(identityKey),
      signedPreKey: {
        keyId: signedPreKey.id, publicKey: withType(signedPreKey.public), signature: signedPreKey.signature,
      },
      ...(preKey ? { preKey: { keyId: preKey.id, publicKey: withType(preKey.public) } } : {}),
    })
  }

  async seal(plain) {
    const { type, body } = await this.cipher.encrypt(pad(plain))
    return { type: type === 3 ? 'pkmsg' : 'msg', body: Buffer.from(body) }
  }

  /** @throws when the message does not belong to any session. */
  async open(type, body) {
    return unpad(await (type === 'pkmsg'
      ? this.cipher.decryptPreKeyWhisperMessage(body)
      : this.cipher.decryptWhisperMessage(body)))
  }
}
