// Child processes, ports, directories and waiting, for the browser tests. Nothing outlives the test:
// children die with it however it dies, and the directory goes at the end.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';

export const PATIENCE_MS = 30_000;
const POLL_MS = 20;

export const source = path.resolve(import.meta.dirname, '../..');
const cache = process.env.SLUICE_CACHE ?? path.join(os.homedir(), '.cache/sluice');
export const home = fs.mkdtempSync(path.join(os.tmpdir(), 'sluice-browser-'));
process.on('exit', () => fs.rmSync(home, { recursive: true, force: true, maxRetries: 5 }));
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130));

// The directory that scripts/setup made for `part`, pinned by `files` below tests/parts/.
export function part(name, files) {
  const digest = createHash('sha256');
  for (const file of files) digest.update(fs.readFileSync(path.join(source, 'tests/parts', file)));
  const found = path.join(cache, `${name}-${digest.digest('hex').slice(0, 12)}`);
  assert.ok(fs.existsSync(path.join(found, '.complete')), `${found} is missing: run scripts/setup ${name}`);
  return found;
}

// A module, or a file of one, that scripts/setup fetched with npm.
export function fetched(name) {
  const modules = process.env.SLUICE_BROWSER_MODULES
    ?? path.join(part('browser', ['package.json', 'package-lock.json']), 'node_modules');
  return createRequire(import.meta.url)(path.join(modules, name));
}

// Asks until `ask` gives something truthy; errors of `ask` count as not yet.
export async function eventually(what, ask, patienceMs = PATIENCE_MS) {
  const end = performance.now() + patienceMs;
  let last;
  while (performance.now() < end) {
    try {
      const answer = await ask();
      if (answer) return answer;
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  throw new Error(`waited ${patienceMs} ms in vain: ${what}`, { cause: last });
}

// `count` neighbouring ports that nobody listens on, from below the kernel's own range.
export async function ports(count) {
  for (let attempt = 0; attempt < 200; attempt++) {
    const first = 10_000 + Math.floor(Math.random() * 21_000);
    const block = Array.from({ length: count }, (_, at) => first + at);
    if ((await Promise.all(block.map(free))).every(Boolean)) return block;
  }
  throw new Error('no free ports');
}

function free(port) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

// A program with its output in a log; it is killed when this process dies.
export class Process {
  constructor(name, program, args, log) {
    this.name = name;
    this.log = log;
    const out = fs.openSync(log, 'a');
    this.child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', program, ...args], { stdio: ['ignore', out, out] });
    fs.closeSync(out);
    this.ended = new Promise((resolve) => {
      this.child.once('exit', (code, signal) => resolve(code ?? signal));
      this.child.once('error', (error) => resolve(error.message));
    });
    process.once('exit', () => this.child.kill('SIGKILL'));
  }

  get runs() { return this.child.exitCode === null && this.child.signalCode === null; }

  text() { return fs.readFileSync(this.log, 'utf8'); }

  // SIGTERM; gives the exit code, or kills what does not end.
  async stop(patienceMs = PATIENCE_MS) {
    if (this.runs) this.child.kill('SIGTERM');
    const timer = setTimeout(() => this.child.kill('SIGKILL'), patienceMs);
    const code = await this.ended;
    clearTimeout(timer);
    return code;
  }

  async kill() {
    this.child.kill('SIGKILL');
    await this.ended;
  }
}
