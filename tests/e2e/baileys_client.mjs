// A bot on Baileys, driven by a test: node baileys_client.mjs SANDBOX_JSON BAILEYS_ENTRY SESSION_FOLDER
// Says what happens, one JSON object a line. Each line of input is a text to send:
// {"to": jid, "text": text}. Never reconnects but after a pairing; ends with its input.
import fs from 'node:fs'
import https from 'node:https'
import readline from 'node:readline'
import { pathToFileURL } from 'node:url'

const [factsFile, entry, folder] = process.argv.slice(2)
const facts = JSON.parse(fs.readFileSync(factsFile, 'utf8'))
const say = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`)
for (const level of ['log', 'info', 'warn', 'error']) console[level] = () => {} // libsignal prints sessions

const { makeWASocket, DisconnectReason, useMultiFileAuthState } = await import(pathToFileURL(entry))
const silent = { level: 'silent', child: () => silent }
for (const level of ['trace', 'debug', 'info', 'warn', 'error', 'fatal']) silent[level] = () => {}
const writing = new Set() // it writes files in place: an end in between leaves half of one
let socket

const whole = (write) => (...args) => {
  const done = write(...args).finally(() => writing.delete(done))
  writing.add(done)
  return done
}

async function connect() {
  const { state, saveCreds } = await useMultiFileAuthState(folder)
  state.keys.set = whole(state.keys.set)
  socket = makeWASocket({
    auth: state, waWebSocketUrl: facts.edge_url, logger: silent,
    agent: new https.Agent({ ca: fs.readFileSync(facts.ca_file) }),
  })
  socket.ev.on('creds.update', whole(saveCreds))
  socket.ev.on('connection.update', ({ connection, qr, lastDisconnect }) => {
    const code = lastDisconnect?.error?.output?.statusCode
    if (qr) say('qr', { qr })
    if (connection === 'open') say('open')
    if (connection === 'close' && code === DisconnectReason.restartRequired) connect()
    else if (connection === 'close') say('closed', { code })
  })
  socket.ev.on('messages.upsert', ({ messages }) => {
    for (const { message } of messages) if (message?.conversation) say('message', { text: message.conversation })
  })
}

readline.createInterface({ input: process.stdin })
  .on('line', (line) => {
    const { to, text } = JSON.parse(line)
    socket.sendMessage(to, { text }).then(({ key }) => say('sent', { id: key.id }), (error) => say('failed', { error: String(error) }))
  })
  .on('close', async () => {
    await socket.end()
    while (writing.size) await Promise.allSettled([...writing])
    process.exit()
  })
await connect()
