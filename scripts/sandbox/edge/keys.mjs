// Curve25519 and the small symmetric primitives that the protocol is made of.
// The curve runs in Baileys' WebAssembly library: a signature takes 0.1 ms where JavaScript takes
// 12 ms, and an agreement a quarter of what node:crypto needs with keys that are used once.
import crypto from 'node:crypto'
import { calculateAgreement, calculateSignature, generateKeyPair } from 'whatsapp-rust-bridge'

const DJB_TYPE = Buffer.from([5])

/** A fresh X25519 pair; both halves are 32 raw bytes. */
export function newKeyPair() {
  const { pubKey, privKey } = generateKeyPair()
  return { public: Buffer.from(pubKey).subarray(1), private: Buffer.from(privKey) }
}

/** X25519 shared secret of two raw keys. */
export const agree = (privateKey, publicKey) => Buffer.from(calculateAgreement(withType(publicKey), privateKey))

/** XEdDSA signature, 64 bytes. */
export const sign = (privateKey, message) => Buffer.from(calculateSignature(privateKey, message))

/** The 33-byte form in which Signal names a public key. */
export const withType = (publicKey) => (publicKey.length === 33 ? publicKey : Buffer.concat([DJB_TYPE, publicKey]))

export const sha256 = (data) => crypto.createHash('sha256').update(data).digest()
export const hmacSha256 = (key, data) => crypto.createHmac('sha256', key).update(data).digest()

export function hkdf(secret, salt, info, length) {
  return Buffer.from(crypto.hkdfSync('sha256', secret, salt, info, length))
}

export function sealGcm(key, iv, plaintext, aad) {
  const cipher = crypto.createCipheriv('aes-256-gcm', key, iv)
  if (aad) cipher.setAAD(aad)
  return Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()])
}

/** @throws when the tag does not match. */
export function openGcm(key, iv, ciphertext, aad) {
  const decipher = crypto.createDecipheriv('aes-256-gcm', key, iv)
  if (aad) decipher.setAAD(aad)
  decipher.setAuthTag(ciphertext.subarray(-16))
  return Buffer.concat([decipher.update(ciphertext.subarray(0, -16)), decipher.final()])
}

/** A signed pre-key in the form a device uploads it. */
export function newSignedPreKey(identityPrivate, id) {
  const pair = newKeyPair()
  return { id, ...pair, signature: sign(identityPrivate, withType(pair.public)) }
}
