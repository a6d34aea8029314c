// One loopback port: an HTTP CONNECT proxy that leads WhatsApp's hosts to this process and
// refuses every other host. A connection that begins with TLS is taken as it is.
import net from 'node:net'

const HOSTS = /^([a-z0-9-]+\.)*whatsapp\.(com|net)$/i
const TLS_HANDSHAKE = 22
const HEAD_LIMIT = 16_384

export function createProxy({ tlsServer, faults, trace, totals }) {
  function handOver(socket) {
    totals.tunnels++
    const later = faults.roundTripMs()
    if (later) setTimeout(() => tlsServer.emit('connection', socket), later)
    else tlsServer.emit('connection', socket)
  }

  function reject(socket, status, text) {
    socket.end(`HTTP/1.1 ${status}\r\nContent-Type: text/plain\r\nContent-Length: ${text.length + 1}\r\n`
      + `Connection: close\r\n\r\n${text}\n`)
  }

  function connect(socket, head, rest) {
    const [method, target = ''] = head.split('\r\n', 1)[0].split(' ')
    const [host, port] = target.split(':')
    if (method !== 'CONNECT' || !HOSTS.test(host) || port !== '443') {
      trace.add('proxy-refused', { method, target })
      return reject(socket, '403 Forbidden', `the sandbox only leads to WhatsApp, not to ${method} ${target}`)
    }
    if (faults.network.refuse) {
      trace.add('connection-refused', { target })
      return reject(socket, '502 Bad Gateway', 'the sandbox refuses connections now')
    }
    if (rest.length) socket.unshift(rest)
    const proceed = () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
      handOver(socket)
    }
    if (faults.swallowsEverything()) return holdBack(socket, proceed)
    const later = faults.roundTripMs()
    return later ? setTimeout(proceed, later) : proceed()
  }

  function holdBack(socket, proceed) {
    trace.add('connection', { phase: 'black-hole' })
    totals.held++
    // Reading goes on, or the end of the connection would not be noticed.
    const kept = []
    const keep = (chunk) => kept.push(chunk)
    socket.on('data', keep)
    socket.resume()
    const letGo = () => {
      totals.held--
      socket.off('data', keep)
      socket.off('close', onClose)
    }
    const release = faults.hold('*', () => {
      letGo()
      socket.pause()
      if (kept.length) socket.unshift(Buffer.concat(kept))
      proceed()
    })
    const onClose = () => {
      letGo()
      release()
    }
    socket.once('close', onClose)
  }

  return net.createServer({ noDelay: true }, (socket) => {
    let head = Buffer.alloc(0)
    socket.on('error', (error) => trace.add('socket-error', { error: error.message }))
    const onData = (chunk) => {
      head = Buffer.concat([head, chunk])
      if (head[0] === TLS_HANDSHAKE) {
        socket.off('data', onData)
        socket.pause()
        if (faults.network.refuse) return socket.destroy()
        socket.unshift(head)
        if (faults.swallowsEverything()) return holdBack(socket, () => handOver(socket))
        return handOver(socket)
      }
      const end = head.indexOf('\r\n\r\n')
      if (end < 0) return head.length > HEAD_LIMIT ? socket.destroy() : undefined
      socket.off('data', onData)
      socket.pause()
      return connect(socket, head.toString('latin1', 0, end), head.subarray(end + 4))
    }
    socket.on('data', onData)
  })
}
