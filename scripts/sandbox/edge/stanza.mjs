// Binary XML nodes: building, reading and naming.
import { inflateSync } from 'node:zlib'
import * as dictionary from 'baileys/lib/WABinary/constants.js'
import { decodeDecompressedBinaryNode } from 'baileys/lib/WABinary/decode.js'
import { encodeBinaryNode } from 'baileys/lib/WABinary/encode.js'

export const SERVER = '@s.whatsapp.net'
const COMPRESSED = 2

/** Build a node; attributes that are null or undefined are left out, numbers become text. */
export function node(tag, attrs = {}, content = undefined) {
  const text = {}
  for (const [key, value] of Object.entries(attrs)) {
    if (value !== null && value !== undefined) text[key] = String(value)
  }
  return { tag, attrs: text, content }
}

export const encode = (stanza) => encodeBinaryNode(stanza)

/** Decode one frame's payload: a flag byte, then the tokens. */
export function decode(payload) {
  const body = payload.subarray(1)
  return decodeDecompressedBinaryNode(payload[0] & COMPRESSED ? inflateSync(body) : body, dictionary)
}

export const children = (stanza) => (Array.isArray(stanza?.content) ? stanza.content : [])
export const child = (stanza, tag) => children(stanza).find((item) => item.tag === tag)
export const childrenOf = (stanza, tag) => children(stanza).filter((item) => item.tag === tag)

/** The content as bytes, or null when it is absent or a list. */
export function bytes(stanza) {
  const content = stanza?.content
  if (typeof content === 'string') return Buffer.from(content)
  return content instanceof Uint8Array ? Buffer.from(content) : null
}

export const nowSeconds = () => Math.floor(Date.now() / 1000)

export function uint(value, length) {
  const out = Buffer.alloc(length)
  out.writeUIntBE(value, 0, length)
  return out
}

/** Split "user:device@server" (or a bare number). */
export function parseJid(text) {
  const [left, server = 's.whatsapp.net'] = String(text).split('@')
  const [user, device] = left.split(':')
  return { user: user.split('_')[0], device: device === undefined ? 0 : Number(device), server }
}
