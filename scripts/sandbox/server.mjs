// Wires the edge together, listens, and says where. Started by sandbox.py.
import fs from 'node:fs'
import https from 'node:https'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { WebSocketServer } from 'ws'
import { Accounts } from './edge/accounts.mjs'
import { Admin } from './edge/admin.mjs'
import { Counters } from './edge/counters.mjs'
import { Edge } from './edge/edge.mjs'
import { Faults } from './edge/faults.mjs'
import { Ledger, writeAtomically } from './edge/ledger.mjs'
import { MediaStore } from './edge/media.mjs'
import { NoiseIdentity } from './edge/noise.mjs'
import { Post } from './edge/post.mjs'
import { createProxy } from './edge/proxy.mjs'
import { Trace } from './edge/trace.mjs'

const PARENT_CHECK_MS = 500

const { values: options } = parseArgs({
  options: {
    'state-dir': { type: 'string' },
    'admin-port': { type: 'string' },
    'proxy-port': { type: 'string' },
    'python-path': { type: 'string' },
    'outlive-parent': { type: 'boolean', default: false },
  },
})
const stateDir = options['state-dir']
const at = (...parts) => path.join(stateDir, ...parts)

// libsignal prints whole sessions, keys included, to the console.
for (const level of ['info', 'warn', 'error']) console[level] = () => {}
const log = (text) => process.stderr.write(`${new Date().toISOString()} ${text}\n`)

function build() {
  const faults = new Faults()
  const trace = new Trace()
  const accounts = new Accounts(new Ledger(at('phones')))
  const counters = new Counters(new Ledger(at('counters')))
  const media = new MediaStore(at('media'), trace)
  const post = new Post({ file: at('messages.jsonl'), accounts, counters, faults, trace, media })
  const identity = new NoiseIdentity(fs.readFileSync(at('keys', 'noise-root.key')))
  return new Edge({ identity, accounts, counters, faults, trace, post, media })
}

function createTlsServer(edge) {
  const websockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: 1 << 26 })
  const credentials = { key: fs.readFileSync(at('tls', 'server.key')), cert: fs.readFileSync(at('tls', 'server.pem')) }
  const server = https.createServer(credentials, (request, response) => edge.media.serve(request, response))
  server.on('upgrade', (request, socket, head) => {
    const accept = () => websockets.handleUpgrade(request, socket, head, (websocket) => edge.accept(socket, websocket))
    const later = edge.faults.roundTripMs()
    if (later) setTimeout(accept, later)
    else accept()
  })
  server.on('tlsClientError', (error) => edge.trace.add('tls-error', { error: error.message }))
  return server
}

/** Listen on the port that was asked for; else on the last one, when it is free; else on any. */
function listen(server, asked, last) {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => {
      if (error.code !== 'EADDRINUSE' || asked || !last) reject(error)
      else resolve(listen(server))
    })
    server.listen(Number(asked ?? last ?? 0), '127.0.0.1', () => resolve(server.address().port))
  })
}

function readPorts() {
  try {
    return JSON.parse(fs.readFileSync(at('ports.json'), 'utf8'))
  } catch (error) {
    if (error.code === 'ENOENT') return {}
    throw error
  }
}

function endWith(edge) {
  let ending = false
  const end = (why) => {
    if (ending) return
    ending = true
    log(`ending: ${why}`)
    edge.accounts.flush()
    edge.counters.ledger.flush()
    fs.rmSync(at('sandbox.json'), { force: true })
    process.exit(0)
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => end(signal))
  if (!options['outlive-parent']) {
    const parent = process.ppid
    setInterval(() => process.ppid !== parent && end('the parent process is gone'), PARENT_CHECK_MS)
  }
}

const edge = build()
const tlsServer = createTlsServer(edge)
const proxy = createProxy({ tlsServer, faults: edge.faults, trace: edge.trace, totals: edge.totals })
const admin = new Admin(edge, {
  onReset() {
    for (const link of edge.links.values()) link.destroy()
    edge.accounts.clear()
    edge.counters.reset()
    edge.faults.reset()
    edge.post.clear()
  },
})
const ports = readPorts()
const proxyPort = await listen(proxy, options['proxy-port'], ports.proxy)
const adminPort = await listen(admin.server, options['admin-port'], ports.admin)
writeAtomically(at('ports.json'), JSON.stringify({ proxy: proxyPort, admin: adminPort }))
endWith(edge)
const facts = {
  admin_url: `http://127.0.0.1:${adminPort}`,
  proxy_url: `http://127.0.0.1:${proxyPort}`,
  edge_url: `wss://127.0.0.1:${proxyPort}/ws/chat`,
  ca_file: at('tls', 'ca.pem'),
  python_path: options['python-path'],
  pid: process.pid,
}
writeAtomically(at('sandbox.json'), JSON.stringify(facts, null, 2))
process.stdout.write(`sandbox ready ${facts.admin_url}\n`)
