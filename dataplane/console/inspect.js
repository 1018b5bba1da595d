// The Inspect panel: one chosen entry, whole.

import { payload } from './decode.js';
import { $, colourJson, copyButton, element } from './page.js';
import { duration } from './words.js';

export function inspect(entry) {
  const panel = $('inspect');
  if (!entry) {
    return panel.replaceChildren(element('p', { class: 'blank-note' }, 'Choose a message in the list to see all of it: id, cursor, key, headers and payload.'));
  }
  panel.replaceChildren(...(entry.kind === 'notice' ? notice(entry) : message(entry)));
}

function notice(entry) {
  const data = entry.data ? [frameText(entry.data)] : [];
  return [
    element('h2', { class: `panel-title ${entry.tone}` }, entry.title),
    element('p', {}, entry.detail),
    ...data,
  ];
}

function frameText({ text, ...frame }) {
  const block = element('pre', { class: 'payload', tabindex: '0', 'aria-label': 'What the server sent' });
  colourJson(block, JSON.stringify(frame, null, 2));
  return block;
}

function message(entry) {
  const facts = element('dl', { class: 'record' });
  const fact = (name, value, copied) => {
    if (value === null || value === undefined || value === '') return;
    const shown = element('dd', {}, element('span', { class: 'value' }, String(value)));
    if (copied) shown.append(copyButton(copied, () => String(value), shown.firstChild));
    facts.append(element('dt', {}, name), shown);
  };
  fact('id', entry.id, 'the id');
  fact('Event time', entry.time === null || entry.time === undefined ? null : new Date(entry.time).toISOString());
  fact('Delay', entry.time ? `${duration(entry.received - entry.time)} from event to this page` : null);
  fact('Key', entry.key);
  fact('Content type', entry.contentType);
  for (const [name, value] of entry.headers) fact(name, value);
  fact('Cursor', entry.cursor, 'the cursor');

  const { text, language, note } = payload(entry);
  const block = element('pre', { class: 'payload', id: 'payload-shown', tabindex: '0', 'aria-label': 'Payload' });
  if (language === 'json') colourJson(block, text);
  else block.textContent = text;
  return [
    element('div', { class: 'panel-head' },
      element('h2', { class: 'panel-title' }, entry.own ? 'Your message' : 'Message'),
      copyButton('the payload', () => text, block)),
    ...(note ? [element('p', { class: 'hint' }, note)] : []),
    ...(entry.tombstone ? [] : [block]),
    facts,
  ];
}
