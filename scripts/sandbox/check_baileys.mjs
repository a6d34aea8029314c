// Check the sandbox with Baileys as the client: node check_baileys.mjs STATE_DIR
// Pairs by QR code, logs in, sends and receives; exit code 0 when everything works.
import fs from 'node:fs'
import https from 'node:https'
import os from 'node:os'
import path from 'node:path'
import makeWASocket, { DisconnectReason, useMultiFileAuthState } from 'baileys'
import pino from 'pino'

for (const level of ['info', 'warn', 'error']) console[level] = () => {} // libsignal prints sessions
const DEADLINE_MS = 20_000
const CONTACT = '5511988887777'
const facts = JSON.parse(fs.readFileSync(path.join(process.argv[2], 'sandbox.json'), 'utf8'))

async function post(where, body) {
  const response = await fetch(facts.admin_url + where, { method: 'POST', body: JSON.stringify(body) })
  const answer = await response.json()
  if (!response.ok) throw new Error(`${where}: ${answer.error}`)
  return answer
}

async function connect(folder, on) {
  const { state, saveCreds } = await useMultiFileAuthState(folder)
  const socket = makeWASocket({
    auth: state, waWebSocketUrl: facts.edge_url, logger: pino({ level: process.env.LOG ?? 'silent' }),
    agent: new https.Agent({ ca: fs.readFileSync(facts.ca_file) }),
  })
  socket.ev.on('creds.update', saveCreds)
  socket.ev.on('connection.update', async ({ connection, qr, lastDisconnect }) => {
    if (qr) on.qr(qr, socket)
    if (connection === 'open') on.open(socket)
    const code = lastDisconnect?.error?.output?.statusCode
    if (connection === 'close' && code === DisconnectReason.restartRequired) await connect(folder, on)
    else if (connection === 'close') on.closed(code)
  })
  socket.ev.on('messages.upsert', ({ messages }) => messages.forEach((message) => on.message(message)))
}

function step(name, start) {
  return new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`${name}: nothing happened in time`)), DEADLINE_MS)
    start(resolve, reject)
  })
}

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'sandbox-baileys-'))
const on = { qr() {}, open() {}, closed() {}, message() {} }
try {
  let jid
  const socket = await step('pairing', (resolve, reject) => {
    on.qr = (qr) => {
      on.qr = () => {}
      post('/api/scan', { qr }).then((paired) => { jid = paired.jid }, reject)
    }
    on.open = resolve
    connect(folder, on).catch(reject)
  })
  console.log(`ok  pairing and login as ${jid}`)
  const { key } = await socket.sendMessage(`${CONTACT}@s.whatsapp.net`, { text: 'from Baileys' })
  await step('the text of the bot', async (resolve) => {
    for (let seq = 0; ;) {
      const events = await (await fetch(`${facts.admin_url}/api/events?after=${seq}&timeout=15`)).json()
      if (events.some((event) => event.type === 'message' && event.id === key.id)) return resolve()
      seq = events.at(-1)?.seq ?? seq
    }
  })
  console.log('ok  a message from the bot')
  await step('the text of the phone', (resolve, reject) => {
    on.message = (message) => message.message?.conversation === 'from the phone' && resolve()
    post('/api/messages', { jid, from: CONTACT, text: 'from the phone' }).catch(reject)
  })
  console.log('ok  a message to the bot')
  await step('being unlinked', (resolve, reject) => {
    on.closed = (code) => (code === DisconnectReason.loggedOut ? resolve() : reject(new Error(`closed with ${code}`)))
    post('/api/unlink', { jid }).catch(reject)
  })
  console.log('ok  unlinked')
  process.exitCode = 0
} catch (error) {
  process.stderr.write(`FAILED  ${error.message}\n`)
  process.exitCode = 1
} finally {
  fs.rmSync(folder, { recursive: true, force: true })
  process.exit()
}
