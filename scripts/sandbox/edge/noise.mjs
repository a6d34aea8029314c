// Noise_XX_25519_AESGCM_SHA256, the responder's side, with WhatsApp's certificate chain.
import { proto } from 'baileys/WAProto/index.js'
import { agree, hkdf, newKeyPair, openGcm, sealGcm, sha256, sign } from './keys.mjs'

const PATTERN = Buffer.from('Noise_XX_25519_AESGCM_SHA256\0\0\0\0')
const EMPTY = Buffer.alloc(0)
const YEAR_SECONDS = 365 * 24 * 3600
const { Details } = proto.CertChain.NoiseCertificate

/** The server's static key and the chain that ties it to the sandbox's root key. */
export class NoiseIdentity {
  constructor(rootPrivate) {
    const now = Math.floor(Date.now() / 1000)
    const validity = { notBefore: now - YEAR_SECONDS, notAfter: now + YEAR_SECONDS }
    const intermediate = newKeyPair()
    const pair = newKeyPair()
    this.public = pair.public
    this.private = pair.private
    const issuer = Details.encode({ serial: 1, issuerSerial: 0, key: intermediate.public, ...validity }).finish()
    const leaf = Details.encode({ serial: 2, issuerSerial: 1, key: this.public, ...validity }).finish()
    this.certificate = Buffer.from(proto.CertChain.encode({
      intermediate: { details: issuer, signature: sign(rootPrivate, issuer) },
      leaf: { details: leaf, signature: sign(intermediate.private, leaf) },
    }).finish())
  }
}

function counterIv(counter) {
  const iv = Buffer.alloc(12)
  iv.writeUInt32BE(counter, 8)
  return iv
}

/** One handshake, then one encrypted transport. Every method throws on a bad peer. */
export class NoiseResponder {
  constructor(identity, header) {
    this.identity = identity
    this.hash = sha256(Buffer.concat([PATTERN, header]))
    this.salt = PATTERN
    this.key = PATTERN
    this.counter = 0
    this.sent = 0
    this.received = 0
  }

  mixHash(data) {
    this.hash = sha256(Buffer.concat([this.hash, data]))
  }

  mixKey(secret) {
    const out = hkdf(secret, this.salt, EMPTY, 64)
    this.salt = out.subarray(0, 32)
    this.key = out.subarray(32)
    this.counter = 0
  }

  encryptAndHash(plaintext) {
    const ciphertext = sealGcm(this.key, counterIv(this.counter++), plaintext, this.hash)
    this.mixHash(ciphertext)
    return ciphertext
  }

  decryptAndHash(ciphertext) {
    const plaintext = openGcm(this.key, counterIv(this.counter++), ciphertext, this.hash)
    this.mixHash(ciphertext)
    return plaintext
  }

  /** ClientHello in, ServerHello out. */
  answerHello(frame) {
    const { clientHello } = proto.HandshakeMessage.decode(frame)
    if (clientHello?.ephemeral?.length !== 32) throw new Error('the first frame is not a ClientHello')
    this.mixHash(clientHello.ephemeral)
    const pair = newKeyPair()
    this.ephemeral = pair.private
    this.mixHash(pair.public)
    this.mixKey(agree(this.ephemeral, clientHello.ephemeral))
    const fixed = this.encryptAndHash(this.identity.public)
    this.mixKey(agree(this.identity.private, clientHello.ephemeral))
    const payload = this.encryptAndHash(this.identity.certificate)
    return Buffer.from(proto.HandshakeMessage.encode({
      serverHello: { ephemeral: pair.public, static: fixed, payload },
    }).finish())
  }

  /** ClientFinish in; returns the client's static key and its ClientPayload. */
  readFinish(frame) {
    const { clientFinish } = proto.HandshakeMessage.decode(frame)
    if (!clientFinish?.static || !clientFinish.payload) throw new Error('the second frame is not a ClientFinish')
    const clientStatic = this.decryptAndHash(clientFinish.static)
    this.mixKey(agree(this.ephemeral, clientStatic))
    const payload = proto.ClientPayload.decode(this.decryptAndHash(clientFinish.payload))
    const keys = hkdf(EMPTY, this.salt, EMPTY, 64)
    this.readKey = keys.subarray(0, 32)
    this.writeKey = keys.subarray(32)
    return { clientStatic, payload }
  }

  encrypt(plaintext) {
    return sealGcm(this.writeKey, counterIv(this.sent++), plaintext)
  }

  decrypt(ciphertext) {
    return openGcm(this.readKey, counterIv(this.received++), ciphertext)
  }
}
