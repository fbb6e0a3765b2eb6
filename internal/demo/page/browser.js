// A real Web Push subscription of this browser, made through Posthorn's public API like any app's.
// The page's server hands /api/v1/ on to Posthorn.
import { millis } from './road.js'

const client = 'posthorn-demo-browser'

// Without the internet a browser may wait for its push service for ever; ms.
const patience = 20000

export function realNotifications(button, text, info, journeys) {
  const offered = 'serviceWorker' in navigator && 'PushManager' in window && 'Notification' in window
  if (!offered) {
    button.disabled = true
    text.textContent = isSecureContext
      ? 'This browser offers no Web Push here (a private window, perhaps, or iOS outside the home screen). The drawn phone has a real subscription of its own.'
      : 'Browsers offer Web Push only on https or on this very machine. The drawn phone has a real subscription of its own.'
    return
  }
  navigator.serviceWorker.addEventListener('message', e => {
    const j = [...journeys().values()].find(j => j.uid === e.data.uid && j.uidvalidity === e.data.uidvalidity)
    const took = j ? e.data.at - Date.parse(j.accepted) : -1
    text.textContent = took >= 0 ? `This browser had the notification ${millis(took * 1000)} after the mail server had the mail.` : 'This browser has the notification.'
  })

  let on = null // how to switch it off again
  button.onclick = async () => {
    button.disabled = true
    try {
      if (on) {
        await on()
        on = null
        button.textContent = 'Use this browser’s real notifications'
        text.textContent = 'Switched off.'
      } else {
        text.textContent = 'Asking your browser …'
        on = await subscribe(info())
        button.textContent = 'Stop real notifications'
        text.textContent = 'Subscribed. Send a mail: it comes by your browser’s own push service as well.'
      }
    } catch (err) {
      text.textContent = explain(err)
    } finally {
      button.disabled = false
    }
  }
}

async function subscribe(info) {
  if (await Notification.requestPermission() !== 'granted') throw new Error('denied')
  const { items } = await api('GET', 'transports')
  const key = items.find(t => t.transport === 'webpush').vapid_public_key
  const worker = await navigator.serviceWorker.register('sw.js')
  await navigator.serviceWorker.ready
  const old = await worker.pushManager.getSubscription()
  await old?.unsubscribe() // it belongs to another run's key
  const subscription = await Promise.race([
    worker.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: bytes(key) }),
    new Promise((resolve, reject) => setTimeout(() => reject(new DOMException('no push service', 'AbortError')), patience))
  ])
  const { token } = await api('POST', 'sessions', { login: info.login, password: info.password, client })
  const made = await api('POST', 'subscriptions', { client, transport: 'webpush', topics: ['mail:new'], token: subscription.toJSON() }, token)
  return async () => {
    await api('DELETE', `subscriptions/${made.id}`, undefined, token)
    await api('DELETE', 'sessions/current', undefined, token)
    await subscription.unsubscribe()
  }
}

async function api(method, path, body, token) {
  const headers = {}
  if (body) headers['Content-Type'] = 'application/json'
  if (token) headers.Authorization = `Bearer ${token}`
  const res = await fetch(`api/v1/${path}`, { method, headers, body: body && JSON.stringify(body) })
  if (!res.ok) throw new Error((await res.json().catch(() => ({}))).detail ?? `Posthorn answered ${res.status}`)
  return res.status === 204 ? null : res.json()
}

function bytes(base64url) {
  return Uint8Array.from(atob(base64url.replace(/-/g, '+').replace(/_/g, '/')), c => c.charCodeAt(0))
}

function explain(err) {
  const rest = ' The drawn phone goes on as before.'
  if (err.message === 'denied' || err.name === 'NotAllowedError') return 'Your browser does not allow this page notifications. You can change that in its settings for this page.' + rest
  if (err.name === 'AbortError' || err.name === 'NotSupportedError') return 'Your browser could not reach its push service: some builds have none, and all need the internet.' + rest
  return `That did not work: ${err.message}.${rest}`
}
