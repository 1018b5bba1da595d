// The console of `sluice run` in a real browser, served by the real binary. Run it with
// `node tests/browser/console.mjs`. SLUICE_SCREENSHOT names a file for the screenshot.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';

import { Browser } from './browser.mjs';
import { both, channel, generator, keyPolicy, memory, receive, streamApi } from './documents.mjs';
import { eventually, home } from './process.mjs';
import { createKey, Sluice } from './sluice.mjs';

const run = promisify(execFile);
const REFUSED = /console: Failed to load resource/;

let browser;
let sluice;
let key;
let yaml;

before(async () => {
  const created = createKey('shop-keys');
  key = created.key;
  yaml = (extra = [], more = '') => streamApi('shop', [generator(20), generator(1000, 'flood'), memory], [
    channel('orders', 'events', `description: Every order as it is placed.\n${receive}`),
    channel('burst', 'flood', receive),
    channel('notes', 'board', both),
    channel('typed', 'board', `${receive}\npublish: {transports: {http: {}}, contentTypes: [application/json]}`),
    channel('private', 'board', both),
    ...extra,
  ], `description: Orders of a small shop, made up as they go.\n${more}`) + keyPolicy('shop', ['private'], created.secret);
  [sluice, browser] = await Promise.all([Sluice.start(yaml()), Browser.start()]);
});

after(async () => {
  await browser?.stop();
  await sluice?.stop();
});

async function opened(t, name, options) {
  const page = await browser.page(t, options);
  await page.goto(sluice.url(name ? `/-/#/default/shop/${name}` : '/-/'));
  await page.locator('#channel').waitFor();
  return page;
}

const number = async (page, id) => Number((await page.textContent(id)).replaceAll(',', ''));
const live = (page, words) => page.locator('#state[data-state="live"]', { hasText: words }).waitFor();
const reached = (page, id, least) => eventually(`${id} is at least ${least}`, async () => await number(page, id) >= least);
// The orders on the page, oldest first; a generator numbers them without holes. Read in one go: a
// locator finds first and reads later, and the page uses its rows again for other messages.
const orders = (page) => page.evaluate(() => [...document.querySelectorAll('#messages li:not(.notice) .text')]
  .map((row) => Number(/"order":(\d+)/.exec(row.textContent)[1])).reverse());

function withoutHoles(numbers) {
  assert.ok(numbers.length > 0);
  assert.deepEqual(numbers, numbers.map((_, at) => numbers[0] + at));
}

test('the page has a strict policy and / leads to it', async () => {
  const page = await fetch(sluice.url('/-/'));
  assert.equal(page.headers.get('content-security-policy'), "default-src 'none'; script-src 'self'; style-src 'self'; "
    + "connect-src 'self' ws: wss:; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
  assert.equal(page.headers.get('x-content-type-options'), 'nosniff');
  const text = await page.text();
  assert.ok(!/<style|style=|<script>|\son\w+=/.test(text), 'neither inline script nor inline style');
  assert.ok(!/(src|href)="(https?:)?\/\//.test(text), 'nothing from elsewhere');
  const root = await fetch(sluice.url('/'), { redirect: 'manual', headers: { accept: 'text/html' } });
  assert.equal(new URL(root.headers.get('location'), sluice.origin).href, sluice.url('/-/'));
});

test('it lists the channels of the file and opens the first', async (t) => {
  const page = await opened(t);
  assert.deepEqual(await page.locator('#apis a .name').allTextContents(), ['orders', 'burst', 'notes', 'typed', 'private']);
  assert.equal(await page.textContent('h1:visible'), 'orders');
  assert.equal(await page.textContent('#path'), sluice.url('/shop/orders'));
  assert.equal(await page.textContent('#about'), 'Every order as it is placed.');
  assert.deepEqual(await page.locator('#facts li').allTextContents(), ['generator', 'orders.v1', 'application/json', 'no key needed']);
});

test('it links to the AsyncAPI document', async (t) => {
  const page = await opened(t);
  const link = await page.locator('#apis a', { hasText: 'AsyncAPI document' }).getAttribute('href');
  const document = await (await fetch(new URL(link, page.url()))).json();
  assert.equal(document.id, 'urn:sluice:shop');
  assert.ok(document.channels.orders && !document.channels.private, 'what the page may use');
});

for (const [transport, words] of [['sse', 'Live over SSE'], ['websocket', 'Live over WebSocket']]) {
  test(`messages come live over ${transport}, and pausing loses none`, async (t) => {
    const page = await opened(t, 'orders');
    await page.check(`#transport input[value=${transport}]`);
    await live(page, words);
    await page.click('#clear');
    await reached(page, '#received', 30);
    await reached(page, '#rate', 10);
    assert.match(await page.textContent('#age'), /^\d+ ms$/);
    assert.match(await page.textContent('#delay'), /^\d+ ms$/);
    await page.click('#pause');
    await page.locator('#state[data-state="paused"]').waitFor();
    const before = await number(page, '#received');
    await page.waitForFunction((rate) => document.getElementById('rate').textContent === rate, '0');
    await page.click('#pause');
    await live(page, words);
    await reached(page, '#received', before + 60);
    withoutHoles(await orders(page));
    assert.equal(await page.locator('#messages li.notice').count(), 0);
  });

  for (const format of ['raw', 'cloudevents']) {
    test(`${format} comes over ${transport}`, async (t) => {
      const page = await opened(t, 'orders');
      await page.check(`#transport input[value=${transport}]`);
      await page.selectOption('#format', format);
      await live(page, words);
      await page.click('#clear');
      await reached(page, '#received', 20);
      withoutHoles(await orders(page));
    });
  }

  test(`a wrong key is told over ${transport}, a right one lets in`, async (t) => {
    const page = await opened(t, 'private', { expected: [REFUSED] });
    await page.check(`#transport input[value=${transport}]`);
    await page.fill('#key', 'slk_wrong');
    await page.click('#connect');
    const state = page.locator('#state[data-state="ended"]');
    await state.filter({ hasText: transport === 'sse' ? 'Refused with 401' : 'Closed with 4401' }).waitFor();
    await page.fill('#key', key);
    await page.click('#connect');
    await live(page, words);
    await publishes(page, 'http', '{"for": "the holder of a key"}');
    assert.ok(!(await page.content()).includes(key), 'the key stands nowhere in the page');
    assert.ok(!page.url().includes(key));
  });
}

async function publishes(page, transport, body) {
  await page.click('#tab-publish');
  await page.check(`#publish-transport input[value=${transport}]`);
  await page.fill('#publish-key', 'k-1');
  await page.fill('#payload', body);
  await page.click('#send');
  const id = await page.textContent('#acknowledged');
  assert.ok(id.length > 8);
  const row = page.locator('#messages li.own').first();
  await row.click();
  await page.locator('#inspect .value', { hasText: id }).first().waitFor();
  assert.match(await page.textContent('#inspect'), /k-1/);
  return id;
}

for (const transport of ['http', 'websocket']) {
  test(`a message published over ${transport} is acknowledged and arrives`, async (t) => {
    const page = await opened(t, 'notes');
    await live(page, 'Live over SSE');
    await publishes(page, transport, '{"amount": 12345678901234567890, "ratio": 1.0}');
    const shown = await page.textContent('#payload-shown');
    assert.match(shown, /12345678901234567890/, 'numbers keep their digits');
    assert.match(shown, /1\.0/);
  });
}

test('a payload is never markup', async (t) => {
  const page = await opened(t, 'notes');
  await live(page, 'Live over SSE');
  await page.fill('#publish-type', 'text/plain');
  await publishes(page, 'http', '<img src=x onerror="document.title=1"><script>document.title=2</script>');
  assert.equal(await page.textContent('#payload-shown'), '<img src=x onerror="document.title=1"><script>document.title=2</script>');
  assert.equal(await page.locator('main img, main script').count(), 0);
});

test('a refused publish says why', async (t) => {
  const page = await opened(t, 'typed', { expected: [REFUSED] });
  await page.fill('#publish-type', 'text/plain');
  await page.click('#send');
  await page.locator('#result .banner.bad', { hasText: '415' }).waitFor();
  assert.match(await page.textContent('#result'), /application\/json/);
});

test('the curl commands on the page work as they stand', async (t) => {
  const page = await opened(t, 'notes');
  await live(page, 'Live over SSE');
  await page.click('#tab-publish');
  await page.fill('#payload', '{"from": "curl, it\'s pasted"}');
  await page.click('#tab-code');
  await page.selectOption('#action', 'http');
  const { stdout } = await run('bash', ['-c', await page.textContent('[data-code=curl]')], { timeout: 20_000 });
  const { id } = JSON.parse(stdout);
  await page.locator('#messages li', { hasText: 'it\'s pasted' }).first().click();
  await page.locator('#inspect .value', { hasText: id }).first().waitFor();

  await page.goto(sluice.url('/-/#/default/shop/orders'));
  await page.click('#tab-code');
  await page.selectOption('#action', 'sse');
  const command = `${await page.textContent('[data-code=curl]')} -s -m 20 | grep -m 3 ^data:`;
  const lines = (await run('bash', ['-c', command], { timeout: 30_000 })).stdout.trim().split('\n');
  withoutHoles(lines.map((line) => JSON.parse(line.slice(5)).data.order));
});

test('a thousand messages a second neither freeze the page nor fill it', async (t) => {
  const page = await opened(t, 'burst');
  await reached(page, '#received', 5000);
  assert.ok(await page.locator('#messages li').count() <= 200);
  await page.evaluate(() => new Promise((resolve) => {
    let frames = 0;
    const frame = () => (++frames < 30 ? requestAnimationFrame(frame) : resolve());
    requestAnimationFrame(frame);
  }));
  assert.ok(await number(page, '#rate') > 100);
  await page.click('#pause');
  await page.locator('#state[data-state="paused"]').waitFor();
  withoutHoles(await orders(page));
});

test('an edited file shows at once, and the open stream stays', async (t) => {
  // The removed channel's EventSource may ask once more before the page learns that it is gone.
  const page = await opened(t, 'orders', { expected: [/404.*\/shop\/added/] });
  await live(page, 'Live over SSE');
  await page.click('#clear');
  await reached(page, '#received', 10);
  sluice.write(yaml([channel('added', 'events', receive)]));
  await page.locator('#apis a', { hasText: 'added' }).waitFor();
  const before = await number(page, '#received');
  await reached(page, '#received', before + 20);
  withoutHoles(await orders(page));
  await page.locator('#apis a', { hasText: 'added' }).click();
  await live(page, 'Live over SSE');
  sluice.write(yaml());
  await page.locator('#empty', { hasText: 'No such channel' }).waitFor();
});

test('a blocked API is told in words, and comes back', async (t) => {
  const page = await opened(t, 'orders', { expected: [REFUSED] });
  await page.check('#transport input[value=websocket]');
  await live(page, 'Live over WebSocket');
  sluice.write(yaml([], 'lifecycle: {state: Blocked}'));
  await page.locator('#state[data-state="ended"]', { hasText: 'Closed with 4410' }).waitFor();
  await page.locator('#lifecycle', { hasText: 'blocked' }).waitFor();
  sluice.write(yaml());
  await page.locator('#lifecycle').waitFor({ state: 'hidden' });
  await page.click('#connect');
  await live(page, 'Live over WebSocket');
});

test('many channels can be searched', async (t) => {
  const page = await opened(t, 'orders');
  const many = Array.from({ length: 30 }, (_, at) => channel(`lane-${at}`, 'board', receive));
  sluice.write(yaml(many));
  await page.getByLabel('Search channels').fill('lane-7');
  await page.locator('#search-count', { hasText: '1 channel found' }).waitFor();
  assert.deepEqual(await page.locator('#apis a .name').allTextContents(), ['lane-7']);
  sluice.write(yaml());
});

// What a screen reader is told: every control of the page in every panel has a name.
test('every control has an accessible name', async (t) => {
  const page = await opened(t, 'private');
  const session = await page.context().newCDPSession(page);
  const controls = new Set(['button', 'link', 'textbox', 'searchbox', 'combobox', 'radio', 'tab', 'tabpanel', 'listbox', 'option', 'navigation', 'complementary', 'main']);
  await page.fill('#key', key);
  await page.click('#connect');
  await live(page, 'Live over');
  await publishes(page, 'http', '{}');
  for (const tab of ['inspect', 'publish', 'code']) {
    await page.click(`#tab-${tab}`);
    const { nodes } = await session.send('Accessibility.getFullAXTree');
    const seen = nodes.filter((node) => !node.ignored && controls.has(node.role.value));
    assert.ok(seen.length > 20);
    const nameless = seen.filter((node) => !node.name?.value && node.role.value !== 'main').map((node) => JSON.stringify(node.role));
    assert.deepEqual(nameless, []);
    const names = seen.filter((node) => node.role.value === 'button').map((node) => node.name.value);
    assert.deepEqual(names.filter((name, at) => names.indexOf(name) !== at), [], 'no two buttons have one name');
  }
  const ids = await page.evaluate(() => [...document.querySelectorAll('[id]')].map((node) => node.id));
  assert.equal(new Set(ids).size, ids.length, 'ids are unique');
});

test('it can be used by keyboard alone', async (t) => {
  const page = await opened(t, 'orders');
  await live(page, 'Live over SSE');
  await reached(page, '#received', 5);
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'skip');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'messages');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowDown');
  await page.locator('#payload-shown').waitFor();
  const chosen = await page.getAttribute('#messages', 'aria-activedescendant');
  assert.equal(await page.getAttribute(`#${chosen}`, 'aria-selected'), 'true');
  await page.focus('#tab-inspect');
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('ArrowRight');
  assert.equal(await page.getAttribute('#tab-code', 'aria-selected'), 'true');
  await page.locator('[data-code=curl]').waitFor();
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, 'solid', 'focus is visible');
});

for (const name of ['orders', 'notes', 'private']) {
  test(`${name} fits a phone`, async (t) => {
    const page = await opened(t, name, { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
    for (const tab of ['inspect', 'publish', 'code']) {
      await page.click(`#tab-${tab}`);
      const [content, width] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.equal(width, 360);
      assert.ok(content <= width, `${content} px in ${tab}`);
    }
    assert.equal(await page.locator('#nav').isVisible(), false);
    await page.click('#nav-toggle');
    await page.locator('#apis a', { hasText: 'burst' }).click();
    await page.locator('h1', { hasText: 'burst' }).waitFor();
    assert.equal(await page.locator('#nav').isVisible(), false);
  });
}

for (const colorScheme of ['dark', 'light']) {
  test(`text has enough contrast in ${colorScheme}`, async (t) => {
    const page = await opened(t, 'notes', { colorScheme });
    await live(page, 'Live over SSE');
    await publishes(page, 'http', '{"a": [1, "b", true]}');
    for (const tab of ['inspect', 'publish', 'code']) {
      await page.click(`#tab-${tab}`);
      await eventually('the last animation ended', () => page.evaluate(() => document.getAnimations().every((it) => it.effect.getTiming().iterations === Infinity)));
      assert.deepEqual(await page.evaluate(paleTexts), []);
    }
  });
}

// Runs in the page: every visible text whose contrast to what is behind it is under 4.5 (WCAG AA).
function paleTexts() {
  const rgba = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = color.map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const [r, g, b, alpha = 1] = rgba(getComputedStyle(at).backgroundColor);
      if (alpha === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const pale = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest('.visually-hidden, :disabled, .skip, option')) continue;
    const [one, other] = [luminance(rgba(getComputedStyle(node).color)), luminance(behind(node))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) pale.push(`${walker.currentNode.data.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return pale;
}

test('the screenshot for the documents', async (t) => {
  const page = await opened(t, 'orders', { colorScheme: 'dark' });
  await live(page, 'Live over SSE');
  await reached(page, '#received', 200);
  await page.locator('#messages li').nth(4).click();
  await page.screenshot({ path: process.env.SLUICE_SCREENSHOT || path.join(home, 'console.png') });
});

// Last: it stops what the others use.
test('after a drain and a restart the page comes back by itself and says what is missing', async (t) => {
  const page = await opened(t, 'orders', { expected: [REFUSED, /ERR_CONNECTION_REFUSED|WebSocket connection to/] });
  await page.check('#transport input[value=websocket]');
  await live(page, 'Live over WebSocket');
  await page.click('#clear');
  await reached(page, '#received', 10);
  await sluice.stop();
  await page.locator('#state[data-state="waiting"]').waitFor();
  await page.locator('#serving', { hasText: 'does not answer' }).waitFor();
  assert.match((await page.locator('#messages li.notice').allTextContents()).join(), /Drain/);
  await sluice.launch();
  await live(page, 'Live over WebSocket');
  // A generator's past ends with its process: the page must say so, never skip silently.
  await page.locator('#messages li.notice', { hasText: 'Messages are missing' }).waitFor();
  await page.locator('#messages li.notice', { hasText: 'going on at the last cursor' }).waitFor();
});
