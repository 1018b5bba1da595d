// The real binary serving a file, on ports of its own.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import { eventually, home, ports, Process } from './process.mjs';

const target = process.env.CARGO_TARGET_DIR ?? path.join(process.env.SLUICE_CACHE ?? path.join(os.homedir(), '.cache/sluice'), 'target');
const binary = process.env.SLUICE_BIN ?? path.join(target, 'x86_64-unknown-linux-gnu/release/sluice');
assert.ok(fs.existsSync(binary), `${binary} is missing: run make build`);

let serial = 0;

export class Sluice {
  // Serves `yaml` and waits until it is ready.
  static async start(yaml, options = []) {
    const sluice = new Sluice();
    sluice.directory = path.join(home, `sluice-${++serial}`);
    fs.mkdirSync(sluice.directory);
    sluice.file = path.join(sluice.directory, 'apis.yaml');
    sluice.options = options;
    [sluice.port, sluice.adminPort] = await ports(2);
    sluice.write(yaml);
    await sluice.launch();
    return sluice;
  }

  get origin() { return `http://127.0.0.1:${this.port}`; }

  url(at) { return this.origin + at; }

  // Starts it; again on the same ports, file and state after it was stopped.
  async launch() {
    this.process = new Process('sluice', binary, [
      'run', '-f', this.file, '--listen', `127.0.0.1:${this.port}`, '--admin', `127.0.0.1:${this.adminPort}`,
      '--state', path.join(this.directory, 'state'), ...this.options,
    ], path.join(this.directory, 'sluice.log'));
    await eventually('sluice is ready', async () => {
      if (!this.process.runs) assert.fail(`sluice ended:\n${this.process.text()}`);
      return (await fetch(`http://127.0.0.1:${this.adminPort}/readyz`)).ok;
    }).catch((error) => { throw new Error(`${error.message}\n${this.process.text()}`, { cause: error }); });
  }

  // SIGTERM: it drains, and must end well.
  async stop() {
    assert.equal(await this.process.stop(), 0, `sluice did not end well:\n${this.process.text()}`);
  }

  // Replaces the file by renaming a new one into place.
  write(yaml) {
    fs.writeFileSync(`${this.file}.new`, yaml);
    fs.renameSync(`${this.file}.new`, this.file);
  }

  async publish(at, body, headers = { 'content-type': 'application/json' }) {
    const response = await fetch(this.url(at), { method: 'POST', headers, body });
    assert.equal(response.status, 200, await response.clone().text());
    return (await response.json()).id;
  }
}

// What a command prints; it must succeed.
export function printed(...args) {
  const { status, stdout, stderr } = spawnSync(binary, args, { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  return { stdout, stderr };
}

// A new API key, and the Secret called `name` that lets it in.
export function createKey(name) {
  const { stdout, stderr } = printed('key', 'create', name);
  const [key] = /slk_[\w-]+/.exec(stderr) ?? assert.fail(`no key in: ${stderr}`);
  return { key, secret: stdout };
}
