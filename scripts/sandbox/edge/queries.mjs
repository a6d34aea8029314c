// The info queries a client asks: one function for each namespace.
import { collectionSince } from './introduction.mjs'
import { answer, refuse } from './link.mjs'
import { bytes, child, children, childrenOf, node, nowSeconds, parseJid, uint } from './stanza.mjs'

const MEDIA_HOST = 'mmg.whatsapp.net'
const MEDIA_TTL_SECONDS = 3600
const PRIVACY = ['groupadd', 'last', 'status', 'profile', 'readreceipts', 'online', 'calladd']

const keyNode = (tag, key) => node(tag, {}, [
  node('id', {}, uint(key.id, 3)), node('value', {}, key.public),
  ...(key.signature ? [node('signature', {}, key.signature)] : []),
])

export class Queries {
  constructor(edge) {
    this.edge = edge
    this.handlers = {
      encrypt: this.#encrypt, usync: this.#usync, md: this.#linkedDevices, 'w:m': this.#media,
      'w:sync:app:state': this.#appState, blocklist: this.#blocklist, privacy: this.#privacy,
      'w:profile:picture': this.#picture, 'w:g2': this.#groups, passive: answerEmpty, 'w:p': answerEmpty,
      abt: this.#properties, w: this.#properties,
    }
  }

  handle(link, query) {
    const { xmlns, type } = query.attrs
    if (type !== 'get' && type !== 'set') return
    const what = children(query)[0]
    const handler = this.handlers[xmlns]
    this.edge.trace.add('iq', { link: link.id, jid: link.jid, xmlns, kind: type, what: what?.tag, known: Boolean(handler) })
    ;(handler ?? answerEmpty).call(this, link, query, what)
  }

  #encrypt(link, query, what) {
    const { device } = link
    if (query.attrs.type === 'set') {
      if (what?.tag !== 'rotate') this.#storeKeys(device, query)
      const signed = child(what?.tag === 'rotate' ? what : query, 'skey')
      if (signed) this.#storeSignedKey(device, signed)
      this.edge.accounts.touch(device.phone)
      answer(link, query)
      return this.edge.post.introduce(device)
    }
    if (what?.tag === 'count') return answer(link, query, [node('count', { value: device.preKeyCount() })])
    if (what?.tag === 'digest') return answer(link, query, [this.#digest(device)])
    return answer(link, query, [node('list', {}, childrenOf(what, 'user').map((user) => this.#bundle(user.attrs.jid)))])
  }

  #storeKeys(device, query) {
    const keys = childrenOf(child(query, 'list'), 'key')
    device.addPreKeys(keys.map((key) => Buffer.concat([bytes(child(key, 'id')), bytes(child(key, 'value'))])))
    this.edge.trace.add('pre-keys', { jid: device.jid, uploaded: keys.length, held: device.preKeyCount() })
  }

  #storeSignedKey(device, signed) {
    device.signedPreKey = {
      id: bytes(child(signed, 'id')).readUIntBE(0, 3),
      public: bytes(child(signed, 'value')),
      signature: bytes(child(signed, 'signature')),
    }
  }

  #digest(device) {
    return node('digest', {}, [
      node('registration', {}, uint(device.registrationId, 4)), node('type', {}, Buffer.from([5])),
      node('identity', {}, device.identityKey), keyNode('skey', device.signedPreKey),
    ])
  }

  /** What one needs to write to a device for the first time; takes one of its one-time keys. */
  #bundle(jid) {
    const holder = this.edge.keyHolder(jid)
    if (!holder) return node('user', { jid }, [node('error', { code: 404, text: 'item-not-found' })])
    return node('user', { jid, t: nowSeconds() }, [
      node('registration', {}, uint(holder.registrationId, 4)),
      node('type', {}, Buffer.from([5])),
      node('identity', {}, holder.identityKey),
      ...(holder.preKey ? [keyNode('key', holder.preKey)] : []),
      keyNode('skey', holder.signedPreKey),
    ])
  }

  #usync(link, query, what) {
    const asked = children(child(what, 'query'))
    const users = childrenOf(child(what, 'list'), 'user').map((user) => this.#userInfo(user, asked)).filter(Boolean)
    return answer(link, query, [node('usync', { ...what.attrs }, [
      node('result', {}, asked.map(({ tag }) => node(tag, {}))), node('list', {}, users),
    ])])
  }

  #userInfo(user, asked) {
    const contact = child(user, 'contact')
    const typed = contact && bytes(contact)?.toString()
    const wanted = user.attrs.jid ?? typed?.replace(/^\+/, '')
    if (!wanted) return null
    const phone = this.edge.accounts.reachPhone(wanted)
    const usable = phone?.registered
    const byLid = asked.some(({ tag, attrs }) => tag === 'contact' && attrs.addressing_mode === 'lid')
    const jid = user.attrs.jid ?? (byLid && usable ? phone.lidJid : `${parseJid(wanted).user}@s.whatsapp.net`)
    const facts = { jid, pn_jid: user.attrs.jid || !usable ? null : phone.jid }
    return node('user', facts, asked.map(({ tag }) => {
      if (tag === 'contact') return node('contact', { type: usable ? 'in' : 'out' }, typed ? Buffer.from(typed) : undefined)
      if (!usable) return null
      if (tag === 'lid') return node('lid', { val: phone.lidJid })
      if (tag === 'devices') return this.#deviceList(phone)
      if (tag === 'status') return node('status', { t: nowSeconds() }, Buffer.from(phone.name))
      return null
    }).filter(Boolean))
  }

  #deviceList(phone) {
    const linked = [...phone.devices.values()]
    return node('devices', {}, [node('device-list', {}, [
      node('device', { id: 0 }), ...linked.map(({ id, keyIndex }) => node('device', { id, 'key-index': keyIndex })),
    ])])
  }

  #linkedDevices(link, query, what) {
    answer(link, query)
    if (what?.tag === 'remove-companion-device') {
      this.edge.remove(link.device, 'client')
      this.edge.accounts.flush()
    }
  }

  #media(link, query) {
    return answer(link, query, [node('media_conn', {
      auth: 'sandbox', ttl: MEDIA_TTL_SECONDS, auth_ttl: MEDIA_TTL_SECONDS, max_buckets: 12,
    }, [node('host', { hostname: MEDIA_HOST, type: 'primary', class: 'mmg' })])])
  }

  #appState(link, query, what) {
    const collections = childrenOf(what, 'collection').map(({ attrs }) => {
      const { version, patches } = collectionSince(link.device.phone, attrs.name, Number(attrs.version ?? 0))
      return node('collection', { name: attrs.name, version, has_more_patches: false },
        patches.length ? [node('patches', {}, patches.map((patch) => node('patch', {}, patch)))] : undefined)
    })
    return answer(link, query, [node('sync', {}, collections)])
  }

  #blocklist(link, query) {
    return answer(link, query, [node('list', { dhash: '0' }, [])])
  }

  #privacy(link, query) {
    return answer(link, query, [node('privacy', {}, PRIVACY.map((name) => node('category', { name, value: 'all' })))])
  }

  #picture(link, query) {
    return refuse(link, query, 404, 'item-not-found')
  }

  #groups(link, query, what) {
    if (what?.tag === 'participating') return answer(link, query, [node('groups', {}, [])])
    return refuse(link, query, 404, 'item-not-found')
  }

  #properties(link, query) {
    return answer(link, query, [node('props', { protocol: 1, hash: 'sandbox', refresh: 86_400 }, [])])
  }
}

function answerEmpty(link, query) {
  answer(link, query)
}

