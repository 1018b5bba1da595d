// One stream of a channel: keeps the position, decides when to come back, and tells `on` about
// messages, notices and states. What goes over the wire is in transports.js; nothing here knows the page.

import { openEventSource, openFetch, openWebSocket } from './transports.js';

const RETRY_FIRST_MS = 500;
const RETRY_MOST_MS = 15_000;
const SETTLED_MS = 5_000;

// States: idle → connecting → live, and from there waiting (comes back by itself), paused, ended.
export class Stream {
  #target;
  #on;
  #connection = null;
  #cursor = null;
  #resumable = true;
  #timer = 0;
  #attempt = 0;
  #liveSince = 0;
  #state = 'idle';

  // target: { url, transport: 'sse' | 'websocket', format, key }
  // on: { state(state, words), message(body, meta), notice({ tone, title, detail }) }
  constructor(target, on) {
    this.#target = target;
    this.#on = on;
  }

  get state() { return this.#state; }
  get positioned() { return this.#cursor !== null; }

  start() {
    this.#attempt = 0;
    this.#open();
  }

  stop() {
    this.#drop();
    this.#become('idle', 'Disconnected');
  }

  // Nothing is lost: a WebSocket of `sluice.v1.json` is told to hold back, any other connection is
  // closed and comes back at its cursor.
  pause() {
    if (!this.#connection?.send?.({ type: 'pause' })) this.#drop();
    const held = this.#connection || this.#cursor;
    this.#become('paused', held ? 'Paused. Continue goes on with the next message'
      : 'Paused. No position is known yet: Continue starts at the newest message');
  }

  resume() {
    if (this.#connection?.send?.({ type: 'resume' })) return this.#becomeLive();
    this.start();
  }

  // Sends a frame on the open WebSocket; false if there is none that takes frames.
  send(frame) {
    return this.#connection?.send?.(frame) ?? false;
  }

  // A second before its time: the server answers again.
  hurry() {
    if (!this.#timer) return;
    clearTimeout(this.#timer);
    this.#open();
  }

  #open() {
    this.#drop();
    this.#become('connecting', this.#cursor ? 'Connecting at the last cursor…' : 'Connecting…');
    const { transport, key } = this.#target;
    const open = transport === 'websocket' ? openWebSocket : key ? openFetch : openEventSource;
    const link = this.#link();
    const connection = open(this.#target, this.#cursor, link);
    link.connection = connection;
    this.#connection = connection;
  }

  // What a connection may tell; a connection that was dropped is not listened to any more.
  #link() {
    const link = { connection: null };
    const current = (report) => (...told) => {
      if (link.connection === this.#connection) report(...told);
    };
    return Object.assign(link, {
      live: current(() => this.#becomeLive()),
      resumable: current((resumable) => { this.#resumable = resumable; }),
      cursor: current((cursor) => { this.#cursor = cursor; }),
      message: current((body, meta) => {
        if (meta.cursor) this.#cursor = meta.cursor;
        if (this.#state !== 'live' && this.#state !== 'paused') this.#becomeLive();
        this.#on.message(body, meta);
      }),
      notice: current((notice) => this.#on.notice(notice)),
      frame: current((frame) => this.#on.frame?.(frame)),
      lost: current((loss) => this.#lost(loss)),
    });
  }

  #becomeLive() {
    this.#liveSince = performance.now();
    const { transport } = this.#target;
    const words = `Live over ${transport === 'websocket' ? 'WebSocket' : 'SSE'}`;
    this.#become('live', this.#resumable ? words : `${words}; this channel cannot resume`);
  }

  // loss: { words, final, retryMs, alone }; `alone`: the browser reconnects by itself.
  #lost({ words, final, retryMs, alone }) {
    const paused = this.#state === 'paused';
    if (!alone) this.#drop();
    if (final) return this.#become('ended', words);
    if (paused) return; // Continue reconnects at the cursor.
    if (alone) return this.#become('waiting', `${words}. The browser is reconnecting`);
    if (this.#liveSince && performance.now() - this.#liveSince > SETTLED_MS) this.#attempt = 0;
    const most = Math.min(RETRY_MOST_MS, RETRY_FIRST_MS * 2 ** this.#attempt++);
    const wait = retryMs ?? most * (0.5 + Math.random() / 2);
    this.#timer = setTimeout(() => this.#open(), wait);
    const where = this.#cursor ? 'at the last cursor' : 'at the newest message';
    this.#become('waiting', `${words}. Reconnecting ${where}`);
  }

  #drop() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const connection = this.#connection;
    this.#connection = null;
    connection?.close();
  }

  #become(state, words) {
    this.#state = state;
    if (state !== 'live') this.#liveSince = 0;
    this.#on.state(state, words);
  }
}
