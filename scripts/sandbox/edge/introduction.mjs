// What a phone tells a device it has just been linked to: the key of the app state, under which
// the account's settings are kept. The one setting here is the account's own name, without which
// a client cannot announce its presence.
import { randomBytes } from 'node:crypto'
import { proto } from 'baileys/WAProto/index.js'
import { encodeSyncdPatch, newLTHashState } from 'baileys/lib/Utils/chat-utils.js'
import { encodeMessage } from './content.mjs'

const NAME_COLLECTION = 'critical_block'
const { SyncdOperation } = proto.SyncdMutation

/** The account's app state: one key, and one patch that holds its name. Made once, then kept. */
async function appStateOf(phone) {
  if (phone.appState) return phone.appState
  const keyId = randomBytes(6)
  const keyData = randomBytes(32)
  const change = {
    type: NAME_COLLECTION, index: ['setting_pushName'], apiVersion: 1, operation: SyncdOperation.SET,
    syncAction: { timestamp: Date.now(), pushNameSetting: { name: phone.name } },
  }
  const { patch, state } = await encodeSyncdPatch(change, keyId.toString('base64'), newLTHashState(), () => ({ keyData }))
  const encoded = proto.SyncdPatch.encode(proto.SyncdPatch.fromObject({ ...patch, version: { version: state.version } }))
  phone.appState = {
    keyId: keyId.toString('base64'), keyData: keyData.toString('base64'), version: state.version,
    patch: Buffer.from(encoded.finish()).toString('base64'),
  }
  return phone.appState
}

/** The peer message that hands over the app state key. */
export async function keyShare(phone) {
  const { keyId, keyData } = await appStateOf(phone)
  return encodeMessage({
    protocolMessage: {
      type: proto.Message.ProtocolMessage.Type.APP_STATE_SYNC_KEY_SHARE,
      appStateSyncKeyShare: {
        keys: [{
          keyId: { keyId },
          keyData: {
            keyData, timestamp: Date.now(),
            fingerprint: { rawId: phone.registrationId, currentIndex: 0, deviceIndexes: [0] },
          },
        }],
      },
    },
  })
}

/** {version, patches} of a collection for a device that has it up to a version. */
export function collectionSince(phone, name, version) {
  if (name !== NAME_COLLECTION || !phone.appState) return { version, patches: [] }
  const { patch, version: latest } = phone.appState
  return { version: latest, patches: version < latest ? [Buffer.from(patch, 'base64')] : [] }
}
