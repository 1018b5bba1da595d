// The page: puts catalogue, stream, list and panels together. Owns what a person chose (channel,
// transport, format, keys) and nothing of the wire.

import { Catalogue, hashOf } from './catalogue.js';
import { decode } from './decode.js';
import { inspect } from './inspect.js';
import { HISTORY, Messages } from './messages.js';
import { $, announce, colourCode, copies, copyButton, element, write } from './page.js';
import { answered, lost, publishHttp, publishWebSocket } from './publish.js';
import { snippets } from './snippets.js';
import { Stream } from './stream.js';

const FORMAT_NAMES = { envelope: 'Envelope', raw: 'Raw payload', cloudevents: 'CloudEvents' };

const keys = new Map(); // By API, in memory only.
let shown = null; // { api, channel }
let drawn = '';
let stream = null;
let cut = false; // Live once and then cut off: coming back is worth a line.

const messages = new Messages((entry) => {
  inspect(entry);
  if (entry) openTab('inspect');
});
const catalogue = new Catalogue({ changed: route, answers: (yes) => { if (yes) stream?.hurry(); } });

const apiKey = () => (shown.channel.authentication === 'apiKeys' ? keys.get(keyOf(shown.api)) ?? '' : '');
const keyOf = (api) => `${api.namespace}/${api.name}`;
const urlOf = (channel) => new URL(channel.path, location.origin).href;
const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;

// --- which channel ---------------------------------------------------------------------------

function route() {
  const found = catalogue.current();
  catalogue.mark();
  closeNav();
  const same = found && shown && hashOf(found.api, found.channel) === hashOf(shown.api, shown.channel);
  if (!same) leave();
  if (!found) return blank();
  $('empty').hidden = true;
  $('channel').hidden = false;
  shown = found;
  const now = JSON.stringify([found.api.lifecycle, found.channel]);
  if (!same || now !== drawn) {
    drawn = now;
    drawChannel(!same);
  }
  if (!same) enter();
}

function leave() {
  stream?.stop();
  stream = null;
  shown = null;
  messages.clear();
}

function blank() {
  $('channel').hidden = true;
  $('empty').hidden = false;
  const served = catalogue.all().length > 0;
  write($('empty-title'), served ? 'No such channel' : 'No channel is served yet');
  write($('empty-text'), served ? 'The address names a channel that is not served (any more). Choose one from the list.'
    : 'Add a StreamAPI to the file that sluice run watches; it appears here by itself.');
  document.title = 'Sluice console';
}

// A channel without a key starts at once: something moves before anything was clicked.
function enter() {
  inspect(null);
  $('result').replaceChildren();
  $('key').value = apiKey();
  showState('idle', idleWords(shown.channel));
  openTab(shown.channel.publish ? 'publish' : 'code');
  if (shown.channel.subscribe && (shown.channel.authentication === 'none' || apiKey())) connect();
}

const idleWords = (channel) => (!channel.subscribe ? 'Takes messages, gives none'
  : channel.authentication === 'apiKeys' ? 'Enter an API key, then connect' : 'Not connected');

// --- the channel's head and controls ---------------------------------------------------------

function drawChannel(fresh) {
  const { api, channel } = shown;
  document.title = `${channel.name} · ${api.name} · Sluice console`;
  write($('channel-name'), channel.name);
  write($('path'), urlOf(channel));
  write($('about'), channel.description ?? '');
  const facts = [channel.serverKind, channel.address, channel.contentType,
    channel.authentication === 'apiKeys' ? 'API key' : 'no key needed'];
  $('facts').replaceChildren(...facts.filter(Boolean).map((fact) => element('li', {}, fact)));
  const { lifecycle } = api;
  $('lifecycle').hidden = lifecycle === 'Published';
  $('lifecycle').classList.toggle('bad', lifecycle === 'Blocked');
  write($('lifecycle'), lifecycle === 'Blocked' ? 'This API is blocked: every client is refused until it is published again.'
    : 'This API is deprecated: it still serves, but look for its successor.');
  drawSubscribe(channel, fresh);
  drawPublish(channel, fresh);
  drawActions(channel);
}

function offer(name, available, preferred) {
  const wanted = available.includes(chosen(name)) ? chosen(name) : preferred;
  for (const input of document.querySelectorAll(`input[name="${name}"]`)) {
    input.closest('label').hidden = !available.includes(input.value);
    input.checked = input.value === wanted;
  }
}

function drawSubscribe(channel, fresh) {
  const { subscribe } = channel;
  const ways = ['sse', 'websocket'].filter((way) => subscribe?.[way]);
  offer('transport', ways, ways[0]);
  const formats = ['envelope', 'raw', 'cloudevents'].filter((format) => subscribe?.formats.includes(format));
  const format = fresh || !formats.includes($('format').value) ? formats[0] : $('format').value;
  $('format').replaceChildren(...formats.map((name) => element('option', { value: name, selected: name === format }, FORMAT_NAMES[name])));
  $('key-box').hidden = channel.authentication !== 'apiKeys';
  document.querySelector('.stream').classList.toggle('publish-only', !subscribe);
  $('connect').disabled = !subscribe;
  write($('bound'), subscribe ? `The last ${HISTORY} are kept.` : 'Clients cannot subscribe to this channel: it has no subscribe part.');
}

function drawPublish(channel, fresh) {
  const ways = ['http', 'websocket'].filter((way) => channel.publish?.[way]);
  offer('publish-transport', ways, ways[0]);
  $('publish').hidden = ways.length === 0;
  $('publish-none').hidden = ways.length > 0;
  if (!fresh) return;
  $('publish-type').value = channel.contentType || 'application/json';
  $('publish-key').value = '';
  $('payload').value = sample($('publish-type').value);
}

function sample(contentType) {
  if (/json/i.test(contentType)) return JSON.stringify({ hello: 'from the console', sentAt: new Date().toISOString() }, null, 2);
  if (/xml/i.test(contentType)) return '<hello from="the console"/>';
  return 'Hello from the console';
}

// --- the stream ------------------------------------------------------------------------------

function connect() {
  stream?.stop();
  const { channel, api } = shown;
  if (channel.authentication === 'apiKeys') keys.set(keyOf(api), $('key').value.trim());
  if (channel.authentication === 'apiKeys' && !apiKey()) {
    showState('idle', 'This channel needs an API key');
    $('key').focus();
    return;
  }
  const target = { url: urlOf(channel), transport: chosen('transport'), format: $('format').value, key: apiKey() };
  const contentType = channel.contentType;
  const made = new Stream(target, {
    state: (state, words) => { if (made === stream) showState(state, words); },
    message: (body, meta) => messages.add(decode(target.format, body, meta, contentType, Date.now())),
    notice: (notice) => note(notice),
    frame: answered,
  });
  stream = made;
  made.start();
}

function note(notice) {
  messages.add({ kind: 'notice', received: Date.now(), ...notice });
  announce(`${notice.title}. ${notice.detail}`);
}

const insert = (tone, title, detail) => messages.add({ kind: 'notice', received: Date.now(), tone, title, detail });

function showState(state, words) {
  const before = $('state').dataset.state;
  $('state').dataset.state = state;
  write($('state-text'), words);
  if (state === 'ended' || state === 'idle' || (state === 'waiting' && before === 'live')) lost(words);
  if (state === 'ended') insert('bad', 'Closed', words);
  if (state === 'waiting' && before === 'live') {
    cut = true;
    insert('warn', 'Cut off', words);
  }
  if (state === 'live' && cut) {
    cut = false;
    insert('good', 'Back', stream.positioned ? 'Connected again, going on at the last cursor' : 'Connected again, at the newest message');
  }
  if (state === 'idle') cut = false;
  const running = ['connecting', 'live', 'waiting', 'paused'].includes(state);
  write($('connect'), running ? 'Disconnect' : 'Connect');
  $('connect').classList.toggle('main', !running);
  $('connect').classList.toggle('quiet', running);
  $('pause').disabled = !['live', 'paused', 'waiting'].includes(state);
  write($('pause'), state === 'paused' ? 'Continue' : 'Pause');
  announce(words);
}

$('controls').addEventListener('submit', (event) => {
  event.preventDefault();
  const running = !['idle', 'ended'].includes($('state').dataset.state);
  if (running) stream.stop();
  else connect();
});
$('pause').addEventListener('click', () => (stream.state === 'paused' ? stream.resume() : stream.pause()));
$('clear').addEventListener('click', () => messages.clear());
for (const id of ['transport', 'format']) {
  $(id).addEventListener('change', () => {
    drawSnippets();
    if (!['idle', 'ended'].includes($('state').dataset.state)) connect();
  });
}

// --- publish ---------------------------------------------------------------------------------

$('publish').addEventListener('submit', async (event) => {
  event.preventDefault();
  const { channel, api } = shown;
  if (channel.authentication === 'apiKeys') keys.set(keyOf(api), $('key').value.trim());
  const target = { url: urlOf(channel), key: apiKey() };
  $('send').disabled = true;
  write($('result'), 'Waiting for the broker’s acknowledgement…');
  const outcome = chosen('publish-transport') === 'http' ? await publishHttp(target, typed())
    : await publishWebSocket(target, typed(), (frame) => stream?.send(frame) ?? false);
  $('send').disabled = false;
  if (channel === shown?.channel || urlOf(channel) === urlOf(shown?.channel ?? { path: '/-/' })) showOutcome(outcome);
});
$('payload').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('publish').requestSubmit();
});

const typed = () => ({ contentType: $('publish-type').value.trim(), key: $('publish-key').value, body: $('payload').value });

function showOutcome(outcome) {
  if (outcome.ok) {
    messages.mine(outcome.id);
    const id = element('code', { id: 'acknowledged' }, outcome.id);
    return $('result').replaceChildren(element('div', { class: 'banner good' },
      element('strong', {}, 'Acknowledged'), ` in ${Math.round(outcome.ms)} ms as`,
      element('span', { class: 'id-line' }, id, copyButton('the id', () => outcome.id, id))));
  }
  $('result').replaceChildren(element('div', { class: `banner ${outcome.unknown ? 'warn' : 'bad'}` },
    element('strong', {}, outcome.title),
    element('p', {}, outcome.detail),
    ...(outcome.errors.length ? [element('ul', {}, ...outcome.errors.map((error) => element('li', {}, error)))] : [])));
}

// --- code ------------------------------------------------------------------------------------

const ACTIONS = {
  sse: 'Receive over SSE', websocket: 'Receive over WebSocket',
  http: 'Publish over HTTP', 'publish-websocket': 'Publish over WebSocket',
};

function drawActions(channel) {
  const { subscribe, publish } = channel;
  const available = Object.keys(ACTIONS).filter((action) => ({
    sse: subscribe?.sse, websocket: subscribe?.websocket, http: publish?.http, 'publish-websocket': publish?.websocket,
  })[action]);
  const before = $('action').value;
  const now = available.includes(before) ? before : chosen('transport') ?? available[0];
  $('action').replaceChildren(...available.map((action) => element('option', { value: action, selected: action === now }, ACTIONS[action])));
  drawSnippets();
}

function drawSnippets() {
  if (!shown || !$('action').value) return $('snippets').replaceChildren();
  const { channel } = shown;
  const parts = snippets({
    action: $('action').value, url: urlOf(channel), format: $('format').value,
    secured: channel.authentication === 'apiKeys', http: channel.publish?.http ?? false, message: typed(),
  });
  $('snippets').replaceChildren(...parts.map(snippet), element('p', { class: 'hint' },
    'A page of another origin is let in by the policy’s ', element('code', {}, 'cors.allowedOrigins'), '.'));
}

function snippet({ name, note: remark, language, text }) {
  const code = element('code');
  colourCode(code, text, language);
  return element('section', { class: 'snippet' },
    element('div', { class: 'snippet-head' },
      element('h3', {}, name), ...(remark ? [element('span', { class: 'hint' }, remark)] : []),
      copyButton(`the ${name} code`, () => text, code)),
    element('pre', { class: language, tabindex: '0', 'aria-label': `${name} code`, 'data-code': name }, code));
}

$('action').addEventListener('change', drawSnippets);
$('transport').addEventListener('change', () => {
  if (!['sse', 'websocket'].includes($('action').value)) return;
  $('action').value = chosen('transport');
  drawSnippets();
});
for (const id of ['publish-type', 'publish-key', 'payload']) $(id).addEventListener('input', drawSnippets);

// --- tabs, navigation ------------------------------------------------------------------------

const TABS = ['inspect', 'publish', 'code'];

function openTab(name) {
  for (const tab of TABS) {
    const open = tab === name;
    $(`tab-${tab}`).setAttribute('aria-selected', String(open));
    $(`tab-${tab}`).tabIndex = open ? 0 : -1;
    $(`panel-${tab}`).hidden = !open;
  }
}

for (const [at, name] of TABS.entries()) {
  $(`tab-${name}`).addEventListener('click', () => openTab(name));
  $(`tab-${name}`).addEventListener('keydown', (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: TABS.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = TABS[(to + TABS.length) % TABS.length];
    openTab(next);
    $(`tab-${next}`).focus();
  });
}

function closeNav() {
  $('nav').classList.remove('open');
  $('nav-toggle').setAttribute('aria-expanded', 'false');
}

$('nav-toggle').addEventListener('click', () => {
  const open = $('nav').classList.toggle('open');
  $('nav-toggle').setAttribute('aria-expanded', String(open));
});
$('skip').addEventListener('click', () => $('messages').focus());
copies($('copy-url'), () => urlOf(shown.channel), $('path'));
addEventListener('hashchange', () => { route(); scrollTo(0, 0); });
// A connection of a page that was put away would hold a socket; it comes back at its cursor.
addEventListener('pagehide', () => stream?.stop());

catalogue.poll();
