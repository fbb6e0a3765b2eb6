// make returns an element with attributes and children.
export function make(tag, attributes, ...children) {
  const e = document.createElement(tag)
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v)
  e.append(...children)
  return e
}

// glyph returns one of the page's drawings, by the id of its symbol.
export function glyph(id) {
  const space = 'http://www.w3.org/2000/svg'
  const svg = document.createElementNS(space, 'svg')
  const use = svg.appendChild(document.createElementNS(space, 'use'))
  use.setAttribute('href', `#${id}`)
  return svg
}
