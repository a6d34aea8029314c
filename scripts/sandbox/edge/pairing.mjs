// Linking a new device: by QR code, by pairing code, or ready-made.
import { randomBytes } from 'node:crypto'
import { proto } from 'baileys/WAProto/index.js'
import { hmacSha256, newKeyPair, newSignedPreKey, sign } from './keys.mjs'
import { PairCode } from './pair_code.mjs'
import { answer, CLIENT_CLOSES_MS } from './link.mjs'
import { bytes, child, node, nowSeconds, SERVER, uint } from './stanza.mjs'

const REFS = 6
const FIRST_REF_SECONDS = 60
const NEXT_REF_SECONDS = 20
const ALL_REFS_SECONDS = FIRST_REF_SECONDS + (REFS - 1) * NEXT_REF_SECONDS
const CONFIRM_SECONDS = 30
const ACCOUNT_PREFIX = Buffer.from([6, 0])
const DEVICE_PREFIX = Buffer.from([6, 1])

export class PairingError extends Error {}

/** The four secrets in a QR text: with or without the address in front of them. */
export function parseQr(text) {
  const parts = String(text).trim().replace(/^.*#/, '').split(',')
  if (parts.length < 4) throw new PairingError('this is not a code for linking a device')
  const [ref, noise, identity, adv] = parts
  const keys = [noise, identity, adv].map((part) => Buffer.from(part, 'base64'))
  if (keys.some((key) => key.length !== 32)) throw new PairingError('the keys in this code are damaged')
  return { ref, noiseKey: keys[0], identityKey: keys[1], advSecret: keys[2] }
}

/** The account signs: this identity key is my device number keyIndex. */
function signIdentity(phone, keyIndex, identityKey) {
  const details = Buffer.from(proto.ADVDeviceIdentity.encode({
    rawId: phone.registrationId, timestamp: nowSeconds(), keyIndex,
  }).finish())
  return {
    details,
    accountSignatureKey: phone.identity.public,
    accountSignature: sign(phone.identity.private, Buffer.concat([ACCOUNT_PREFIX, details, identityKey])),
  }
}

export class Pairing {
  constructor(edge) {
    this.edge = edge
    this.code = new PairCode(this)
    this.refs = new Map() // ref -> link
  }

  begin(link, data) {
    link.phase = 'pairing'
    link.pairing = {
      identityKey: Buffer.from(data.eIdent),
      registrationId: Buffer.from(data.eRegid).readUIntBE(0, data.eRegid.length),
      signedPreKey: {
        id: Buffer.from(data.eSkeyId).readUIntBE(0, data.eSkeyId.length),
        public: Buffer.from(data.eSkeyVal),
        signature: Buffer.from(data.eSkeySig),
      },
      refs: [],
    }
    const lifetime = this.edge.faults.qrLifetimeSeconds ?? ALL_REFS_SECONDS
    const count = Math.min(REFS, Math.max(1, 1 + Math.ceil((lifetime - FIRST_REF_SECONDS) / NEXT_REF_SECONDS)))
    for (let i = 0; i < count; i++) {
      const ref = `2@${randomBytes(60).toString('base64')}`
      link.pairing.refs.push(ref)
      this.refs.set(ref, link)
    }
    link.pairing.begunAt = performance.now()
    this.#schedule(link, lifetime)
    link.send(node('iq', { from: SERVER, type: 'set', id: `pair-${link.id}`, xmlns: 'md' }, [
      node('pair-device', {}, link.pairing.refs.map((ref) => node('ref', {}, Buffer.from(ref)))),
    ]))
    this.edge.trace.add('qr', { link: link.id, refs: count, seconds: lifetime })
  }

  #schedule(link, seconds) {
    const passed = performance.now() - link.pairing.begunAt
    clearTimeout(link.pairing.timer)
    link.pairing.timer = setTimeout(() => this.#expire(link), Math.max(0, seconds * 1000 - passed))
  }

  /** Give the codes that are on show now another lifetime; null means WhatsApp's own. */
  setLifetime(seconds) {
    for (const link of new Set(this.refs.values())) this.#schedule(link, seconds ?? ALL_REFS_SECONDS)
  }

  #expire(link) {
    if (link.pairing.confirmed) return
    this.edge.trace.add('qr-expired', { link: link.id })
    link.close()
  }

  forget(link) {
    if (!link.pairing) return
    clearTimeout(link.pairing.timer)
    for (const ref of link.pairing.refs) this.refs.delete(ref)
    link.pairing.confirmed?.reject(new PairingError('the client closed the connection before it confirmed'))
  }

  onNode(link, stanza) {
    if (stanza.tag !== 'iq') return
    if (stanza.attrs.id === link.pairing.requestId) this.#confirm(link, stanza)
    else if (child(stanza, 'link_code_companion_reg')) this.code.onNode(link, stanza)
    else if (stanza.attrs.type === 'get' || stanza.attrs.type === 'set') answer(link, stanza)
  }

  /** The phone scans: resolves with the new device's jid when the client has confirmed. */
  scan(qr, number) {
    const { ref, noiseKey, identityKey, advSecret } = parseQr(qr)
    const link = this.refs.get(ref)
    if (!link?.open) throw new PairingError('this code is not valid any more')
    if (!link.noiseKey.equals(noiseKey) || !link.pairing.identityKey.equals(identityKey)) {
      throw new PairingError('the keys in this code are not those of the client that shows it')
    }
    return this.grant(link, this.phoneFor(number), advSecret)
  }

  phoneFor(number) {
    const { accounts } = this.edge
    const known = number && accounts.findPhone(String(number))
    return known || accounts.createPhone(number ? { number } : {})
  }

  /** Send pair-success and wait for the client's own signature. */
  grant(link, phone, advSecret) {
    if (link.pairing.confirmed) throw new PairingError('this client is being linked already')
    const id = phone.nextDeviceId++
    const identity = signIdentity(phone, id, link.pairing.identityKey)
    const details = Buffer.from(proto.ADVSignedDeviceIdentity.encode(identity).finish())
    const signed = proto.ADVSignedDeviceIdentityHMAC.encode({ details, hmac: hmacSha256(advSecret, details) }).finish()
    link.pairing.requestId = `pair-success-${link.id}`
    link.pairing.granted = { phone, id }
    link.send(node('iq', { from: SERVER, type: 'set', id: link.pairing.requestId, t: nowSeconds() }, [
      node('pair-success', {}, [
        node('device-identity', {}, Buffer.from(signed)),
        node('device', { jid: `${phone.number}:${id}@s.whatsapp.net`, lid: `${phone.lid}:${id}@lid` }),
        node('platform', { name: 'android' }),
      ]),
    ]))
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => settle.reject(new PairingError('the client did not confirm in time')),
        CONFIRM_SECONDS * 1000)
      const settle = {
        resolve: (value) => { clearTimeout(timer); resolve(value) },
        reject: (error) => { clearTimeout(timer); reject(error) },
      }
      link.pairing.confirmed = settle
    })
  }

  #confirm(link, stanza) {
    const { granted, confirmed, identityKey, registrationId, signedPreKey } = link.pairing
    const identity = child(child(stanza, 'pair-device-sign'), 'device-identity')
    if (!identity) {
      const error = child(stanza, 'error')?.attrs ?? {}
      return confirmed.reject(new PairingError(`the client refused: ${error.code ?? '?'} ${error.text ?? ''}`))
    }
    const { phone, id } = granted
    const device = this.edge.accounts.addDevice(phone, {
      id, keyIndex: id, noiseKey: link.noiseKey, identityKey, registrationId, signedPreKey,
      platform: 'android', signedIdentity: bytes(identity).toString('base64'),
    })
    this.edge.counters.add(device.jid, 'pairings')
    this.edge.accounts.flush() // what is reported now survives a kill
    this.edge.trace.add('paired', { link: link.id, jid: device.jid, lid: device.lid })
    confirmed.resolve({ jid: device.jid, lid: device.lid, number: phone.number })
    return link.finish(node('stream:error', { code: 515 }), CLIENT_CLOSES_MS)
  }

  /** Make a device that is linked already, with all the secrets its client would hold. */
  createDevice(phone, { reported, oneTimeKeys }) {
    const noise = newKeyPair()
    const identity = newKeyPair()
    const signedPreKey = newSignedPreKey(identity.private, 1)
    const advSecret = randomBytes(32)
    const registrationId = randomBytes(4).readUInt32BE() >>> 1
    const account = signIdentity(phone, phone.nextDeviceId, identity.public)
    account.deviceSignature = sign(identity.private,
      Buffer.concat([DEVICE_PREFIX, account.details, identity.public, account.accountSignatureKey]))
    const device = this.edge.accounts.addDevice(phone, {
      noiseKey: noise.public, identityKey: identity.public, registrationId, platform: 'android',
      signedPreKey: { id: 1, public: signedPreKey.public, signature: signedPreKey.signature },
      reportedCount: reported, introduced: true,
    })
    const keys = Array.from({ length: oneTimeKeys }, (_, index) => ({ id: index + 1, ...newKeyPair() }))
    device.preKeys = Buffer.concat(keys.flatMap(({ id, public: value }) => [uint(id, 3), value]))
    const b64 = (key) => key.toString('base64')
    return {
      jid: device.jid, lid: device.lid, number: phone.number, registration_id: registrationId,
      noise_private: b64(noise.private), identity_private: b64(identity.private),
      signed_prekey: { private: b64(signedPreKey.private), id: 1, signature: b64(signedPreKey.signature) },
      one_time_keys: keys.map(({ id, private: secret }) => ({ id, private: b64(secret) })),
      adv_secret: b64(advSecret),
      account: {
        details: b64(account.details), account_signature: b64(account.accountSignature),
        account_signature_key: b64(account.accountSignatureKey), device_signature: b64(account.deviceSignature),
      },
      platform: 'android', push_name: phone.name,
    }
  }
}
