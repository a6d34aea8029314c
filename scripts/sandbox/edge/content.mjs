// What is inside a message: reading the text and the attachment out of it, and making one.
import { proto } from 'baileys/WAProto/index.js'

const { Type } = proto.Message.ProtocolMessage
const MEDIA = {
  imageMessage: 'image', videoMessage: 'video', audioMessage: 'audio',
  documentMessage: 'document', stickerMessage: 'sticker',
}
const WRAPPERS = [
  'ephemeralMessage', 'viewOnceMessage', 'viewOnceMessageV2', 'documentWithCaptionMessage', 'editedMessage',
]

function unwrap(message) {
  for (const name of WRAPPERS) {
    if (message[name]?.message) return unwrap(message[name].message)
  }
  return message
}

function readProtocol({ type, key, editedMessage }, store) {
  if (type === Type.REVOKE) return { kind: 'revoke', text: null, target: key?.id }
  if (type === Type.MESSAGE_EDIT) return { kind: 'edit', text: readContent(editedMessage, store).text, target: key?.id }
  return { kind: 'protocol', text: null, protocol: type }
}

/** {kind, text, media?}; text is null when there is none. */
export function readContent(message, store) {
  const inner = unwrap(message)
  const field = Object.keys(MEDIA).find((name) => inner[name])
  if (field) {
    const media = inner[field]
    return {
      kind: MEDIA[field],
      text: media.caption || null,
      media: {
        kind: MEDIA[field], mimetype: media.mimetype || null, file_name: media.fileName || null,
        ...store.describe(MEDIA[field], media),
      },
    }
  }
  if (inner.conversation) return { kind: 'text', text: inner.conversation }
  if (inner.extendedTextMessage) return { kind: 'text', text: inner.extendedTextMessage.text }
  if (inner.reactionMessage) {
    return { kind: 'reaction', text: inner.reactionMessage.text, target: inner.reactionMessage.key?.id }
  }
  if (inner.locationMessage) {
    const { degreesLatitude: latitude, degreesLongitude: longitude, name } = inner.locationMessage
    return { kind: 'location', text: name || null, location: { latitude, longitude } }
  }
  const poll = inner.pollCreationMessage ?? inner.pollCreationMessageV2 ?? inner.pollCreationMessageV3
  if (poll) return { kind: 'poll', text: poll.name, options: poll.options.map(({ optionName }) => optionName) }
  if (inner.protocolMessage) return readProtocol(inner.protocolMessage, store)
  return { kind: Object.keys(inner).find((key) => key !== 'messageContextInfo') ?? 'empty', text: null }
}

/**
 * Make a text, a media message with its attachment put into the store first, or what the caller
 * has made: `content`, the fields of a protobuf Message.
 */
export function makeContent({ text, media, content: made }, store) {
  if (made) return { type: 'text', message: made }
  if (media) {
    const { field, content } = store.prepare(media, text)
    return { type: 'media', mediatype: media.type ?? 'document', message: { [field]: content } }
  }
  if (typeof text !== 'string') throw new Error('a message needs "text" or "media"')
  return { type: 'text', message: { conversation: text } }
}

export const encodeMessage = (message) => Buffer.from(proto.Message.encode(proto.Message.fromObject(message)).finish())
export const decodeMessage = (plain) => proto.Message.decode(plain)
