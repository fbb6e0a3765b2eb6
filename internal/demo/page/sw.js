// Shows Posthorn's pushes as this browser's notifications. Browsers that know Declarative Web Push
// show them without this worker.
addEventListener('install', () => skipWaiting())
addEventListener('activate', e => e.waitUntil(clients.claim()))

addEventListener('push', e => {
  const at = Date.now()
  let push
  try {
    push = e.data.json()
  } catch {
    push = { notification: { title: 'New mail' } }
  }
  const n = push.notification
  const badge = Number(push.app_badge)
  e.waitUntil(Promise.all([
    registration.showNotification(n.title, { body: n.body, tag: n.tag, icon: 'icon.svg', data: { ...n.data, navigate: n.navigate } }),
    Number.isInteger(badge) && navigator.setAppBadge ? navigator.setAppBadge(badge).catch(() => {}) : null,
    clients.matchAll({ type: 'window' }).then(all => all.forEach(c => c.postMessage({ at, uid: n.data?.uid, uidvalidity: n.data?.uidvalidity })))
  ]))
})

addEventListener('notificationclick', e => {
  e.notification.close()
  e.waitUntil(clients.matchAll({ type: 'window' }).then(all => all.length ? all[0].focus() : clients.openWindow('./')))
})
