// Linking with an eight-character code: the phone's half of the link_code_companion_reg dialogue.
import crypto from 'node:crypto'
import { promisify } from 'node:util'
import { agree, hkdf, newKeyPair, openGcm } from './keys.mjs'
import { answer, refuse } from './link.mjs'
import { bytes, child, node, nowSeconds, parseJid, SERVER } from './stanza.mjs'

const ITERATIONS = 131_072
const FINISH_SECONDS = 30
const CODE = /^[0-9A-Z]{8}$/
const derive = promisify(crypto.pbkdf2)

/** AES-256-CTR under a key stretched from the code; the same call wraps and unwraps. */
async function crypt(code, salt, iv, data) {
  const key = await derive(code, salt, ITERATIONS, 32, 'sha256')
  return crypto.createCipheriv('aes-256-ctr', key, iv).update(data)
}

export class PairCode {
  constructor(pairing) {
    this.pairing = pairing
  }

  get edge() {
    return this.pairing.edge
  }

  onNode(link, stanza) {
    const registration = child(stanza, 'link_code_companion_reg')
    switch (registration.attrs.stage) {
      case 'companion_hello': return this.#hello(link, stanza, registration)
      case 'companion_finish': return this.#finish(link, stanza, registration)
      default: return answer(link, stanza)
    }
  }

  #hello(link, stanza, registration) {
    const wrapped = bytes(child(registration, 'link_code_pairing_wrapped_companion_ephemeral_pub'))
    if (wrapped?.length !== 80) return refuse(link, stanza, 400, 'bad-request')
    const { user } = parseJid(registration.attrs.jid)
    const ref = crypto.randomBytes(16).toString('base64url')
    Object.assign(link.pairing, { linkCodeNumber: user, wrappedCompanionKey: wrapped, linkCodeRef: ref })
    this.edge.trace.add('pair-code-requested', { link: link.id, number: user })
    return answer(link, stanza, [node('link_code_companion_reg', { stage: 'companion_hello' }, [
      node('link_code_pairing_ref', {}, Buffer.from(ref)),
    ])])
  }

  /** The code is typed on the phone: resolves when the client has confirmed the pairing. */
  async enter(code, number, errorType) {
    const text = String(code).toUpperCase().replace(/[^0-9A-Z]/g, '')
    const digits = String(number).replace(/\D/g, '')
    if (!CODE.test(text)) throw new errorType(`"${code}" is not a pairing code`)
    const link = [...this.edge.links.values()].filter((one) => one.open && one.pairing?.linkCodeNumber === digits).pop()
    if (!link) throw new errorType(`no client asks to be linked to ${digits} by code`)
    const { pairing } = link
    const phone = this.pairing.phoneFor(digits)
    const wrapped = pairing.wrappedCompanionKey
    pairing.companionKey = await crypt(text, wrapped.subarray(0, 32), wrapped.subarray(32, 48), wrapped.subarray(48))
    pairing.phoneKey = newKeyPair()
    pairing.phone = phone
    const salt = crypto.randomBytes(32)
    const iv = crypto.randomBytes(16)
    const own = Buffer.concat([salt, iv, await crypt(text, salt, iv, pairing.phoneKey.public)])
    const finished = new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new errorType('the client did not answer in time')), FINISH_SECONDS * 1000)
      const settle = (done) => (value) => { clearTimeout(timer); done(value) }
      pairing.codeEntered = { resolve: settle(resolve), reject: settle(reject), errorType }
      link.socket.once('close', () => pairing.codeEntered.reject(new errorType('the client closed the connection')))
    })
    link.send(node('notification', {
      from: SERVER, type: 'link_code_companion_reg', id: crypto.randomBytes(8).toString('hex'), t: nowSeconds(),
    }, [node('link_code_companion_reg', { stage: 'primary_hello' }, [
      node('link_code_pairing_wrapped_primary_ephemeral_pub', {}, own),
      node('primary_identity_pub', {}, phone.identity.public),
      node('link_code_pairing_ref', {}, Buffer.from(pairing.linkCodeRef)),
    ])]))
    const advSecret = await finished
    return this.pairing.grant(link, phone, advSecret)
  }

  #finish(link, stanza, registration) {
    const { codeEntered, companionKey, phoneKey, phone, identityKey } = link.pairing
    if (!codeEntered) return refuse(link, stanza, 400, 'bad-request')
    const bundle = bytes(child(registration, 'link_code_pairing_wrapped_key_bundle'))
    try {
      const shared = agree(phoneKey.private, companionKey)
      const key = hkdf(shared, bundle.subarray(0, 32), 'link_code_pairing_key_bundle_encryption_key', 32)
      const plain = openGcm(key, bundle.subarray(32, 44), bundle.subarray(44))
      if (!plain.subarray(0, 32).equals(identityKey)) throw new Error('another identity key')
      const secret = Buffer.concat([shared, agree(phone.identity.private, identityKey), plain.subarray(64, 96)])
      answer(link, stanza)
      return codeEntered.resolve(hkdf(secret, Buffer.alloc(0), 'adv_secret', 32))
    } catch {
      // The key bundle only opens under the right code: this is how a phone notices a wrong one.
      this.edge.trace.add('pair-code-wrong', { link: link.id })
      refuse(link, stanza, 400, 'bad-request')
      return codeEntered.reject(new codeEntered.errorType('the code is wrong'))
    }
  }
}
