// Building and finding elements. Text goes in as text nodes only, so no payload can become markup.

export const $ = (id) => document.getElementById(id);

// element('p', { class: 'hint' }, 'text', child): attributes, `on…` listeners, children.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Writes text only when it differs: an untouched node costs no layout and no announcement.
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const ANNOUNCE_EVERY_MS = 1500;
let spoken = 0;
let waiting = 0;
let latest = '';

// The polite live region: the last of several quick changes is spoken, never all of them.
export function announce(text) {
  latest = text;
  if (waiting) return;
  waiting = setTimeout(() => {
    waiting = 0;
    spoken = performance.now();
    write($('live'), latest);
  }, Math.max(50, spoken + ANNOUNCE_EVERY_MS - performance.now()));
}

// Makes `button` copy what `text()` gives. Without clipboard access it selects `from` instead.
export function copies(button, text, from) {
  const label = button.textContent;
  let timer = 0;
  button.addEventListener('click', async () => {
    const said = await copied(text(), from);
    write(button, said);
    announce(`${button.dataset.copies}: ${said.toLowerCase()}`);
    clearTimeout(timer);
    timer = setTimeout(() => write(button, label), 1600);
  });
}

async function copied(text, from) {
  try {
    await navigator.clipboard.writeText(text);
    return 'Copied';
  } catch {
    if (from) getSelection().selectAllChildren(from);
    return from ? 'Selected' : 'Not allowed';
  }
}

export function copyButton(what, text, from) {
  const button = element('button', { type: 'button', class: 'copy', 'data-copies': what, 'aria-label': `Copy ${what}` }, 'Copy');
  copies(button, text, from);
  return button;
}

// Groups in order: name, string, number, word, comment. A name is a JSON key.
const JSON_TOKENS = /("(?:[^"\\]|\\.)*")(?=\s*:)|("(?:[^"\\]|\\.)*")|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|\b(true|false|null)\b/g;
const WORDS = 'as|async|await|break|catch|const|def|elif|else|export|for|from|function|if|import|in|let|new|of|print|return|throw|try|with|curl';
const CODE_TOKENS = new RegExp(String.raw`(\b(?:[A-Z][\w]+)\b)|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|${'`'}[^${'`'}]*${'`'})|(\b\d+\b)|\b(${WORDS})\b|(\/\/.*|(?<=^|\s)#.*)`, 'gm');
const KINDS = ['name', 'string', 'number', 'word', 'comment'];
const COLOURED_MOST = 20_000;

export const colourJson = (node, text) => colour(node, text, JSON_TOKENS);
export const colourCode = (node, text) => colour(node, text, CODE_TOKENS);

// Text in coloured spans; a long text stays plain.
function colour(node, text, tokens) {
  node.replaceChildren();
  if (text.length > COLOURED_MOST) return node.append(text);
  let end = 0;
  for (const match of text.matchAll(tokens)) {
    const kind = KINDS[match.findIndex((part, at) => at > 0 && part !== undefined) - 1];
    node.append(text.slice(end, match.index), element('span', { class: `j-${kind}` }, match[0]));
    end = match.index + match[0].length;
  }
  node.append(text.slice(end));
}
