// The phone page. A QR text may also come from outside, so that a code on another page is
// "scanned" with one click: as ?qr=<text>[&number=<number>][&auto=1], or as a message
// {type: "sandbox-qr", qr, number?, auto?} from a page of this machine; the answer is a message
// {type: "sandbox-linked", jid} or {type: "sandbox-error", error}.
const $ = (id) => document.getElementById(id)
const LOCAL = /^https?:\/\/(127\.0\.0\.1|localhost|\[::1\])(:\d+)?$/
const REFRESHING = new Set(['connection', 'login', 'paired', 'unlinked', 'disconnected', 'replaced', 'pair-code-requested'])

let state = { phones: [], connections: [] }
let selected = new URLSearchParams(location.search).get('number') ?? localStorage.getItem('sandbox-phone')
let partner = localStorage.getItem('sandbox-partner') ?? ''
const messages = new Map() // message id -> {from, to, text, at}

async function call(path, body) {
  const response = await fetch(path, body && { method: 'POST', body: JSON.stringify(body) })
  const answer = await response.json()
  if (!response.ok) throw new Error(answer.error)
  return answer
}

function notice(text, bad = false) {
  $('notice').textContent = text
  $('notice').classList.toggle('bad', bad)
}

/** Do something for the user: say how it went, and show the new state. */
async function act(text, work) {
  notice('…')
  try {
    const result = await work()
    notice(text)
    await refresh()
    return result
  } catch (error) {
    notice(error.message, true)
    throw error
  }
}

const quietly = (promise) => promise.catch(() => {}) // act() has told the user already

function element(tag, attributes = {}, ...content) {
  const made = document.createElement(tag)
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made) made[key] = value
    else made.setAttribute(key, value)
  }
  made.append(...content)
  return made
}

const phone = () => state.phones.find(({ number }) => number === selected)
const digits = (text) => text.replace(/\D/g, '')
const numberOf = (jid) => jid.split('@')[0].split(':')[0]

async function refresh() {
  state = await call('/api/state')
  if (!phone()) selected = state.phones[0]?.number ?? null
  render()
}

function render() {
  $('phones').replaceChildren(...state.phones.slice(0, 400).map(phoneItem))
  $('totals').textContent = `${state.phones.length} phones, ${state.connections.length} open connections`
  const current = phone()
  $('name').textContent = current?.name ?? 'No phone yet'
  $('number').textContent = current ? `+${current.number}` : ''
  $('avatar').textContent = current?.name.slice(0, 1).toUpperCase() ?? ''
  renderDevices(current)
  renderChat(current)
}

function phoneItem({ number, name, devices }) {
  const connected = devices.some((device) => device.connected)
  const label = element('span', {}, name, element('small', {}, `+${number}`))
  const dot = element('span', { className: connected ? 'dot on' : 'dot', title: connected ? 'a device is connected' : '' })
  const pressed = String(number === selected)
  const choose = element('button', { type: 'button', 'aria-pressed': pressed }, label, ...(devices.length ? [dot] : []))
  choose.addEventListener('click', () => {
    selected = number
    localStorage.setItem('sandbox-phone', number)
    render()
  })
  return element('li', {}, choose)
}

function renderDevices(current) {
  const items = (current?.devices ?? []).map((device) => {
    const unlink = element('button', { type: 'button', className: 'danger' }, 'Unlink')
    unlink.addEventListener('click', () => quietly(act('Unlinked.', () => call('/api/unlink', { jid: device.jid }))))
    const since = `linked ${new Date(device.paired_at).toLocaleString()}`
    return element('li', { 'data-jid': device.jid }, element('span', { className: device.connected ? 'dot on' : 'dot' }),
      element('div', {}, `Device ${device.jid.split(':')[1].split('@')[0]} · ${device.connected ? 'connected' : 'not connected'}`,
        element('small', {}, device.backlog ? `${since} · ${device.backlog} waiting` : since)), unlink)
  })
  $('device-list').replaceChildren(...(items.length ? items : [element('li', { className: 'empty' }, 'No linked devices.')]))
  const asking = state.connections.filter(({ number }) => number).map(({ number }) => `+${number}`)
  $('code-hint').textContent = asking.length ? `Waiting for a code: ${asking.join(', ')}` : 'No client asks for a code now.'
}

function renderChat(current) {
  const others = state.phones.filter(({ number }) => number !== selected)
  $('numbers').replaceChildren(...others.map(({ number, name }) => element('option', { value: number }, name)))
  if (!partner) partner = others.find(({ devices }) => devices.length)?.number ?? ''
  if (document.activeElement !== $('partner')) $('partner').value = partner
  const talk = [...messages.values()].filter(({ from, to }) => current
    && ((from === selected && to === partner) || (from === partner && to === selected)))
  const items = talk.sort((a, b) => a.at.localeCompare(b.at)).map(({ from, text, at }) => element('li',
    { className: from === selected ? 'mine' : '' }, text, element('small', {}, new Date(at).toLocaleTimeString())))
  $('messages').replaceChildren(...(items.length ? items : [element('li', { className: 'empty' }, 'No messages yet.')]))
  $('messages').lastElementChild?.scrollIntoView({ block: 'nearest' })
}

// ---- linking --------------------------------------------------------------------------

async function link(qr) {
  if (!qr.trim()) throw new Error('There is no QR text yet.')
  const { jid } = await act('Linked.', () => call('/api/scan', { qr: qr.trim(), ...(selected ? { number: selected } : {}) }))
  selected = numberOf(jid)
  document.forms.scan.reset()
  await refresh()
  return jid
}

async function readPicture(file) {
  if (!('BarcodeDetector' in window)) {
    throw new Error('This browser cannot read QR pictures; paste the text of the code instead.')
  }
  const [code] = await new BarcodeDetector({ formats: ['qr_code'] }).detect(await createImageBitmap(file))
  if (!code) throw new Error('There is no QR code in this picture.')
  return code.rawValue
}

const scanPicture = (file) => readPicture(file).then(link).catch((error) => notice(error.message, true))

document.forms.scan.addEventListener('submit', (event) => {
  event.preventDefault()
  link(event.target.elements.qr.value).catch((error) => notice(error.message, true))
})
$('picture').addEventListener('change', ({ target }) => target.files[0] && scanPicture(target.files[0]))
document.addEventListener('paste', (event) => {
  const file = [...event.clipboardData.files].find(({ type }) => type.startsWith('image/'))
  if (file) scanPicture(file)
})
for (const type of ['dragover', 'dragleave', 'drop']) {
  $('scan').addEventListener(type, (event) => {
    event.preventDefault()
    $('scan').classList.toggle('over', type === 'dragover')
    if (type === 'drop' && event.dataTransfer.files[0]) scanPicture(event.dataTransfer.files[0])
  })
}
document.forms.code.addEventListener('submit', (event) => {
  event.preventDefault()
  const code = event.target.elements.code.value
  const asking = state.connections.map(({ number }) => number).filter(Boolean)
  const number = asking.length === 1 && !asking.includes(selected) ? asking[0] : selected
  quietly(act('Linked.', () => call('/api/pair-code', { code, number })).then(() => event.target.reset()))
})

/** A QR text that came from another page: shown, or linked at once when it asks for that. */
async function offer({ qr, number, auto }) {
  if (number) selected = digits(number)
  showTab('devices')
  document.forms.scan.elements.qr.value = qr
  if (auto) return link(qr)
  notice('A page offers this code: press "Link this device".')
  $('link-device').focus()
  return null
}

window.addEventListener('message', (event) => {
  if (event.data?.type !== 'sandbox-qr' || !LOCAL.test(event.origin)) return
  const reply = (answer) => event.source?.postMessage(answer, event.origin)
  offer(event.data).then((jid) => jid && reply({ type: 'sandbox-linked', jid }),
    (error) => reply({ type: 'sandbox-error', error: error.message }))
})

// ---- phones and chat ------------------------------------------------------------------

$('new-phone').addEventListener('submit', (event) => {
  event.preventDefault()
  const { name, number } = event.target.elements
  const body = { name: name.value, ...(number.value ? { number: digits(number.value) } : {}) }
  quietly(act('Added.', () => call('/api/phones', body)).then((made) => {
    selected = made.number
    event.target.reset()
    render()
  }))
})
$('partner').addEventListener('input', ({ target }) => {
  partner = digits(target.value)
  localStorage.setItem('sandbox-partner', partner)
  renderChat(phone())
})
document.forms.send.addEventListener('submit', (event) => {
  event.preventDefault()
  const { text } = event.target.elements
  if (!text.value || !selected) return
  quietly(act('Sent.', () => call('/api/messages', { from: selected, jid: partner, text: text.value }))
    .then(() => event.target.reset()))
})

function showTab(name) {
  for (const tab of document.querySelectorAll('.tab')) tab.hidden = tab.id !== name
  for (const button of document.querySelectorAll('[data-tab]')) button.classList.toggle('active', button.dataset.tab === name)
}
for (const button of document.querySelectorAll('[data-tab]')) button.addEventListener('click', () => showTab(button.dataset.tab))

// ---- living with the sandbox ----------------------------------------------------------

function remember(event) {
  const { id, direction, jid, from, to, text, kind, at } = event
  const ends = direction === 'out' ? [from, jid] : [jid, to]
  messages.set(id, { from: numberOf(ends[0]), to: numberOf(ends[1]), text: text ?? `[${kind}]`, at })
}

async function follow() {
  let seq = 0
  for (const { id, from_jid: jid, to, text, kind, at } of await call('/api/messages')) remember({ id, jid, to, text, kind, at })
  for (;;) {
    try {
      const events = await call(`/api/events?after=${seq}&timeout=30`)
      seq = events.at(-1)?.seq ?? seq
      for (const event of events) if (event.type === 'message') remember(event)
      if (events.some(({ type }) => REFRESHING.has(type))) await refresh()
      else if (events.some(({ type }) => type === 'message')) renderChat(phone())
    } catch {
      notice('The sandbox does not answer; trying again.', true)
      await new Promise((resolve) => setTimeout(resolve, 2000))
      seq = 0
    }
  }
}

await refresh()
const query = new URLSearchParams(location.search)
if (query.has('qr')) {
  history.replaceState(null, '', '/')
  const offered = { qr: query.get('qr'), number: query.get('number'), auto: query.get('auto') === '1' }
  offer(offered).catch((error) => notice(error.message, true))
}
follow()
