// AsyncAPI documents of the real binary, held against the official schema (@asyncapi/specs): needs no
// browser, only what npm fetched. Run it with `node tests/browser/asyncapi.mjs`.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { both, channel, generator, keyPolicy, memory, receive, streamApi } from './documents.mjs';
import { fetched } from './process.mjs';
import { createKey, printed, Sluice } from './sluice.mjs';

const Ajv = fetched('ajv').default;
const formats = fetched('ajv-formats').default;
// The other one has an $id that is also that of JSON Schema's own schema inside it.
const schema = fetched('@asyncapi/specs/schemas/3.0.0-without-$id.json');
const fits = formats(new Ajv({ strict: false })).compile(schema);

let sluice;
let key;

before(async () => {
  const created = createKey('shop-keys');
  key = created.key;
  const lone = 'publish: {transports: {http: {}}, contentTypes: [text/plain, application/json]}';
  // References of its own lead there wherever the schema stands.
  const payload = '{type: object, properties: {lines: {type: array, items: {$ref: "#/$defs/line"}}}, $defs: {line: {type: string}}}';
  const everything = streamApi('shop', [generator(20), memory], [
    channel('orders', 'events', `description: "Every *order*, as \\"it\\" is placed."\n${receive}`),
    channel('notes', 'board', both),
    channel('typed', 'board', lone),
    channel('private', 'board', both.replace('}}}\n', '}}, formats: [envelope, cloudevents]}\n')),
    `
    - {name: elsewhere, server: board, address: there, path: /a/b~c, message: {name: "urn:x/y~z", payload: ${payload}}, ${receive}}`,
  ], 'description: Orders of a small shop.\nbasePath: /small/shop');
  const deprecated = 'lifecycle: {state: Deprecated, deprecatedAt: "2026-01-31T00:00:00Z", sunsetAt: "2027-01-31T00:00:00Z", link: "https://shop.example/next?a=b#c"}';
  sluice = await Sluice.start(everything + keyPolicy('shop', ['private'], created.secret)
    + streamApi('old', [memory], [channel('all', 'board', receive)], deprecated));
});

after(async () => { await sluice?.stop(); });

// What the schema cannot see: references lead somewhere, and an operation's messages are its channel's.
function isWhole(document) {
  const find = ({ $ref }) => {
    const found = $ref.slice(2).split('/').reduce((at, name) => at?.[name.replaceAll('~1', '/').replaceAll('~0', '~')], document);
    assert.ok(found, `${$ref} leads nowhere`);
    return found;
  };
  for (const { servers = [] } of Object.values(document.channels)) servers.forEach(find);
  for (const { channel: at, messages, security = [] } of Object.values(document.operations)) {
    find(at);
    security.forEach(find);
    for (const message of messages) {
      const { payload } = find(message);
      if (payload) find(payload.schema.properties.lines.items);
      assert.ok(message.$ref.startsWith(`${at.$ref}/messages/`), message.$ref);
    }
  }
}

function isValid(document) {
  assert.ok(fits(document), JSON.stringify(fits.errors?.slice(0, 5), null, 1));
  isWhole(document);
}

for (const [who, headers, channels] of [
  ['anybody', () => ({}), ['elsewhere', 'notes', 'orders', 'typed']],
  ['the holder of a key', () => ({ 'x-api-key': key }), ['elsewhere', 'notes', 'orders', 'private', 'typed']],
]) {
  test(`what ${who} is served is valid`, async () => {
    const list = await (await fetch(sluice.url('/-/asyncapi'), { headers: headers() })).json();
    assert.deepEqual(list.apis.map(({ name }) => name), ['old', 'shop']);
    for (const { asyncapi } of list.apis) {
      const response = await fetch(sluice.url(asyncapi), { headers: headers() });
      assert.equal(response.headers.get('content-type'), 'application/vnd.aai.asyncapi+json;version=3.0.0');
      isValid(await response.json());
    }
    const shop = await (await fetch(sluice.url('/-/asyncapi/default/shop'), { headers: headers() })).json();
    assert.deepEqual(Object.keys(shop.channels).sort(), channels);
  });
}

test('what the command line prints is valid, with servers and without', () => {
  for (const urls of [[], ['--url', 'https://streams.example/edge', '--url', 'https://b.example', '--url', 'http://[::1]:8080']]) {
    isValid(JSON.parse(printed('asyncapi', '-f', sluice.file, '--api', 'default/shop', ...urls).stdout));
  }
});

test('the schema sees what is wrong', () => {
  const document = JSON.parse(printed('asyncapi', '-f', sluice.file, '--api', 'default/shop').stdout);
  for (const spoil of [
    (it) => { it.operations['notes.publish.http'].action = 'publish'; },
    (it) => { it.operations['notes.publish.http'].bindings.http.method = 'SEND'; },
    (it) => { it.channels.notes.bindings.ws.method = 'PUT'; },
    (it) => { it.components.securitySchemes.apiKey.in = 'body'; },
    (it) => { delete it.info.version; },
  ]) {
    const spoilt = structuredClone(document);
    spoil(spoilt);
    assert.ok(!fits(spoilt), spoil.toString());
  }
});
