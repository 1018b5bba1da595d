// What browsers' own EventSource and WebSocket see of the real binary: resuming across a drain and
// a restart, close codes they can read, foreign origins. Run it with `node tests/browser/clients.mjs`.

import assert from 'node:assert/strict';
import http from 'node:http';
import { after, before, test } from 'node:test';

import { Browser } from './browser.mjs';
import { both, channel, generator, keyPolicy, memory, receive, streamApi } from './documents.mjs';
import { Kafka } from './kafka.mjs';
import { eventually } from './process.mjs';
import { createKey, Sluice } from './sluice.mjs';

const TOPIC = 'orders.v1';
const EXPECTED = { expected: [/ERR_CONNECTION_REFUSED|ERR_INCOMPLETE|WebSocket connection to|Failed to load resource/] };

let browser;
let sluice;
let kafka;
let key;

before(async () => {
  [kafka, browser] = await Promise.all([Kafka.start(), Browser.start()]);
  await kafka.createTopic(TOPIC, 3);
  const created = createKey('shop-keys');
  key = created.key;
  const log = `{name: log, kafka: {brokers: ["${kafka.broker}"]}}`;
  sluice = await Sluice.start(
    streamApi('shop', [log, generator(20), memory], [
      channel('orders', 'log', both), channel('ticks', 'events', receive), channel('private', 'board', both),
    ]) + keyPolicy('shop', ['private'], created.secret)
    + streamApi('retired', [memory], [channel('old', 'board', receive)], 'lifecycle: {state: Blocked}'),
    ['--drain-grace', '2s'],
  );
});

after(async () => {
  await browser?.stop();
  await sluice?.stop();
  await kafka?.stop();
});

// A page of `origin` that does nothing of its own.
async function blank(t, origin = sluice.origin) {
  const page = await browser.page(t, EXPECTED);
  await page.goto(`${origin}${origin === sluice.origin ? '/-/console.css' : '/'}`);
  return page;
}

test('EventSource resumes across a drain and a restart without a gap', async (t) => {
  const page = await blank(t);
  await page.evaluate((url) => {
    window.got = [];
    window.told = [];
    window.opens = 0;
    const source = new EventSource(url);
    source.onopen = () => { window.opens++; };
    source.onmessage = ({ data }) => { const { id, key, data: { n } } = JSON.parse(data); window.got.push({ id, key, n }); };
    for (const name of ['gap', 'throttled', 'drain', 'problem']) source.addEventListener(name, ({ data }) => window.told.push([name, data]));
  }, sluice.url('/shop/orders?format=envelope'));
  await page.waitForFunction(() => window.opens === 1);

  let next = 0;
  const publish = async (count) => {
    for (let at = 0; at < count; at++, next++) {
      await sluice.publish('/shop/orders', JSON.stringify({ n: next }), { 'content-type': 'application/json', 'message-key': `k${next % 5}` });
    }
  };
  const complete = () => eventually(`all ${next} messages arrived`, () => page.evaluate((least) => new Set(window.got.map(({ id }) => id)).size >= least, next));
  await publish(40);
  await complete();

  for (let round = 1; round <= 2; round++) {
    await sluice.stop();
    await sluice.launch();
    await publish(40); // Some before the browser is back: it must get them from its position on.
    await complete();
    await page.waitForFunction((least) => window.opens > least, round);
  }

  const { got, told } = await page.evaluate(() => ({ got: window.got, told: window.told }));
  assert.deepEqual(told.filter(([name]) => name === 'gap' || name === 'problem'), []);
  assert.ok(told.some(([name]) => name === 'drain'), 'the drain was told');
  const first = new Map();
  for (const message of got) if (!first.has(message.id)) first.set(message.id, message);
  assert.equal(first.size, next, 'every message, and none invented');
  for (const wanted of ['k0', 'k1', 'k2', 'k3', 'k4']) {
    const numbers = [...first.values()].filter((message) => message.key === wanted).map(({ n }) => n);
    assert.deepEqual(numbers, numbers.toSorted((one, other) => one - other), 'in order per key');
  }
});

const encoded = (text) => Buffer.from(text).toString('base64url');
const closes = [
  { name: 'no key', at: '/shop/private', code: 4401 },
  { name: 'a wrong key', at: '/shop/private', protocols: ['sluice.v1.json', `sluice.key.${encoded('slk_wrong')}`], code: 4401 },
  { name: 'a blocked API', at: '/retired/old', code: 4410 },
  { name: 'an unknown channel', at: '/shop/nothing', code: 4404 },
  { name: 'a cursor that is none', at: '/shop/ticks?cursor=nonsense', code: 4400 },
  { name: 'a frame that is none', at: '/shop/private', protocols: () => ['sluice.v1.json', `sluice.key.${encoded(key)}`], send: '{"type":"dance"}', told: 'error' },
];

for (const { name, at, protocols = ['sluice.v1.json'], code, send, told } of closes) {
  test(`a WebSocket sees why: ${name}`, async (t) => {
    const page = await blank(t);
    const offered = typeof protocols === 'function' ? protocols() : protocols;
    const seen = await page.evaluate(([url, names, frame]) => new Promise((resolve) => {
      const frames = [];
      const socket = new WebSocket(url, names);
      socket.onopen = () => { if (frame) socket.send(frame); };
      socket.onmessage = ({ data }) => {
        frames.push(JSON.parse(data));
        if (frames.some(({ type }) => type === 'error')) { socket.close(); resolve({ frames, protocol: socket.protocol }); }
      };
      socket.onclose = ({ code, reason }) => resolve({ frames, code, reason, protocol: socket.protocol });
    }), [sluice.url(at).replace('http', 'ws'), offered, send]);
    if (told) {
      assert.equal(seen.frames.at(-1).type, told);
      assert.ok(seen.frames.at(-1).detail);
    } else {
      assert.equal(seen.code, code);
      assert.ok(seen.reason.length > 5, 'with a reason');
    }
    assert.ok(!seen.protocol.startsWith('sluice.key.'), 'a key is never echoed');
  });
}

// A browser fails a connection whose every subprotocol goes unanswered, and a key is never echoed:
// so here it is the plain 400 before the upgrade.
test('a key offered without a real subprotocol opens nothing', async (t) => {
  const page = await blank(t);
  const seen = await page.evaluate(([url, protocol]) => new Promise((resolve) => {
    const socket = new WebSocket(url, [protocol]);
    socket.onopen = () => resolve('open');
    socket.onclose = ({ code }) => resolve(code);
  }), [sluice.url('/shop/private').replace('http', 'ws'), `sluice.key.${encoded(key)}`]);
  assert.equal(seen, 1006);
});

test('a drain closes a WebSocket with 1012 after its frame, and the cursor goes on', async (t) => {
  const page = await blank(t);
  await page.evaluate((url) => {
    window.frames = [];
    window.connect = (cursor) => {
      const socket = new WebSocket(cursor ? `${url}?cursor=${cursor}` : url, ['sluice.v1.json']);
      socket.onmessage = ({ data }) => window.frames.push(JSON.parse(data));
      socket.onclose = ({ code, reason }) => window.frames.push({ type: 'closed', code, reason });
    };
    window.connect();
  }, sluice.url('/shop/orders').replace('http', 'ws'));
  await page.waitForFunction(() => window.frames.some(({ type }) => type === 'ready'));
  await sluice.publish('/shop/orders', '{"n": "before"}');
  await page.waitForFunction(() => window.frames.some(({ data }) => data?.n === 'before'));
  await sluice.stop();
  await page.waitForFunction(() => window.frames.some(({ type }) => type === 'closed'));
  const frames = await page.evaluate(() => window.frames.splice(0));
  assert.equal(frames.at(-1).code, 1012);
  const drain = frames.at(-2);
  assert.equal(drain.type, 'drain');
  assert.ok(drain.retryAfterMs >= 0);

  await sluice.launch();
  await sluice.publish('/shop/orders', '{"n": "after"}');
  await page.evaluate((cursor) => window.connect(cursor), drain.cursor);
  await page.waitForFunction(() => window.frames.some(({ data }) => data?.n === 'after'));
  const resumed = await page.evaluate(() => window.frames);
  assert.equal(resumed[0].type, 'ready');
  assert.deepEqual(resumed.filter(({ type }) => type === 'gap' || type === 'error'), []);
});

test('a page of a foreign origin reaches nothing', async (t) => {
  const foreign = http.createServer((_, response) => { response.setHeader('content-type', 'text/html'); response.end('<!doctype html><title>foreign</title>'); });
  await new Promise((resolve) => foreign.listen(0, '127.0.0.1', resolve));
  t.after(() => new Promise((resolve) => { foreign.closeAllConnections(); foreign.close(resolve); }));
  const page = await browser.page(t, { expected: [/./] });
  await page.goto(`http://127.0.0.1:${foreign.address().port}/`);
  const seen = await page.evaluate(async ([url, socketUrl]) => ({
    fetched: await fetch(url, { headers: { accept: 'text/event-stream' } }).then(({ status }) => status, () => 'refused'),
    published: await fetch(url, { method: 'POST', body: '{}', headers: { 'content-type': 'text/plain' } }).then(({ status }) => status, () => 'refused'),
    socket: await new Promise((resolve) => {
      const socket = new WebSocket(socketUrl, ['sluice.v1.json']);
      socket.onopen = () => resolve('open');
      socket.onclose = ({ code }) => resolve(code);
    }),
    source: await new Promise((resolve) => {
      const source = new EventSource(url);
      source.onopen = () => resolve('open');
      source.onerror = () => resolve(source.readyState);
    }),
  }), [sluice.url('/shop/orders'), sluice.url('/shop/orders').replace('http', 'ws')]);
  assert.deepEqual(seen, { fetched: 'refused', published: 'refused', socket: 1006, source: 2 });
});
