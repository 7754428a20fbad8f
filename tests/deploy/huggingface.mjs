// node huggingface.mjs BUILD PICTURE: ask BUILD/halutd with the client that Hugging Face publishes.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';

const [build, picture] = process.argv.slice(2);
const { InferenceClient } = createRequire(resolve(build, 'deploy') + '/')('@huggingface/inference');
const daemon = spawn(join(build, 'halutd'), ['--models=models', '--listen=127.0.0.1:0'], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
const url = await new Promise((ready, failed) => {
  daemon.on('exit', (code) => failed(new Error(`the daemon ended with ${code}`)));
  createInterface(daemon.stdout).on('line', (line) => ready(/http:\/\/[\d.:]+/.exec(line)[0]));
});
const client = new InferenceClient('hf_token', { endpointUrl: `${url}/models/resnet9-cifar10` });
const bytes = readFileSync(picture);
try {
  for (const data of [new Blob([bytes], { type: 'image/jpeg' }), new Blob([bytes]), new Uint8Array(bytes).buffer]) {
    const found = await client.imageClassification({ data });
    assert.equal(found.length, 5);
    assert.equal(found[0].label, 'cat');
    assert.ok(found[0].score > found[1].score && found[0].score <= 1);
  }
  await assert.rejects(client.imageClassification({ data: new Blob(['no picture']) }), (error) => {
    assert.equal(error.httpResponse.status, 400);
    return /10 bytes that are neither PNG nor JPEG/.test(error.message);
  });
} finally {
  daemon.kill();
}
