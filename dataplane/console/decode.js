// A received message as the page shows it, whatever its format: pure, from bytes to an entry.

const JSON_TYPE = /^[^;]*[/+]json\b/i;
const EXACT_MOST = 64 * 1024;
const PREVIEW_MOST = 240;
const SHOWN_MOST = 256 * 1024;
const HEX_MOST = 4096;

// format: raw | envelope | cloudevents; body: text, or an ArrayBuffer (raw WebSocket);
// meta: { cursor, base64 }; contentType: the channel's, for raw.
export function decode(format, body, meta, contentType, received) {
  const entry = { kind: 'message', received, cursor: meta.cursor ?? null, headers: [], own: false };
  if (format === 'raw') return Object.assign(entry, rawPart(body, meta, contentType));
  const parsed = parse(body);
  if (parsed === null || typeof parsed !== 'object') return Object.assign(entry, rawPart(body, {}, 'text/plain'));
  const part = format === 'envelope' ? envelopePart(parsed) : cloudEventPart(parsed);
  return Object.assign(entry, part, { source: body, weight: body.length });
}

function parse(text) {
  try { return JSON.parse(text); } catch { return null; }
}

function rawPart(body, meta, contentType) {
  const type = contentType ?? 'application/octet-stream';
  if (typeof body !== 'string' || meta.base64) {
    const bytes = meta.base64 ? fromBase64(body) : new Uint8Array(body);
    return { bytes, contentType: type, weight: bytes.length };
  }
  const json = JSON_TYPE.test(type) && parse(body) !== null;
  return { source: body, text: body, json, path: [], contentType: type, weight: body.length };
}

function envelopePart(frame) {
  const key = frame.keyBase64 === undefined ? frame.key : `base64 ${frame.keyBase64}`;
  return {
    id: frame.id ?? null,
    key: key ?? null,
    headers: (frame.headers ?? []).map(([name, value]) => [name, typeof value === 'string' ? value : `base64 ${value?.base64}`]),
    time: instant(frame.timestamp),
    contentType: frame.contentType ?? null,
    tombstone: frame.tombstone === true,
    invalid: frame.invalid === true,
    ...payloadPart(frame.data, frame.dataBase64, frame.contentType),
  };
}

function cloudEventPart(event) {
  const { data, data_base64: base64, datacontenttype, id, time, specversion, ...others } = event;
  const type = datacontenttype ?? 'application/json';
  return {
    id: id ?? null,
    key: event.partitionkey ?? null,
    headers: Object.entries(others).map(([name, value]) => [name, String(value)]),
    time: instant(time),
    contentType: type,
    tombstone: data === undefined && base64 === undefined,
    ...payloadPart(data, base64, type),
  };
}

function payloadPart(data, base64, contentType) {
  if (base64 !== undefined) return { bytes: fromBase64(base64) };
  if (data === undefined) return {};
  if (typeof data === 'string' && !JSON_TYPE.test(contentType ?? '')) return { text: data };
  return { json: true, path: ['data'] };
}

function instant(text) {
  const ms = Date.parse(text ?? '');
  return Number.isNaN(ms) ? null : ms;
}

function fromBase64(text) {
  try {
    return Uint8Array.from(atob(text.replaceAll('\n', '')), (character) => character.charCodeAt(0));
  } catch {
    return new TextEncoder().encode(text);
  }
}

// JSON as it came: numbers keep their digits (1.0, 64-bit integers) where the browser can do that.
function jsonText({ source, path }, indent) {
  const exact = source.length <= EXACT_MOST && typeof JSON.rawJSON === 'function';
  let value = exact
    ? JSON.parse(source, (_, part, context) => (typeof part === 'number' && context?.source ? JSON.rawJSON(context.source) : part))
    : JSON.parse(source);
  for (const step of path) value = value[step];
  return JSON.stringify(value, null, indent);
}

// UTF-8 without control characters, else null; `cut`: the end may split a character.
function asText(bytes, cut = false) {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: cut });
    return /[\0-\x08\x0e-\x1f]/.test(text) ? null : text;
  } catch {
    return null;
  }
}

// The payload in one line, for the list.
export function preview(entry) {
  if (entry.kind === 'notice') return entry.detail;
  if (entry.tombstone) return 'tombstone (no payload)';
  if (entry.json) return jsonText(entry).slice(0, PREVIEW_MOST);
  const text = entry.text ?? (entry.bytes && asText(entry.bytes.subarray(0, PREVIEW_MOST * 4), true));
  if (text) return text.slice(0, PREVIEW_MOST).replace(/\s+/g, ' ');
  if (!entry.bytes?.length) return 'empty payload';
  return `${entry.bytes.length.toLocaleString('en')} bytes, ${hexOf(entry.bytes.subarray(0, 16)).join(' ')}${entry.bytes.length > 16 ? ' …' : ''}`;
}

const hexOf = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0'));

// The whole payload for the inspector: { text, language: json|text|hex, note }.
export function payload(entry) {
  if (entry.tombstone) return { text: '', language: 'text', note: 'A tombstone: the key was deleted, there is no payload.' };
  if (entry.json) return bounded(jsonText(entry, 2), 'json');
  const text = entry.text ?? (entry.bytes && asText(entry.bytes));
  const note = entry.invalid ? 'The content type says JSON, but this does not parse.' : '';
  if (typeof text === 'string') return { ...bounded(text, 'text'), ...(note && { note }) };
  return { text: dump(entry.bytes), language: 'hex', note: `${note} ${entry.bytes.length.toLocaleString('en')} bytes that are not text.`.trim() };
}

function bounded(text, language) {
  if (text.length <= SHOWN_MOST) return { text, language, note: '' };
  return { text: text.slice(0, SHOWN_MOST), language, note: `The first ${SHOWN_MOST / 1024} Ki of ${text.length.toLocaleString('en')} characters.` };
}

function dump(bytes) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, HEX_MOST); at += 16) {
    const row = bytes.subarray(at, at + 16);
    const letters = Array.from(row, (byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : '·')).join('');
    lines.push(`${at.toString(16).padStart(6, '0')}  ${hexOf(row).join(' ').padEnd(47)}  ${letters}`);
  }
  if (bytes.length > HEX_MOST) lines.push('…');
  return lines.join('\n');
}
