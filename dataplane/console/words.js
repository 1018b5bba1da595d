// What the wire says by number or by code, in words for a person. No state, no page.

const CLOSE_CODES = {
  1000: 'the server ended the stream',
  1001: 'the server is going away',
  1002: 'the two sides disagree about the WebSocket protocol',
  1003: 'the server does not take this kind of data',
  1006: 'the connection was lost; the server or the network is gone',
  1007: 'a text frame was not valid UTF-8',
  1009: 'a message was too big',
  1011: 'the server met an unexpected error',
  1012: 'the server is draining; come back with the cursor',
  1013: 'overloaded, or the channel is not ready yet',
  4400: 'the request was malformed',
  4401: 'no valid API key, or it has expired',
  4403: 'not allowed, or the permission was taken away',
  4404: 'there is no such channel',
  4408: 'this page read too slowly and fell behind the replay window',
  4409: 'messages are missing, and raw frames cannot say so in between',
  4410: 'the API is blocked or retired',
  4422: 'the message does not fit the channel',
  4429: 'over a limit',
};

// Coming back helps after these; after any other the answer would be the same.
const TRANSIENT_CLOSES = new Set([1001, 1006, 1011, 1012, 1013, 4408, 4409, 4429]);

const GAPS = {
  unknownCursor: 'the server does not know this cursor (another version or key made it)',
  recreated: 'the address was deleted and made again, or the channel points elsewhere now',
  expired: 'what came after the cursor is no longer held',
  slow: 'this page read too slowly, so the oldest messages were dropped',
  tooLarge: 'a message over the size limit was left out',
};

const STATUSES = {
  400: 'the request was malformed',
  401: 'no valid API key',
  403: 'not allowed',
  404: 'there is no such API or channel',
  405: 'the channel does not offer this',
  406: 'the channel does not offer this format',
  410: 'the API is blocked or retired',
  413: 'the message is too big',
  415: 'the channel does not take this content type',
  422: 'the message does not fit the channel',
  429: 'over a limit',
  500: 'the server met an unexpected error',
  501: 'this version of Sluice cannot do that',
  503: 'not written; trying again later can help',
  504: 'outcome unknown: the broker may or may not have the message',
};

export const closeWords = (code) => CLOSE_CODES[code] ?? 'a code this page does not know';
export const closeIsFinal = (code) => !TRANSIENT_CLOSES.has(code);
export const gapWords = (reason) => GAPS[reason] ?? (reason ? `reason: ${reason}` : 'the server gave no reason');
export const statusWords = (status) => STATUSES[status] ?? 'an unexpected status';

// A problem+json answer as { title, detail, errors[] }; whatever else came is shown as it is.
export async function readProblem(response) {
  const text = (await response.text()).slice(0, 4000);
  try {
    const body = JSON.parse(text);
    const errors = Array.isArray(body.errors) ? body.errors : [];
    return {
      title: String(body.title ?? response.statusText),
      detail: String(body.detail ?? ''),
      errors: errors.slice(0, 20).map(({ at, message }) => (at ? `${at}: ${message}` : String(message))),
    };
  } catch {
    return { title: response.statusText, detail: text.slice(0, 300), errors: [] };
  }
}

// 850 → "850 ms", 12400 → "12.4 s", 200000 → "3 min".
export function duration(ms) {
  const most = Math.max(0, ms);
  if (most < 1000) return `${Math.round(most)} ms`;
  if (most < 60_000) return `${(most / 1000).toFixed(1)} s`;
  if (most < 3_600_000) return `${Math.floor(most / 60_000)} min`;
  if (most < 172_800_000) return `${Math.floor(most / 3_600_000)} h`;
  return `${Math.floor(most / 86_400_000)} days`;
}

export const count = (number, one, many) => `${number.toLocaleString('en')} ${number === 1 ? one : many}`;
