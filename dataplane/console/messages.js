// The live list and its numbers. Arrivals wait in a bounded queue and are drawn once per frame, so
// that a burst costs one layout; only the last HISTORY entries exist at all.

import { preview } from './decode.js';
import { $, element, write } from './page.js';
import { duration } from './words.js';

export const HISTORY = 200;
const HISTORY_BYTES = 16 * 1024 * 1024;
// Above this many messages a second nobody reads each: fewer, larger draws.
const CALM_RATE = 25;
const BURST_DRAW_MS = 100;
const RATE_SECONDS = 3;
const LEVEL_SECONDS = 60;
const DELAYS = 100;
const TICK_MS = 250;

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3 });

export class Messages {
  #list = $('messages');
  #queue = [];
  #queued = 0;
  #rows = []; // newest first, each { entry, node }
  #bytes = 0;
  #frame = 0;
  #drawn = 0;
  #serial = 0;
  #selected = null;
  #onSelect;
  #own = new Set();
  gauges = new Gauges();

  // onSelect(entry) is called when a person chooses an entry, and with null when none is chosen.
  constructor(onSelect) {
    this.#onSelect = onSelect;
    this.#list.addEventListener('click', (event) => this.#clicked(event));
    this.#list.addEventListener('keydown', (event) => this.#key(event));
  }

  add(entry) {
    if (entry.kind === 'message') this.gauges.count(entry);
    this.#queue.push(entry);
    this.#queued += entry.weight ?? 0;
    // In a hidden page no frame comes; the queue then keeps the newest and stays bounded.
    while (this.#queue.length > HISTORY || (this.#queued > HISTORY_BYTES && this.#queue.length > 1)) {
      this.#queued -= this.#queue.shift().weight ?? 0;
    }
    this.#frame ||= requestAnimationFrame(this.#draw);
  }

  clear() {
    this.#queue = [];
    this.#queued = 0;
    for (const { node } of this.#rows) node.remove();
    this.#rows = [];
    this.#bytes = 0;
    this.select(null);
    this.gauges.clear();
  }

  // The message with this id was published here; it may have arrived already or come later.
  mine(id) {
    this.#own.add(id);
    if (this.#own.size > HISTORY) this.#own.delete(this.#own.values().next().value);
    const row = this.#rows.find(({ entry }) => entry.id === id);
    if (row) markOwn(row);
  }

  select(row) {
    this.#selected?.node.setAttribute('aria-selected', 'false');
    this.#selected = row;
    row?.node.setAttribute('aria-selected', 'true');
    if (row) this.#list.setAttribute('aria-activedescendant', row.node.id);
    else this.#list.removeAttribute('aria-activedescendant');
    this.#onSelect(row?.entry ?? null);
  }

  #draw = (now) => {
    this.#frame = 0;
    const calm = this.gauges.rate() <= CALM_RATE;
    if (!calm && now - this.#drawn < BURST_DRAW_MS) {
      this.#frame = requestAnimationFrame(this.#draw);
      return;
    }
    this.#drawn = now;
    const fresh = this.#queue.reverse();
    this.#queue = [];
    this.#queued = 0;
    const spare = this.#trim(fresh);
    const fragment = document.createDocumentFragment();
    const rows = fresh.map((entry) => this.#row(entry, spare.pop(), calm));
    fragment.append(...rows.map(({ node }) => node));
    this.#list.prepend(fragment);
    this.#rows.unshift(...rows);
  };

  // Takes out as many old rows as the new ones push over a bound; their nodes are used again.
  #trim(fresh) {
    const spare = [];
    for (const { weight } of fresh) this.#bytes += weight ?? 0;
    while (this.#rows.length && (this.#rows.length + fresh.length > HISTORY || this.#bytes > HISTORY_BYTES)) {
      const { entry, node } = this.#rows.pop();
      this.#bytes -= entry.weight ?? 0;
      if (this.#selected?.node === node) {
        this.#selected = null; // The inspector keeps showing the entry.
        this.#list.removeAttribute('aria-activedescendant');
      }
      node.remove();
      spare.push(node);
    }
    return spare;
  }

  #row(entry, spare, calm) {
    const node = spare ?? element('li', { role: 'option' }, element('time'), element('span', { class: 'delay' }),
      element('span', { class: 'key' }), element('span', { class: 'text' }));
    node.id = `entry-${++this.#serial}`;
    node.className = entry.kind === 'notice' ? `notice ${entry.tone}` : calm ? 'arriving' : '';
    node.setAttribute('aria-selected', 'false');
    const [time, delay, key, text] = node.children;
    write(time, clock.format(entry.time ?? entry.received));
    write(delay, entry.time ? duration(entry.received - entry.time) : '');
    write(key, entry.kind === 'notice' ? entry.title : entry.key ?? '');
    write(text, preview(entry));
    const row = { entry, node };
    if (this.#own.has(entry.id)) markOwn(row);
    return row;
  }

  #clicked(event) {
    const node = event.target.closest('li');
    const row = this.#rows.find((candidate) => candidate.node === node);
    if (!row) return;
    this.select(row);
    // On a narrow page the inspector is below the list.
    if (matchMedia('(max-width: 1080px)').matches) $('inspect').scrollIntoView({ block: 'center' });
  }

  #key(event) {
    const at = this.#rows.indexOf(this.#selected);
    const last = this.#rows.length - 1;
    const steps = { ArrowDown: at + 1, ArrowUp: at < 0 ? 0 : at - 1, Home: 0, End: last, PageDown: at + 10, PageUp: at - 10 };
    if (event.key === 'Escape') return this.select(null);
    if (!(event.key in steps) || last < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const row = this.#rows[Math.min(last, Math.max(0, steps[event.key]))];
    this.select(row);
    row.node.scrollIntoView({ block: 'nearest' });
  }
}

function markOwn({ entry, node }) {
  entry.own = true;
  node.classList.add('own');
}

// Rate, age, delay, total and the last minute's level. Buckets of one second, so it costs the same
// whatever arrives.
class Gauges {
  #total = 0;
  #newest = null;
  #delays = [];
  #buckets = new Map();
  #since = 0;

  constructor() {
    setInterval(() => this.#show(), TICK_MS);
  }

  count({ received, time }) {
    this.#total++;
    this.#since ||= received;
    const second = Math.floor(received / 1000);
    this.#buckets.set(second, (this.#buckets.get(second) ?? 0) + 1);
    if (time == null) return;
    this.#newest = Math.max(this.#newest ?? time, time);
    this.#delays.push(received - time);
    if (this.#delays.length > DELAYS) this.#delays.shift();
  }

  clear() {
    this.#total = 0;
    this.#newest = null;
    this.#delays = [];
    this.#buckets.clear();
    this.#since = 0;
    this.#show();
  }

  // Messages per second over the last whole seconds; over what there is at the beginning.
  rate() {
    if (!this.#since) return 0;
    const now = Date.now();
    const second = Math.floor(now / 1000);
    const seconds = Math.min(RATE_SECONDS, (now - this.#since) / 1000);
    if (seconds < 1) return this.#total;
    let sum = 0;
    const whole = Math.max(1, Math.floor(seconds));
    for (let back = 1; back <= whole; back++) sum += this.#buckets.get(second - back) ?? 0;
    return sum / whole;
  }

  #show() {
    const rate = this.rate();
    write($('rate'), rate >= 10 || Number.isInteger(rate) ? Math.round(rate).toLocaleString('en') : rate.toFixed(1));
    write($('received'), this.#total.toLocaleString('en'));
    write($('age'), this.#newest === null ? '–' : duration(Date.now() - this.#newest));
    write($('age-word'), this.#newest === null ? '' : 'ago');
    const delays = this.#delays.toSorted((one, other) => one - other);
    write($('delay'), delays.length ? duration(delays[delays.length >> 1]) : '–');
    this.#level();
  }

  // The last minute's rate as the surface of the water, a point a second.
  #level() {
    const now = Math.floor(Date.now() / 1000);
    for (const second of this.#buckets.keys()) if (second < now - LEVEL_SECONDS) this.#buckets.delete(second);
    const counts = Array.from({ length: LEVEL_SECONDS }, (_, at) => this.#buckets.get(now - LEVEL_SECONDS + at) ?? 0);
    const peak = Math.max(...counts);
    const y = (count) => (38 - (count / Math.max(1, peak)) * 34).toFixed(1);
    let line = `M0 ${y(counts[0])}`;
    for (let at = 1; at < counts.length; at++) {
      line += `C${at - 0.5} ${y(counts[at - 1])} ${at - 0.5} ${y(counts[at])} ${at} ${y(counts[at])}`;
    }
    if ($('line-path').getAttribute('d') === line) return;
    $('line-path').setAttribute('d', line);
    $('depth-path').setAttribute('d', `${line}V40H0Z`);
    write($('peak'), peak ? `last minute, peak ${peak.toLocaleString('en')}/s` : '');
  }
}
