// Attachments: WhatsApp's upload and download hosts, and the encryption around each file.
import crypto from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { hkdf, hmacSha256, sha256 } from './keys.mjs'

const LABELS = {
  image: 'WhatsApp Image Keys', sticker: 'WhatsApp Image Keys', video: 'WhatsApp Video Keys',
  audio: 'WhatsApp Audio Keys', document: 'WhatsApp Document Keys',
}
const HOST = 'https://mmg.whatsapp.net'
const LIMIT = 100 * 1024 * 1024
const TOKEN = /^[A-Za-z0-9_-]{20,100}$/

function mediaKeys(mediaKey, kind) {
  const keys = hkdf(mediaKey, Buffer.alloc(0), LABELS[kind], 112)
  return { iv: keys.subarray(0, 16), cipher: keys.subarray(16, 48), mac: keys.subarray(48, 80) }
}

function encryptFile(plain, mediaKey, kind) {
  const { iv, cipher: key, mac } = mediaKeys(mediaKey, kind)
  const cipher = crypto.createCipheriv('aes-256-cbc', key, iv)
  const body = Buffer.concat([cipher.update(plain), cipher.final()])
  return Buffer.concat([body, hmacSha256(mac, Buffer.concat([iv, body])).subarray(0, 10)])
}

function decryptFile(blob, mediaKey, kind) {
  const { iv, cipher: key, mac } = mediaKeys(mediaKey, kind)
  const body = blob.subarray(0, -10)
  if (!hmacSha256(mac, Buffer.concat([iv, body])).subarray(0, 10).equals(blob.subarray(-10))) {
    throw new Error('the attachment is damaged')
  }
  const decipher = crypto.createDecipheriv('aes-256-cbc', key, iv)
  return Buffer.concat([decipher.update(body), decipher.final()])
}

export class MediaStore {
  constructor(directory, trace) {
    this.directory = directory
    this.trace = trace
    this.held = null // answers of uploads that wait, while uploads are held back
    fs.mkdirSync(directory, { recursive: true })
  }

  #file(token) {
    if (!TOKEN.test(token)) throw new Error('not a media token')
    return path.join(this.directory, token)
  }

  /** Keep an encrypted file and name the path under which clients fetch it. */
  put(blob) {
    const token = sha256(blob).toString('base64url')
    fs.writeFileSync(this.#file(token), blob)
    // Clients append "&hash=..." to it, so it has a query already.
    return { token, directPath: `/v/${token}?ccb=11-4` }
  }

  /** The HTTP side: POST /mms/<type>/<token> stores, GET /v/<token> delivers. */
  serve(request, response) {
    const url = new URL(request.url, HOST)
    const token = url.pathname.split('/').pop().replace(/=+$/, '')
    const known = TOKEN.test(token)
    if (request.method === 'POST' && known) return this.#upload(request, response)
    if (request.method === 'GET' && known && fs.existsSync(this.#file(token))) {
      const blob = fs.readFileSync(this.#file(token))
      response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': blob.length })
      return response.end(blob)
    }
    this.trace.add('http', { method: request.method, path: url.pathname, host: request.headers.host })
    response.writeHead(404)
    return response.end()
  }

  #upload(request, response) {
    const chunks = []
    let size = 0
    request.on('data', (chunk) => {
      size += chunk.length
      if (size > LIMIT) request.destroy()
      else chunks.push(chunk)
    })
    request.on('end', () => {
      const finish = () => this.#take(Buffer.concat(chunks), response)
      if (!this.held) return finish()
      this.trace.add('upload-held', { bytes: size })
      return this.held.push(finish)
    })
  }

  #take(blob, response) {
    const { token, directPath } = this.put(blob)
    this.trace.add('upload', { token, bytes: blob.length })
    const body = JSON.stringify({ url: `${HOST}${directPath}`, direct_path: directPath, handle: token, object_id: token })
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length })
    response.end(body)
  }

  /** Answer no upload any more, or all that wait and all that come. */
  hold(on) {
    const waiting = this.held ?? []
    this.held = on ? waiting : null
    if (!on) for (const finish of waiting) finish()
  }

  /** What is known of an attachment that a client sent: decrypted from what it uploaded. */
  describe(kind, { directPath, mediaKey }) {
    const token = String(directPath ?? '').split('?')[0].split('/').pop()
    if (!TOKEN.test(token) || !fs.existsSync(this.#file(token))) return { uploaded: false }
    const plain = decryptFile(fs.readFileSync(this.#file(token)), Buffer.from(mediaKey), kind)
    return { uploaded: true, bytes: plain.length, sha256: sha256(plain).toString('hex') }
  }

  /** Encrypt and store what a phone sends: {type, base64, mimetype, file_name, caption}. */
  prepare({ type = 'document', base64, mimetype = 'application/octet-stream', file_name: fileName, caption }, text) {
    if (!LABELS[type]) throw new Error(`"media.type" must be one of ${Object.keys(LABELS).join(', ')}`)
    if (typeof base64 !== 'string') throw new Error('"media.base64" is missing')
    const plain = Buffer.from(base64, 'base64')
    const mediaKey = crypto.randomBytes(32)
    const blob = encryptFile(plain, mediaKey, type)
    const { directPath } = this.put(blob)
    const content = {
      url: `${HOST}${directPath}`, directPath, mediaKey, mimetype, fileSha256: sha256(plain),
      fileEncSha256: sha256(blob), fileLength: plain.length, mediaKeyTimestamp: Math.floor(Date.now() / 1000),
    }
    if (caption ?? text) content.caption = caption ?? text
    if (type === 'document') content.fileName = fileName ?? 'file'
    return { field: `${type}Message`, content }
  }

  clear() {
    this.hold(false)
    for (const entry of fs.readdirSync(this.directory)) fs.rmSync(path.join(this.directory, entry))
  }
}
