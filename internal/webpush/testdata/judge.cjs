// The push service of the npm package web-push-testing, without its HTTP server: its keys, its check of the
// VAPID header, its decryption (http_ece). Started with our VAPID key and a number of subscriptions; it writes
// each of those as a line of JSON, reads messages from stdin, and in the end writes its judgement as a line.
//
// A message is two blocks, a head in JSON and a body, each after its length in four octets.
'use strict';
const {createHash} = require('node:crypto');
const ece = require('http_ece');
const {PushApiModel} = require('web-push-testing/src/PushApiModel.js');

// The service keeps messages as text; the octets are what we compare.
let plain;
const decrypt = ece.decrypt;
ece.decrypt = (...args) => (plain = decrypt(...args));

async function* blocks(stream) {
	let have = Buffer.alloc(0);
	for await (const chunk of stream) {
		have = Buffer.concat([have, chunk]);
		while (have.length >= 4 && have.length >= 4 + have.readUInt32BE(0)) {
			const end = 4 + have.readUInt32BE(0);
			yield have.subarray(4, end);
			have = have.subarray(end);
		}
	}
	if (have.length > 0) throw new Error('half a block at the end');
}

async function main(applicationServerKey, subscriptions) {
	const model = new PushApiModel();
	model.notifyUrl = 'https://push.example.net/notify/';
	for (let i = 0; i < Number(subscriptions); i++) {
		process.stdout.write(JSON.stringify(await model.subscribe({userVisibleOnly: 'true', applicationServerKey})) + '\n');
	}
	let good = 0;
	const bad = [];
	const input = blocks(process.stdin);
	for (;;) {
		const {value: head, done} = await input.next();
		if (done) break;
		const {endpoint, headers, sha256} = JSON.parse(head);
		const {value: body} = await input.next();
		try {
			await model.handleNotification(endpoint.slice(model.notifyUrl.length), headers, body);
			if (createHash('sha256').update(plain).digest('hex') !== sha256) throw new Error('decrypted to something else');
			good++;
		} catch (err) {
			bad.push(body.length + ' octets: ' + err.message);
		}
		model.messages = {};
	}
	process.stdout.write(JSON.stringify({good, bad: bad.slice(0, 10), count: bad.length}) + '\n');
}

main(...process.argv.slice(2));
