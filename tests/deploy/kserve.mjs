// node kserve.mjs BUILD FILE: run BUILD/halutd as KServe runs the ServingRuntime in FILE, and ask what KServe asks.
//
// With the container's own arguments and variables; folder and address are of this machine.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';

const [build, file] = process.argv.slice(2);
const YAML = createRequire(resolve(build, 'deploy') + '/')('yaml');
const [runtime, service] = YAML.parseAllDocuments(readFileSync(file, 'utf8')).map((one) => one.toJS());
const { containers, protocolVersions, annotations, supportedModelFormats } = runtime.spec;
const [container] = containers;

// KServe looks for this name, puts models below /mnt/models, and takes the first port.
assert.deepEqual([containers.length, container.name], [1, 'kserve-container']);
assert.ok(container.args.includes('--models=/mnt/models'));
const { model } = service.spec.predictor;
assert.equal(model.runtime, runtime.metadata.name);
assert.equal(model.modelFormat.name, supportedModelFormats[0].name);
assert.ok(protocolVersions.includes(model.protocolVersion));
const [{ containerPort }] = container.ports;
assert.ok(container.args.includes(`--listen=0.0.0.0:${containerPort}`));
assert.equal(Number(annotations['prometheus.kserve.io/port']), containerPort);

const here = (argument) =>
  argument.replace('/mnt/models', 'models').replace(`0.0.0.0:${containerPort}`, '127.0.0.1:0');
const variables = Object.fromEntries(container.env.map(({ name, value }) => [name, value]));
const daemon = spawn(join(build, 'halutd'), container.args.map(here), {
  env: { ...process.env, ...variables },
  stdio: ['ignore', 'pipe', 'inherit'],
});
const url = await new Promise((ready, failed) => {
  daemon.on('exit', (code) => failed(new Error(`the daemon ended with ${code}`)));
  createInterface(daemon.stdout).on('line', (line) => ready(/http:\/\/[\d.:]+/.exec(line)[0]));
});
const ask = async (path, body) => {
  const answer = await fetch(url + path, body && { method: 'POST', body: JSON.stringify(body) });
  assert.equal(answer.status, 200, `${path}: ${answer.status}`);
  return answer;
};
try {
  const { readinessProbe, livenessProbe } = container;
  assert.deepEqual([readinessProbe.httpGet.port, livenessProbe.tcpSocket.port], [containerPort, containerPort]);
  await ask(readinessProbe.httpGet.path);
  await ask(annotations['prometheus.kserve.io/path']);
  const row = [0, 1, 2, 3, 4, 5, 6, 7];
  const of = {
    v1: async () => (await (await ask('/v1/models/signal:predict', { instances: [row] })).json()).predictions[0],
    v2: async () => {
      const input = { name: 'a', shape: [1, 8], datatype: 'FP32', data: row };
      return (await (await ask('/v2/models/signal/infer', { inputs: [input] })).json()).outputs[0].data;
    },
  };
  for (const version of protocolVersions) assert.equal((await of[version]()).length, 3);
} finally {
  daemon.kill();
}
