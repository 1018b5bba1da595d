// What is served: follows apis.json, draws the list of channels with its search, and knows which
// channel the address names (#/namespace/api/channel).

import { $, element, write } from './page.js';
import { count } from './words.js';

const POLL_MS = 1500;
const SEARCH_FROM = 9;
const STATE_WORDS = { Deprecated: 'deprecated', Blocked: 'blocked' };

export const hashOf = (api, channel) => `#/${encodeURIComponent(api.namespace)}/${encodeURIComponent(api.name)}/${encodeURIComponent(channel.name)}`;

export class Catalogue {
  #text = '';
  #apis = [];
  #on;
  #answers = null;
  #timer = 0;

  // on: { changed() when what is served changed, answers(yes) when the server comes or goes }
  constructor(on) {
    this.#on = on;
    $('search').addEventListener('input', () => this.#draw());
    document.addEventListener('visibilitychange', () => { if (!document.hidden) this.poll(); });
  }

  get apis() { return this.#apis; }

  // The channel that the address names; the first one without a name; null if there is no such channel.
  current() {
    if (!location.hash.startsWith('#/') || location.hash === '#/') return this.#first();
    let names;
    try { names = location.hash.slice(2).split('/').map(decodeURIComponent); } catch { return null; }
    return this.all().find(({ api, channel }) => names[0] === api.namespace && names[1] === api.name && names[2] === channel.name) ?? null;
  }

  #first() {
    const all = this.all();
    return all.find(({ channel }) => channel.subscribe && channel.authentication === 'none') ?? all[0] ?? null;
  }

  all() {
    return this.#apis.flatMap((api) => api.channels.map((channel) => ({ api, channel })));
  }

  async poll() {
    clearTimeout(this.#timer);
    const answers = await this.#load();
    if (answers !== this.#answers) {
      this.#answers = answers;
      this.#serving();
      this.#on.answers(answers);
    }
    clearTimeout(this.#timer);
    if (!document.hidden) this.#timer = setTimeout(() => this.poll(), POLL_MS);
  }

  async #load() {
    try {
      const response = await fetch('apis.json', { cache: 'no-store', signal: AbortSignal.timeout(5000) });
      if (!response.ok) return false;
      const text = await response.text();
      if (text !== this.#text) {
        this.#apis = JSON.parse(text).apis;
        this.#text = text;
        this.#serving();
        this.#draw();
        this.#on.changed();
      }
      return true;
    } catch {
      return false;
    }
  }

  #serving() {
    const channels = this.all().length;
    const served = `${count(this.#apis.length, 'API', 'APIs')}, ${count(channels, 'channel', 'channels')}`;
    write($('serving'), this.#answers === false ? 'The server does not answer' : `Serving ${served}`);
    $('serving').classList.toggle('bad', this.#answers === false);
  }

  mark() {
    const found = this.current();
    const hash = found && hashOf(found.api, found.channel);
    for (const link of $('apis').querySelectorAll('a')) {
      if (link.getAttribute('href') === hash) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
  }

  #draw() {
    const words = $('search').value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    $('search-box').hidden = this.all().length < SEARCH_FROM && words.length === 0;
    const focused = document.activeElement?.closest?.('#apis a')?.getAttribute('href');
    let shown = 0;
    const groups = this.#apis.map((api) => {
      const channels = api.channels.filter((channel) => matches(api, channel, words));
      shown += channels.length;
      return channels.length ? group(api, channels, this.#apis) : null;
    });
    $('apis').replaceChildren(...groups.filter(Boolean));
    write($('search-count'), words.length ? `${count(shown, 'channel', 'channels')} found` : '');
    this.mark();
    if (focused) $('apis').querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }
}

function matches(api, channel, words) {
  const text = [api.namespace, api.name, channel.name, channel.path, channel.address, channel.description, channel.serverKind]
    .join(' ').toLowerCase();
  return words.every((word) => text.includes(word));
}

function group(api, channels, apis) {
  const ambiguous = apis.some((other) => other !== api && other.name === api.name) || api.namespace !== 'default';
  const id = `api-${api.namespace}-${api.name}`;
  const state = STATE_WORDS[api.lifecycle];
  return element('section', { class: 'api', 'aria-labelledby': id },
    element('h2', { id },
      ...(ambiguous ? [element('span', { class: 'namespace' }, `${api.namespace}/`)] : []), api.name,
      ...(state ? [' ', element('span', { class: `tag ${state}` }, state)] : [])),
    ...(api.description ? [element('p', { class: 'hint' }, api.description)] : []),
    ...(isDescribed(api) ? [element('p', { class: 'hint' }, documentLink(api))] : []),
    element('ul', {}, ...channels.map((channel) => element('li', {}, link(api, channel)))));
}

// The page asks without a key, so there is a document if a channel needs none.
const isDescribed = (api) => api.lifecycle !== 'Blocked' && api.channels.some(({ authentication }) => authentication === 'none');

function documentLink(api) {
  return element('a', {
    href: `asyncapi/${api.namespace}/${api.name}`,
    download: `${api.name}.asyncapi.json`,
    'aria-label': `AsyncAPI document of ${api.name}`,
  }, 'AsyncAPI document');
}

function link(api, channel) {
  const ways = [channel.subscribe && 'receive', channel.publish && 'publish', channel.authentication === 'apiKeys' && 'needs a key'].filter(Boolean);
  return element('a', { href: hashOf(api, channel) },
    element('span', { class: 'name' }, channel.name),
    element('span', { class: 'ways', 'aria-hidden': 'true' },
      channel.authentication === 'apiKeys' ? element('i', { class: 'way key' }) : null,
      channel.subscribe ? element('i', { class: 'way down' }) : null,
      channel.publish ? element('i', { class: 'way up' }) : null),
    element('span', { class: 'visually-hidden' }, ` (${ways.join(', ')})`));
}
