// The drawn phone: a lock screen with its clock, the newest notifications, and the badge.
import { glyph, make } from './dom.js'

const $ = id => document.getElementById(id)
const most = 3 // notifications that fit on the lock screen

export class Phone {
  constructor() {
    this.shown = new Set()
    this.entries = [] // newest first: {id, item, time, when}
    this.tick()
    setInterval(() => this.tick(), 5000)
  }

  clear() {
    this.shown.clear()
    this.entries = []
    $('notes').replaceChildren()
    this.badge('')
  }

  // show puts a journey's notification on the lock screen, once; it says whether it was new.
  show(j, quietly = false) {
    if (!j.shown || this.shown.has(j.id)) return false
    this.shown.add(j.id)
    const time = make('time', {}, 'now')
    const item = make('li', { class: quietly ? 'note' : 'note new' },
      make('span', { class: 'glyph', 'aria-hidden': 'true' }, glyph('horn')),
      make('div', { class: 'says' },
        make('div', { class: 'who' }, make('span', {}, j.shown.title), time),
        make('div', { class: 'what' }, j.shown.body)))
    const at = this.entries.findIndex(e => e.id < j.id)
    const entry = { id: j.id, item, time, when: Date.parse(j.accepted) }
    this.entries.splice(at < 0 ? this.entries.length : at, 0, entry)
    this.entries.length = Math.min(this.entries.length, most)
    $('notes').replaceChildren(...this.entries.map(e => e.item))
    if (this.entries[0] === entry) this.badge(j.shown.badge ?? '', !quietly)
    if (!quietly) {
      const p = $('phone')
      p.classList.remove('buzz')
      void p.offsetWidth // begins the animation again
      p.classList.add('buzz')
    }
    this.tick()
    return true
  }

  badge(text, bump) {
    const b = $('badge')
    b.textContent = text
    b.hidden = text === '' || text === '0'
    b.classList.remove('bump')
    if (bump) {
      void b.offsetWidth
      b.classList.add('bump')
    }
    $('badge-words').textContent = `Posthorn: ${b.hidden ? 'no' : text} unread mail`
  }

  tick() {
    const now = new Date()
    $('clock').textContent = now.toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit', hour12: false })
    $('date').textContent = now.toLocaleDateString(undefined, { weekday: 'long', day: 'numeric', month: 'long' })
    for (const e of this.entries) {
      const minutes = Math.floor((now - e.when) / 60000)
      e.time.textContent = minutes < 1 ? 'now' : minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`
    }
  }
}
