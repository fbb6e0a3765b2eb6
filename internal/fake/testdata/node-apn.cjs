// @parse/node-apn as a provider: ORIGIN KEYFILE KEYID TEAMID TOPIC DEVICE GONE. It sends to the fake as its
// manual says, and writes what it made of the answers as a line of JSON: "sent", or Apple's reason.
'use strict';
const apn = require('@parse/node-apn');

async function main(origin, key, keyId, teamId, topic, device, gone) {
	const {hostname, port} = new URL(origin);
	const provider = new apn.Provider({token: {key, keyId, teamId}, address: hostname, port: Number(port)});
	const send = async (to, fields) => {
		const {sent, failed} = await provider.send(Object.assign(new apn.Notification(), {topic, ...fields}), to);
		if (sent.length > 0) return 'sent';
		return failed[0].response ? failed[0].response.reason : String(failed[0].error);
	};
	const results = [];
	results.push(await send(device, {
		alert: {title: 'Ann', body: 'Grüße 🐎'}, badge: 3, sound: 'default', expiry: 2000000000, priority: 10, collapseId: 'mail', pushType: 'alert',
		payload: {folder: 'INBOX'},
	}));
	results.push(await send(device, {contentAvailable: true, priority: 5, pushType: 'background'}));
	results.push(...await Promise.all(Array.from({length: 100}, (_, i) => send(device, {alert: String(i), pushType: 'alert'}))));
	results.push(await send(gone, {alert: 'x', pushType: 'alert'}));
	results.push(await send(device, {alert: 'x', pushType: 'alert', topic: 'com.example.other'}));
	results.push(await send(device, {alert: 'x'.repeat(5000), pushType: 'alert'}));
	await provider.shutdown();
	process.stdout.write(JSON.stringify(results) + '\n');
}

main(...process.argv.slice(2));
