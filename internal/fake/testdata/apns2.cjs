// apns2 as a provider: see node-apn.cjs. Its port is always 443, so its pool of connections is replaced by one
// of the same make to the fake.
'use strict';
const {readFileSync} = require('node:fs');
const {ApnsClient, Notification, PushType, Priority} = require('apns2');
const {Pool} = require('undici');

async function main(origin, key, keyId, team, topic, device, gone) {
	const client = new ApnsClient({team, keyId, signingKey: readFileSync(key), defaultTopic: topic});
	await client.client.close();
	client.client = new Pool(origin, {connections: 32, pipelining: 1, allowH2: true, maxConcurrentStreams: 100});
	const send = (to, options) => client.send(new Notification(to, options)).then(() => 'sent', err => err.reason ?? String(err));
	const results = [];
	results.push(await send(device, {
		alert: {title: 'Ann', body: 'Grüße 🐎'}, badge: 3, sound: 'default', expiration: 2000000000, collapseId: 'mail', data: {folder: 'INBOX'},
	}));
	results.push(await send(device, {type: PushType.background, contentAvailable: true, priority: Priority.throttled}));
	results.push(...await Promise.all(Array.from({length: 100}, (_, i) => send(device, {alert: String(i)}))));
	results.push(await send(gone, {alert: 'x'}));
	results.push(await send(device, {alert: 'x', topic: 'com.example.other'}));
	results.push(await send(device, {alert: 'x'.repeat(5000)}));
	await client.destroy();
	process.stdout.write(JSON.stringify(results) + '\n');
}

main(...process.argv.slice(2));
