// A real Chromium without a window, and pages that remember everything that went wrong in them.

import assert from 'node:assert/strict';
import fs from 'node:fs';

import { fetched } from './process.mjs';

const { chromium } = fetched('playwright-core');

const executablePath = ['/usr/bin/chromium-headless-shell', '/usr/bin/chromium'].find((file) => fs.existsSync(file));
assert.ok(executablePath, 'no Chromium: run scripts/setup browser');

export class Browser {
  static async start() {
    const browser = new Browser();
    browser.chromium = await chromium.launch({
      executablePath,
      headless: true,
      args: [
        '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking',
        '--disable-component-update', '--no-first-run',
        // It must not call out.
        '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1',
      ],
    });
    return browser;
  }

  async stop() { await this.chromium.close(); }

  // A page in a context of its own. `test.after` checks that nothing went wrong in it but what
  // `expected` (regular expressions) names, and closes it.
  async page(test, { expected = [], ...options } = {}) {
    const context = await this.chromium.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    const page = await context.newPage();
    const wrong = [];
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) wrong.push(`console: ${message.text()} (${message.location().url})`);
    });
    page.on('pageerror', (error) => wrong.push(`error: ${error.stack}`));
    await page.exposeBinding('violated', (_, text) => { wrong.push(`policy: ${text}`); });
    await page.addInitScript(() => {
      addEventListener('securitypolicyviolation', (event) => window.violated(`${event.violatedDirective} ${event.blockedURI}`));
    });
    test.after(async () => {
      await context.close();
      assert.deepEqual(wrong.filter((text) => !expected.some((pattern) => pattern.test(text))), []);
    });
    return page;
  }
}
