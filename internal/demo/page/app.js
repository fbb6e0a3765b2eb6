// The page's state comes from one event stream: "hello" says who is there, "journey" carries the
// present state of one mail's way. A reconnected stream sends everything again, so nothing is kept
// here that could be out of date.
import { make } from './dom.js'
import { millis, Road } from './road.js'
import { Phone } from './phone.js'
import { realNotifications } from './browser.js'

const $ = id => document.getElementById(id)
const journeys = new Map() // by id
let info = null
let selected = 0 // the id of the journey that the road shows
let following = true // false once the reader picked an older one

const phone = new Phone()
const road = new Road($('road'), (j, us) => {
  $('total').textContent = j.problem || j.covered ? '–' : millis(us)
}, j => {
  if (phone.show(j)) speak(j)
})

function speak(j) {
  const total = timeOf(j, 'phone')
  $('spoken').textContent = `Notification on the phone: ${j.shown.title}: ${j.shown.body}.` +
    (j.shown.badge ? ` ${j.shown.badge} unread.` : '') +
    (j.via ? ` ${millis(total)} after the mail was accepted.` : '')
}

const timeOf = (j, name) => j.hops.find(h => h.name === name)?.at_us

function connect() {
  const events = new EventSource('events')
  events.addEventListener('hello', e => {
    const fresh = JSON.parse(e.data)
    if (info && info.run !== fresh.run) { // another demo answers now
      journeys.clear()
      phone.clear()
      road.clear()
      selected = 0
      following = true
      drawPast()
      drawRoad(null)
    }
    info = fresh
    drawInfo()
    $('live').classList.add('on')
    $('live-text').textContent = 'Live'
  })
  events.addEventListener('journey', e => journey(JSON.parse(e.data)))
  events.onerror = () => {
    $('live').classList.remove('on')
    $('live-text').textContent = 'Connection lost, trying again'
    if (events.readyState === EventSource.CLOSED) { // the browser gave up; we do not
      events.close()
      setTimeout(connect, 2000)
    }
  }
}

// A mail that was under way longer than this ago is history: it is drawn, not played.
const playable = 4000 // ms

function journey(j) {
  const known = journeys.get(j.id)
  if (known && JSON.stringify(known) === JSON.stringify(j)) return // sent again by a new stream
  const newest = !known && j.id > Math.max(0, ...journeys.keys())
  journeys.set(j.id, j)
  for (const id of journeys.keys()) {
    if (journeys.size > 30) journeys.delete(id)
    else break
  }
  const play = Date.now() - Date.parse(j.accepted) < playable
  if (newest && (following || play)) {
    following = true
    selected = j.id
  }
  if (j.id === selected) {
    road.draw(j, play)
    drawRoad(j)
  } else if (j.shown) {
    if (phone.show(j, !play) && play) speak(j)
  }
  drawPast()
}

const stopNames = {
  mail: 'Mail server', notify: 'Notification sent', answer: 'Posthorn answered', push: 'Push service', phone: 'Phone'
}

function drawRoad(j) {
  if (!j) $('total').textContent = '–'
  $('total-note').hidden = Boolean(j && !j.via)
  $('which').textContent = !j ? 'No mail yet. The five stops light up as it passes.'
    : j.via ? `${j.subject || 'No subject'} — ${name(j.from) || 'unknown sender'}` : 'A push without a mail'
  $('road-error').textContent = !j ? ''
    : j.problem ? `It ended here: ${j.problem}.`
      : j.covered && !j.shown ? 'No push of its own: a newer mail came first, and only the newest state is sent.' : ''
  $('road-words').textContent = !j ? 'Mail server, notification, Posthorn, push service, phone.'
    : j.hops.map(h => `${stopNames[h.name]} after ${millis(h.at_us)}`).join(', ')
}

const name = from => from.replace(/\s*<[^>]*>\s*$/, '').replace(/^"(.*)"$/, '$1') || from.replace(/[<>]/g, '')
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' })

function drawPast() {
  const list = $('past')
  const items = [...journeys.values()].sort((a, b) => b.id - a.id).map(j => {
    const from = j.via ? name(j.from) : j.shown?.title ?? ''
    const total = timeOf(j, 'phone')
    const button = make('button', { type: 'button', 'aria-pressed': String(j.id === selected) },
      make('span', { class: 'face', 'aria-hidden': 'true' }, [...from][0]?.toUpperCase() ?? '?'),
      make('span', { class: 'name' }, from || 'unknown sender'),
      j.problem ? make('span', { class: 'took bad' }, 'not pushed')
        : make('span', { class: 'took' }, total !== undefined ? millis(total) : j.covered ? 'covered by a newer one' : 'on its way'),
      make('span', { class: 'about' }, (j.via ? j.subject : j.shown?.body) || 'No subject'),
      make('span', { class: 'when' }, clock.format(new Date(j.accepted))))
    button.onclick = () => {
      selected = j.id
      following = j.id === Math.max(...journeys.keys())
      road.draw(j, false)
      drawRoad(j)
      drawPast()
      $('past').children[items.findIndex(li => li.dataset.id === String(j.id))]?.firstChild.focus()
    }
    return make('li', { 'data-id': j.id }, button)
  })
  const focused = list.contains(document.activeElement) ? document.activeElement.parentNode.dataset.id : null
  list.replaceChildren(...items)
  if (focused) items.find(li => li.dataset.id === focused)?.firstChild.focus()
  $('past-empty').hidden = items.length > 0
}

function drawInfo() {
  for (const e of document.querySelectorAll('[data-info]')) e.textContent = info[e.dataset.info]
  $('curl').textContent = `printf '%s\\n' \\
  'From: Ada <ada@example.org>' \\
  'Subject: Grüße ☕' '' 'Hello!' |
curl --crlf -T - smtp://${info.smtp} \\
  --mail-from ada@example.org \\
  --mail-rcpt ${info.login}`
  $('swaks').textContent = `swaks --server ${info.smtp} \\
  --from ada@example.org \\
  --to ${info.login} \\
  --header 'Subject: Grüße ☕' \\
  --body 'Hello!'`
}

// The form: a sample after the other, unless the reader writes something else.
const samples = [
  ['Jürgen Weiß <juergen@example.org>', 'Café um drei? ☕', 'Ich bringe Kuchen mit. Bis gleich!'],
  ['Zoë Ångström <zoe@example.org>', 'The 17:42 is late again', 'Start without me, I will be there at half past.'],
  ['Łukasz Nowak <lukasz@example.org>', 'Zdjęcia z gór ☀', 'Piękna pogoda, zobacz sam.'],
  ['Post Office <parcels@example.org>', 'Your parcel is here ✉', 'Counter 3, until six o’clock.'],
  ['Amélie Dubois <amelie@example.org>', 'Répétition ce soir ♫', 'Le cor, ce soir à vingt heures.']
]
let sample = 0
const fields = ['from', 'subject', 'text'].map($)
const fill = () => fields.forEach((f, i) => { f.value = samples[sample][i] })

$('compose').addEventListener('submit', async e => {
  e.preventDefault()
  const [from, subject, text] = fields.map(f => f.value)
  $('form-error').textContent = ''
  $('send').disabled = true
  try {
    const res = await fetch('send', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ from, subject, text })
    })
    if (!res.ok) throw new Error((await res.json().catch(() => ({}))).detail ?? `the demo answered ${res.status}`)
    if (fields.every((f, i) => f.value === samples[sample][i])) {
      sample = (sample + 1) % samples.length
      fill()
    }
  } catch (err) {
    $('form-error').textContent = err instanceof TypeError ? 'The demo does not answer. Is it still running?' : `Not sent: ${err.message}.`
  } finally {
    $('send').disabled = false
  }
})

for (const b of document.querySelectorAll('[data-copy]')) {
  b.onclick = async () => {
    const source = $(b.dataset.copy)
    try {
      await navigator.clipboard.writeText(source.textContent)
      b.textContent = 'Copied'
    } catch { // no permission: select it, so that the keyboard can copy
      getSelection().selectAllChildren(source)
      b.textContent = 'Selected'
    }
    setTimeout(() => { b.textContent = 'Copy' }, 1600)
  }
}

fill()
drawPast()
realNotifications($('real'), $('real-text'), () => info, () => journeys)
connect()
