// Publishes one message over HTTP or WebSocket and says what came of it: { ok, id, ms } or
// { ok: false, title, detail, errors, unknown }. Knows the wire, not the page.

import { socketUrl, subprotocols } from './transports.js';
import { closeWords, readProblem, statusWords } from './words.js';

const ANSWER_MS = 15_000;
const JSON_TYPE = /^[^;]*[/+]json\b/i;
const HEADER_SAFE = /^[!-~](?:[ -~]*[!-~])?$/;

// target: { url, key }, message: { contentType, key, body }
export async function publishHttp({ url, key: apiKey }, { contentType, key, body }) {
  const target = new URL(url);
  const headers = {};
  if (contentType) headers['content-type'] = contentType;
  if (apiKey) headers.authorization = `Bearer ${apiKey}`;
  if (HEADER_SAFE.test(key)) headers['message-key'] = key;
  else if (key) target.searchParams.set('key', key);
  const begun = performance.now();
  let response;
  try {
    // As bytes: for a string the browser would add a charset to the content type.
    response = await fetch(target, { method: 'POST', headers, body: new TextEncoder().encode(body), signal: AbortSignal.timeout(ANSWER_MS) });
    if (response.ok) return { ok: true, id: (await response.json()).id, ms: performance.now() - begun };
  } catch (error) {
    return unknown(error.name === 'TimeoutError' ? `No answer within ${ANSWER_MS / 1000} s.` : `No answer: ${error.message}.`);
  }
  const problem = await readProblem(response);
  const after = response.headers.get('retry-after');
  return {
    ok: false,
    unknown: response.status === 504,
    title: `${response.status} ${problem.title}`,
    detail: [problem.detail || statusWords(response.status), after ? `Try again in ${after} s.` : ''].filter(Boolean).join(' '),
    errors: problem.errors,
  };
}

const unknown = (detail) => ({ ok: false, unknown: true, title: 'Outcome unknown', detail: `${detail} The broker may or may not have the message.`, errors: [] });

// A `publish` frame. JSON goes in as it was typed, so that its numbers keep their digits.
export function publishFrame(id, { contentType, key, body }) {
  const frame = { type: 'publish', id, ...(key && { key }), ...(contentType && { contentType }) };
  const open = JSON.stringify(frame).slice(0, -1);
  if (JSON_TYPE.test(contentType || 'application/json') && isJson(body)) return `${open},"data":${body}}`;
  if (/^text\//i.test(contentType)) return `${open},"data":${JSON.stringify(body)}}`;
  let bytes = '';
  for (const byte of new TextEncoder().encode(body)) bytes += String.fromCharCode(byte);
  return `${open},"dataBase64":"${btoa(bytes)}"}`;
}

function isJson(text) {
  try { JSON.parse(text); return true; } catch { return false; }
}

// Answers of the stream's own socket, by publish id; entries go with their answer or timeout.
const pending = new Map();

export function answered(frame) {
  const waiting = pending.get(frame.id);
  if (waiting) waiting(frame);
}

// `send` puts a frame on an open socket of `sluice.v1.json` and says whether it could; otherwise a
// socket of its own is opened, used once and closed.
export async function publishWebSocket(target, message, send) {
  const id = crypto.randomUUID?.() ?? `console-${Date.now()}-${Math.random()}`;
  const frame = publishFrame(id, message);
  const begun = performance.now();
  const answer = await (onStream(id, frame, send) ?? onOwnSocket(target, id, frame));
  if (answer.type === 'ack') return { ok: true, id: answer.message, ms: performance.now() - begun };
  if (answer.type === 'nack') {
    const again = answer.retryable ? ' Trying again later can help.' : '';
    return { ok: false, title: `Not accepted: ${answer.code}`, detail: `${answer.detail ?? ''}${again}`, errors: [] };
  }
  return answer.refused ? { ok: false, title: 'Refused', detail: answer.refused, errors: [] } : unknown(answer.lost);
}

function onStream(id, frame, send) {
  if (!send(frame)) return null;
  return new Promise((resolve) => {
    const settle = (answer) => { clearTimeout(timer); pending.delete(id); resolve(answer); };
    const timer = setTimeout(() => settle({ lost: `No answer within ${ANSWER_MS / 1000} s.` }), ANSWER_MS);
    pending.set(id, settle);
  });
}

// The stream's socket closed: whoever still waits will not hear of it any more.
export function lost(words) {
  for (const settle of [...pending.values()]) settle({ lost: `${words}.` });
}

function onOwnSocket({ url, key }, id, frame) {
  return new Promise((resolve) => {
    const socket = new WebSocket(socketUrl(url), subprotocols('envelope', key));
    let sent = false;
    const settle = (answer) => { clearTimeout(timer); resolve(answer); socket.close(1000); };
    const timer = setTimeout(() => settle(sent ? { lost: `No answer within ${ANSWER_MS / 1000} s.` } : { refused: 'The socket did not get ready in time.' }), ANSWER_MS);
    socket.onmessage = ({ data }) => {
      const answer = JSON.parse(data);
      if (answer.type === 'ready' && !sent) { sent = true; socket.send(frame); }
      if ((answer.type === 'ack' || answer.type === 'nack') && answer.id === id) settle(answer);
    };
    socket.onclose = ({ code, reason }) => {
      const words = `The socket closed with ${code}, ${closeWords(code)}.${reason ? ` The server says: ${reason}.` : ''}`;
      settle(sent ? { lost: words } : { refused: words });
    };
  });
}
