// The wire of one connection: SSE by EventSource, SSE by fetch (a key needs a header), WebSocket.
// Each function opens one connection and reports to `link`; who comes back, and when, is stream.js's.

import { closeIsFinal, closeWords, duration, gapWords, readProblem, statusWords } from './words.js';

export const SUBPROTOCOLS = { envelope: 'sluice.v1.json', raw: 'sluice.v1.raw', cloudevents: 'cloudevents.json' };
const EVENT_BYTES_MOST = 48 * 1024 * 1024;

const sseUrl = ({ url, format }, cursor) => withQuery(url, { format, cursor });

export function withQuery(url, query) {
  const target = new URL(url);
  for (const [name, value] of Object.entries(query)) if (value) target.searchParams.set(name, value);
  return target.href;
}

export const socketUrl = (url) => url.replace(/^http/, 'ws');

export function subprotocols(format, key) {
  if (!key) return [SUBPROTOCOLS[format]];
  const bytes = new TextEncoder().encode(key);
  const encoded = btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '');
  return [SUBPROTOCOLS[format], `sluice.key.${encoded}`];
}

function parsed(text) {
  try { return JSON.parse(text) ?? {}; } catch { return {}; }
}

const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);

// What `gap`, `throttled`, `drain` and `problem` mean to a person; the same for every transport.
function noticeOf(kind, data) {
  const after = data.retryAfterMs === undefined ? '' : ` Come back in ${duration(data.retryAfterMs)}.`;
  const said = [data.code, data.detail ?? data.reason].filter(Boolean).join(': ');
  switch (kind) {
    case 'gap': return { tone: 'warn', title: 'Gap', detail: `Messages are missing: ${gapWords(data.reason)}.`, data };
    case 'throttled': return { tone: 'warn', title: 'Throttled', detail: `The server asks to wait. ${said}.${after}`, data };
    case 'drain': return { tone: 'info', title: 'Drain', detail: `The server is about to stop or restart; the cursor goes on where this ends.${after}`, data };
    default: return { tone: 'bad', title: 'Problem', detail: sentence(said || 'the server reported a problem'), data };
  }
}

// --- SSE -------------------------------------------------------------------------------------

const NAMED = ['gap', 'throttled', 'drain', 'problem', 'binary'];

function sseEvent(link, name, data, cursor) {
  if (name === 'message') return link.message(data, { cursor });
  if (name === 'binary') return link.message(data, { cursor, base64: true });
  if (cursor) link.cursor(cursor);
  if (NAMED.includes(name)) link.notice(noticeOf(name, parsed(data)));
}

export function openEventSource(target, cursor, link) {
  const source = new EventSource(sseUrl(target, cursor));
  let asking = null;
  source.onopen = () => link.live();
  source.onmessage = (event) => sseEvent(link, 'message', event.data, event.lastEventId);
  for (const name of NAMED) {
    source.addEventListener(name, (event) => sseEvent(link, name, event.data, event.lastEventId));
  }
  source.onerror = () => {
    if (source.readyState === EventSource.CONNECTING) return link.lost({ words: 'The stream ended', alone: true });
    // EventSource does not tell why it gave up; asking once more does.
    asking = new AbortController();
    refusal(sseUrl(target, cursor), asking.signal).then((loss) => link.lost(loss));
  };
  return { close() { source.close(); asking?.abort(); } };
}

async function refusal(url, signal) {
  try {
    const response = await fetch(url, { headers: { accept: 'text/event-stream' }, cache: 'no-store', signal });
    if (!response.ok) return refused(response);
    response.body?.cancel();
    return { words: 'The stream ended', final: false };
  } catch {
    return { words: 'The server does not answer', final: false };
  }
}

async function refused(response) {
  const problem = await readProblem(response);
  const retryAfter = Number(response.headers.get('retry-after'));
  const said = [problem.title, problem.detail].filter(Boolean).join(': ');
  return {
    words: `Refused with ${response.status}, ${statusWords(response.status)}${said ? `. The server says: ${said}` : ''}`,
    final: response.status < 500 && response.status !== 429,
    retryMs: retryAfter > 0 ? retryAfter * 1000 : undefined,
  };
}

export function openFetch(target, cursor, link) {
  const abort = new AbortController();
  readStream(target, cursor, link, abort.signal).then(
    (loss) => link.lost(loss),
    (error) => link.lost({ words: error instanceof RangeError ? error.message : 'The server does not answer', final: error instanceof RangeError }),
  );
  return { close() { abort.abort(); } };
}

async function readStream(target, cursor, link, signal) {
  const headers = { accept: 'text/event-stream', authorization: `Bearer ${target.key}` };
  if (cursor) headers['last-event-id'] = cursor;
  const response = await fetch(sseUrl(target), { headers, cache: 'no-store', signal });
  if (!response.ok) return refused(response);
  link.live();
  const parser = new EventParser((name, data, id) => {
    if (data === null) return link.cursor(id);
    sseEvent(link, name, data, id);
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { words: 'The stream ended', final: false, retryMs: parser.retryMs };
    parser.push(value);
  }
}

// WHATWG HTML §9.2.6. `report(name, data, lastEventId)`; data is null for an id-only block.
export class EventParser {
  retryMs;
  #report;
  #rest = '';
  #afterCr = false;
  #name = '';
  #data = [];
  #id = '';
  #newId = false;

  constructor(report) { this.#report = report; }

  push(text) {
    let chunk = this.#afterCr && text.startsWith('\n') ? text.slice(1) : text;
    if (text) this.#afterCr = text.endsWith('\r');
    chunk = this.#rest + chunk;
    const lines = chunk.split(/\r\n|\r|\n/);
    this.#rest = lines.pop();
    if (this.#rest.length > EVENT_BYTES_MOST) throw new RangeError('An event is too big for this page');
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === '') return this.#dispatch();
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'data') this.#data.push(value);
    else if (field === 'event') this.#name = value;
    else if (field === 'id' && !value.includes('\0')) [this.#id, this.#newId] = [value, true];
    else if (field === 'retry' && /^\d+$/.test(value)) this.retryMs = Number(value);
  }

  #dispatch() {
    if (this.#data.length) this.#report(this.#name || 'message', this.#data.join('\n'), this.#id);
    else if (this.#newId) this.#report('', null, this.#id);
    this.#name = '';
    this.#data = [];
    this.#newId = false;
  }
}

// --- WebSocket -------------------------------------------------------------------------------

export function openWebSocket(target, cursor, link) {
  const { url, format, key } = target;
  const socket = new WebSocket(withQuery(socketUrl(url), { cursor }), subprotocols(format, key));
  socket.binaryType = 'arraybuffer';
  let drain = null;
  const told = (frame) => {
    if (frame.type === 'drain') drain = frame;
    socketFrame(link, frame);
  };
  socket.onopen = () => { if (format === 'raw') link.live(); };
  socket.onmessage = ({ data }) => {
    if (format === 'raw') link.message(data, {});
    else if (format === 'envelope') told({ ...parsed(data), text: data });
    else cloudEvent(link, told, data);
  };
  socket.onclose = ({ code, reason }) => link.lost({
    words: `Closed with ${code}, ${closeWords(code)}${reason ? `. The server says: ${reason}` : ''}`,
    final: code === 1000 || closeIsFinal(code),
    retryMs: code === 1012 ? drain?.retryAfterMs : undefined,
  });
  return {
    close() { socket.close(1000); },
    send(frame) {
      if (format !== 'envelope' || socket.readyState !== WebSocket.OPEN) return false;
      socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
      return true;
    },
  };
}

function socketFrame(link, frame) {
  const { cursor } = frame;
  switch (frame.type) {
    case 'message': return link.message(frame.text, { cursor });
    case 'ready':
      link.resumable(frame.resumable !== false);
      if (cursor) link.cursor(cursor);
      return link.live();
    case 'cursor': return link.cursor(cursor);
    case 'ack': case 'nack': return link.frame(frame);
    case 'gap':
      if (frame.to) link.cursor(frame.to);
      return link.notice(noticeOf('gap', frame));
    case 'drain':
      if (cursor) link.cursor(cursor);
      return link.notice(noticeOf('drain', frame));
    case 'error': return link.notice(noticeOf('problem', frame));
    default: return link.notice(noticeOf('problem', { detail: `a frame of unknown type ${String(frame.type).slice(0, 40)}` }));
  }
}

// In `cloudevents.json`, control frames are events whose type says so and whose data is the frame.
function cloudEvent(link, told, text) {
  const event = parsed(text);
  const control = /^dev\.sluice\.(ready|gap|ack|nack|error|drain|cursor)$/.exec(event.type ?? '');
  if (!control) return link.message(text, { cursor: event.sluicecursor });
  told({ ...event.data, type: control[1] });
}
