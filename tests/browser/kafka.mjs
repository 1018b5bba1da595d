// A real Apache Kafka of one node, from what scripts/setup kafka put into the cache.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';

import { eventually, home, part, ports, Process, source } from './process.mjs';

const START_MS = 90_000;

export class Kafka {
  static async start() {
    const kafka = new Kafka();
    const [plain, controller] = await ports(2);
    kafka.broker = `127.0.0.1:${plain}`;
    kafka.directory = path.join(home, 'kafka');
    fs.mkdirSync(kafka.directory);
    const properties = path.join(kafka.directory, 'server.properties');
    fs.writeFileSync(properties, configuration(plain, controller, path.join(kafka.directory, 'data')));
    await kafka.#tool('kafka.tools.StorageTool', ['format', '-t', 'MkU3OEVBNTcwNTJENDM2Qg', '-c', properties]);
    kafka.process = java(path.join(kafka.directory, 'node.log'), ['kafka.Kafka', properties]);
    await eventually('Kafka serves', () => {
      assert.ok(kafka.process.runs, kafka.process.text());
      return kafka.process.text().includes('Kafka Server started');
    }, START_MS);
    return kafka;
  }

  async createTopic(topic, partitions) {
    await this.#tool('org.apache.kafka.tools.TopicCommand', ['--create', '--topic', topic, '--partitions', String(partitions),
      '--bootstrap-server', this.broker]);
  }

  async stop() { await this.process.kill(); }

  async #tool(name, args) {
    const tool = java(path.join(this.directory, `${name}.log`), [name, ...args]);
    assert.equal(await tool.ended, 0, tool.text());
  }
}

function java(log, args) {
  const kafka = part('kafka', ['pom.xml']);
  const jars = fs.readdirSync(path.join(kafka, 'libs')).filter((name) => name.endsWith('.jar')).sort()
    .map((name) => path.join(kafka, 'libs', name));
  return new Process(args[0], 'java', [
    '-Xmx192m', '-Xms64m', '-Xss512k', '-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC', '-XX:-UsePerfData',
    '-Djava.net.preferIPv4Stack=true', '-Xshare:auto', '-Xlog:cds=off', '-Xlog:class+path=off',
    `-XX:SharedArchiveFile=${path.join(kafka, 'kafka.jsa')}`,
    `-Dlog4j2.configurationFile=${path.join(source, 'tests/parts/log4j2.yaml')}`,
    '-cp', jars.join(':'), ...args,
  ], log);
}

const configuration = (plain, controller, data) => `
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:${controller}
listeners=PLAINTEXT://127.0.0.1:${plain},CONTROLLER://127.0.0.1:${controller}
advertised.listeners=PLAINTEXT://127.0.0.1:${plain}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=${data}
# On, so that a client that lets topics be created is found out.
auto.create.topics.enable=true
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
num.network.threads=2
num.io.threads=2
background.threads=2
log.cleaner.dedupe.buffer.size=2097152
log.segment.bytes=16777216
log.index.size.max.bytes=1048576
`;
