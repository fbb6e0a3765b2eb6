// The road draws one journey. A mail takes a few milliseconds, so its way is played in slow motion:
// the coach drives from stop to stop, and each stop lights up with its measured time.

// millis writes microseconds as milliseconds, with decimals where they say something.
export function millis(us) {
  const ms = us / 1000
  return `${ms >= 10 ? ms.toFixed(0) : ms >= 1 ? ms.toFixed(1) : ms.toFixed(2)} ms`
}

const stops = ['mail', 'notify', 'answer', 'push', 'phone']
const perStop = 330 // ms from one stop to the next

export class Road {
  // passed is called with the journey and the time at the last stop that is lit, arrived with the
  // journey when the coach is at the phone.
  constructor(svg, passed, arrived) {
    this.passed = passed
    this.arrived = arrived
    this.done = svg.querySelector('#done')
    this.coach = svg.querySelector('#coach')
    this.stops = stops.map(name => svg.querySelector(`[data-hop=${name}]`))
    this.still = matchMedia('(prefers-reduced-motion: reduce)')
    this.clear()
  }

  clear() {
    cancelAnimationFrame(this.frame)
    this.frame = 0
    this.journey = null
    this.place(-1)
    this.coach.classList.remove('going')
    for (const s of this.stops) {
      s.classList.remove('lit', 'just', 'bad')
      s.querySelector('[data-at]').textContent = ''
      s.querySelector('[data-took]').textContent = ''
    }
  }

  // draw shows a journey's present state; play drives there, otherwise it stands there at once.
  draw(j, play) {
    if (this.journey?.id !== j.id) {
      const before = this.journey
      this.clear()
      if (before?.shown) this.arrived(before) // a coach still under way arrives now
    }
    this.journey = j
    // The last stop that was passed; a push without a mail begins at the push service.
    this.goal = Math.max(...j.hops.map(h => stops.indexOf(h.name)))
    if (!play || this.still.matches || document.hidden) {
      cancelAnimationFrame(this.frame)
      this.frame = 0
      this.at = this.goal
      this.light()
      this.place(this.at)
      return
    }
    this.light()
    if (this.frame === 0) {
      this.at = Math.max(this.at, 0)
      this.light()
      let last = performance.now()
      const step = now => {
        this.at = Math.min(this.goal, this.at + (now - last) / perStop)
        last = now
        this.place(this.at)
        this.light()
        this.coach.classList.toggle('going', this.at < this.goal)
        this.frame = this.at < this.goal ? requestAnimationFrame(step) : 0
      }
      this.frame = requestAnimationFrame(step)
    }
  }

  // place paints the road up to a stop, or to a place between two; -1 paints nothing.
  place(at) {
    this.at = at
    this.done.classList.toggle('none', at < 0)
    this.done.style.strokeDashoffset = 400 - Math.max(at, 0) * 100
    // The four parts of the path are congruent, so a stop is a quarter of its length.
    const p = this.done.getPointAtLength(this.done.getTotalLength() * Math.max(at, 0) / 4)
    this.coach.setAttribute('transform', `translate(${p.x} ${p.y})`)
  }

  // light lights the stops up to the present place.
  light() {
    const j = this.journey
    let before = 0
    let last = 0
    stops.forEach((name, i) => {
      const hop = j.hops.find(h => h.name === name)
      const s = this.stops[i]
      if (hop && i <= this.at && !s.classList.contains('lit')) {
        s.classList.add('lit')
        if (this.frame !== 0) s.classList.add('just')
        s.querySelector('[data-at]').textContent = millis(hop.at_us)
        s.querySelector('[data-took]').textContent = i === 0 || !j.via ? ''
          : hop.at_us < before ? 'meanwhile' : `+${millis(hop.at_us - before)}` // a push may overtake the answer
        if (name === 'mail') s.querySelector('[data-note]').textContent = `takes the mail by ${j.via}`
      }
      if (hop && i <= this.at) last = hop.at_us
      if (hop) before = hop.at_us
      s.classList.toggle('bad', Boolean(j.problem) && i === this.goal + 1)
    })
    this.passed(j, last)
    if (j.shown && this.at >= 4) this.arrived(j)
  }
}
