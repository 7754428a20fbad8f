#!/usr/bin/env node
// test: the JavaScript client against a server that misbehaves on purpose, and against the real daemon
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cp, mkdtemp, readFile, rm } from "node:fs/promises";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Client, ConnectionError, LearningError, RequestError, TimeoutError } from "./halutd.js";

const top = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const labels = { model: "m", backend: "cpu", top: [{ label: "cat", index: 3, probability: 0.5 }] };
const tests = [];
let skipped = 0;
const skip = (why) => {
  skipped++;
  console.log(`skip: ${why}`);
};
const test = (name, run) => tests.push([name, run]);

// Answers the n-th request with the n-th step: {status, body, headers}, "close" or "stall".
async function script(steps, use, options = {}) {
  const requests = [];
  const server = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    requests.push({ method: request.method, url: request.url, headers: request.headers, body: Buffer.concat(parts) });
    const step = steps.shift();
    if (step === "close") return request.socket.destroy();
    if (step === "stall") return;
    const body = Buffer.isBuffer(step.body) ? step.body : JSON.stringify(step.body);
    response.writeHead(step.status, step.headers ?? {});
    response.end(body);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const url = `http://127.0.0.1:${server.address().port}`;
    return await use(new Client(url, { timeout: 5000, attempts: 3, ...options }), requests);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

test("retries a busy server", () =>
  script([{ status: 503, body: { error: "full" } }, { status: 200, body: labels }], async (client, requests) => {
    const result = await client.classify(new Uint8Array([1, 2]), { model: "a b", top: 1 });
    assert.deepEqual(result, labels);
    assert.equal(requests.length, 2);
    assert.equal(requests[1].url, "/v1/classify?top=1&model=a+b");
    assert.deepEqual([...requests[1].body], [1, 2]);
  }));

test("gives up when busy for long", () =>
  script(Array(3).fill({ status: 503, body: { error: "full" } }), async (client, requests) => {
    await assert.rejects(client.models(), (e) => e instanceof RequestError && e.message === "full");
    assert.equal(requests.length, 3);
  }));

test("does not repeat mistakes", () =>
  script([{ status: 400, body: { error: "bad picture" } }], async (client, requests) => {
    await assert.rejects(client.classify("x"), (e) => e.status === 400 && e.message === "bad picture");
    assert.equal(requests.length, 1);
  }));

test("survives hang-ups", () =>
  script(["close", "close", { status: 200, body: labels }], async (client) => {
    assert.equal((await client.classify("x")).model, "m");
  }));

test("times out and can be cancelled", async () => {
  await script(["stall"], (client) => assert.rejects(client.models(), TimeoutError), { timeout: 150 });
  await script(["stall"], (client) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error("changed my mind")), 50);
    return assert.rejects(client.models({ signal: controller.signal }), /changed my mind/);
  });
});

test("is cancelled between two attempts", () =>
  script([{ status: 503, headers: { "Retry-After": "2" }, body: { error: "full" } }], async (client) => {
    const began = Date.now();
    const signal = AbortSignal.timeout(100);
    await assert.rejects(client.models({ signal }), (error) => error === signal.reason);
    assert.ok(Date.now() - began < 1000);
  }));

test("leaves nothing on a signal that lives on", () =>
  script([{ status: 503, body: { error: "full" } }, { status: 200, body: { models: [] } }], async (client) => {
    const { signal } = new AbortController();
    let listeners = 0;
    const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)];
    signal.addEventListener = (...rest) => (listeners++, add(...rest));
    signal.removeEventListener = (...rest) => (listeners--, remove(...rest));
    await client.models({ signal });
    assert.equal(listeners, 0);
  }));

test("says when there is no server", async () => {
  const client = new Client("http://127.0.0.1:1", { attempts: 2 });
  await assert.rejects(client.models(), ConnectionError);
  assert.equal(await client.healthy(), false);
});

test("sends and reads binary tensors", () => {
  const head = JSON.stringify({
    model_name: "m",
    outputs: [
      { name: "y", datatype: "INT16", shape: [2], parameters: { binary_data_size: 4 } },
      { name: "z", datatype: "FP32", shape: [2, 1], data: [[1], [2]] },
    ],
  });
  const body = Buffer.concat([Buffer.from(head), Buffer.from([1, 0, 255, 255])]);
  const headers = { "Inference-Header-Content-Length": String(head.length) };
  return script([{ status: 200, body, headers }], async (client, requests) => {
    const x = { datatype: "UINT8", shape: [1, 2], data: [[7, 9]] };
    const result = await client.infer("m/n", { x }, { id: "i", outputs: ["y", "z"] });
    assert.deepEqual([...result.outputs.y.data], [1, -1]);
    assert.deepEqual(result.outputs.z.data, [1, 2]);
    assert.equal(requests[0].url, "/v2/models/m%2Fn/infer");
    const size = Number(requests[0].headers["inference-header-content-length"]);
    assert.deepEqual([...requests[0].body.subarray(size)], [7, 9]);
    assert.equal(JSON.parse(requests[0].body.subarray(0, size)).id, "i");
  });
});

test("refuses what it cannot send", async () => {
  const client = new Client("http://127.0.0.1:1");
  await assert.rejects(client.matmul([[1], [1, 2]], { model: "m" }), RangeError);
  await assert.rejects(client.matmul([], { model: "m" }), RangeError);
  await assert.rejects(client.infer("m", { x: { datatype: "FP99", shape: [1], data: [1] } }), TypeError);
  await assert.rejects(client.infer("m", { x: { datatype: "FP32", shape: [2], data: [1] } }), RangeError);
});

async function withDaemon(use) {
  const program = path.join(process.env.HALUT_BUILD ?? path.join(top, "build"), "halutd");
  const folder = await mkdtemp(path.join(os.tmpdir(), "halutd-")); // what is learned goes there too
  await cp(path.join(top, "models"), folder, {
    recursive: true,
    filter: (from) => from === path.join(top, "models") || from.endsWith(".safetensors"),
  });
  const flags = ["--listen", "127.0.0.1:0", "--models", folder, "--learn-priority", "normal"];
  const daemon = spawn(program, flags);
  const ended = new Promise((resolve, reject) => {
    daemon.on("exit", resolve);
    daemon.on("error", reject);
  });
  const ready = new Promise((resolve) => {
    for (const stream of [daemon.stdout, daemon.stderr]) {
      createInterface(stream).on("line", (line) => {
        const found = /http:\/\/127\.0\.0\.1:\d+/.exec(line);
        if (found) resolve(found[0]);
      });
    }
  });
  const url = await Promise.race([ready, ended.then(() => Promise.reject(new Error("no daemon")))]);
  try {
    await use(new Client(url));
  } finally {
    daemon.kill("SIGTERM");
    const code = await ended;
    await rm(folder, { recursive: true });
    assert.equal(code, 0);
  }
}

test("works with the daemon", () =>
  withDaemon(async (client) => {
    for (let i = 0; i < 100 && !(await client.healthy()); i++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const { models } = await client.models();
    const { columns, outputs } = models.find((model) => model.name === "signal");
    const rows = [0, 1, 2].map((i) => Array.from({ length: columns }, (_, j) => ((i + j) % 7) / 4));
    const c = await client.matmul(rows, { model: "signal" });
    assert.deepEqual([c.rows, c.columns], [3, outputs]);
    await assert.rejects(client.classify("x", { model: "nonesuch" }), (e) => e.status === 404);
    assert.match(await client.metrics(), /# HELP halutd_/);
    if (models.some((model) => model.kind === "network")) {
      const photo = await readFile(path.join(top, "models/photo/cat.jpg"));
      assert.equal((await client.classify(photo, { top: 3 })).top[0].label, "cat");
    }
  }));

test("explains an output of a learned layer", () =>
  withDaemon(async (client) => {
    const network = (await client.models()).models.find((model) => model.kind === "network");
    if (network === undefined) return skip("no network is served: nothing to explain");
    const { layers } = await client.model(network.name);
    const { name, codebooks, channels } = layers.find((layer) => layer.op === "halut");
    const photo = await readFile(path.join(top, "models/photo/cat.jpg"));
    const place = { model: network.name, layer: name, x: 2, y: 1, output: channels - 1 };
    const told = await client.explain(photo, place);
    assert.equal(told.paths.length, codebooks);
    assert.equal(told.paths.reduce((sum, { entry }) => sum + entry, 0), told.sum);
    assert.equal(told.value, told.map[1][2]);
    const timed = await client.classify(photo, { model: network.name, timing: "layers" });
    assert.ok(timed.layers.some((layer) => layer.name.split("+").includes(name)));
  }));

test("does not start learning twice", async () => {
  const job = (state) => ({ id: "j", name: "n", state, stage: "", progress: 0.5, seconds: 1, error: "no luck" });
  const queued = { status: 202, body: { id: "j" } };
  await script(["close", queued], (client) =>
    assert.rejects(client.learn([[1]], [[1]], { name: "n" }), ConnectionError));
  const steps = [
    { status: 503, body: { error: "full" } },
    queued,
    { status: 200, body: job("running") },
    "close",
    { status: 200, body: job("failed") },
  ];
  await script(steps, async (client, requests) => {
    const seen = [];
    const progress = ({ state }) => seen.push(state);
    const learning = client.learn([[1, 2]], [[1], [2]], { name: "n", seed: 3, progress });
    await assert.rejects(learning, (e) => e instanceof LearningError && /no luck/.test(e.message));
    assert.deepEqual(seen, ["running", "failed"]);
    assert.match(requests[1].body.toString("latin1"), /name="seed"\r\n\r\n3\r\n/);
  });
});

test("cancels a job that was given up before it was seen", () => {
  const queued = { status: 202, body: { id: "j" } };
  return script([queued, "stall", { status: 200, body: {} }], async (client, requests) => {
    const controller = new AbortController();
    const starting = client.startLearning([[1]], [[1]], { name: "n", signal: controller.signal });
    while (requests.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
    controller.abort(new Error("enough"));
    await assert.rejects(starting, /enough/);
    assert.deepEqual([requests[2].method, requests[2].url], ["DELETE", "/v1/jobs/j"]);
  });
});

test("learns with progress, and cancels", () =>
  withDaemon(async (client) => {
    const a = Array.from({ length: 200 }, (_, i) => [0, 1, 2, 3].map((j) => ((i * 7 + j * 3) % 11) / 11));
    const b = [[1, 0.5], [0, -1], [2, 1], [0.25, 0]];
    const seen = [];
    const job = await client.learn(a, b, { name: "learned", codebooks: 4, progress: (one) => seen.push(one) });
    assert.equal(job.state, "done");
    assert.deepEqual(seen.at(-1), job);
    assert.ok(job.result.nmse < 0.5);
    assert.deepEqual((await client.jobs()).at(-1), job);
    const c = await client.matmul(a.slice(0, 2), { model: "learned" });
    assert.deepEqual([c.rows, c.columns], [2, 2]);
    const few = await client.learn(a, b, { name: "few", codebooks: 4, prototypes: 2 });
    assert.ok(few.result.mse > job.result.mse);
    await assert.rejects(client.learn(a, b, { name: "few", prototypes: 6 }), (e) => /16, not 6/.test(e.message));
    await assert.rejects(client.learn(a, b.slice(1), { name: "learned" }), (e) => /b: has 3 rows/.test(e.message));
    const controller = new AbortController();
    const data = Float32Array.from({ length: 20000 * 64 }, () => Math.random());
    const wide = { data, rows: 20000, columns: 64 };
    const square = { data: data.slice(0, 64 * 64), rows: 64, columns: 64 };
    const progress = ({ state }) => state === "running" && controller.abort(new Error("enough"));
    const { signal } = controller;
    await assert.rejects(client.learn(wide, square, { name: "x", codebooks: 1, progress, signal }), /enough/);
    assert.equal((await client.jobs()).at(-1).state, "cancelled");
  }));

test("infers alike in binary and JSON", () =>
  withDaemon(async (client) => {
    try {
      await client.metadata();
    } catch (error) {
      if (error.status === 404) return skip("the daemon has no /v2");
      throw error;
    }
    const { models } = await client.models();
    const { columns } = models.find((model) => model.name === "signal");
    const rows = [0, 1, 2].map((i) => Array.from({ length: columns }, (_, j) => ((i + j) % 7) / 4));
    const c = await client.matmul(rows, { model: "signal" });
    const about = await client.metadata("signal");
    const x = { [about.inputs[0].name]: { datatype: "FP32", shape: [3, columns], data: rows } };
    const y = about.outputs[0].name;
    const binary = await client.infer("signal", x);
    const json = await client.infer("signal", x, { binary: false });
    assert.deepEqual(binary.outputs[y].data, c.data);
    assert.deepEqual(Float32Array.from(json.outputs[y].data), c.data);
    const picture = await readFile(path.join(top, "models/photo/cat.jpg"));
    for (const [one, options] of [[picture, {}], [picture.toString("base64"), { binary: false }]]) {
      const image = { image: { datatype: "BYTES", shape: [1], data: [one] } };
      const { logits } = (await client.infer("resnet9-cifar10", image, options)).outputs;
      const best = Math.max(...logits.data);
      assert.equal(logits.data.indexOf(best), 3, "a cat");
    }
  }));

test("packs and unpacks elements of bytes", () => {
  const head = Buffer.from(JSON.stringify({ outputs: [{ name: "y", datatype: "BYTES", shape: [2],
    parameters: { binary_data_size: 12 } }] }));
  const packed = Buffer.from("\x01\0\0\0a\x03\0\0\0b\u00e9", "utf8");
  const headers = { "Inference-Header-Content-Length": String(head.length) };
  const step = { status: 200, headers, body: Buffer.concat([head, packed]) };
  return script([step], async (client, requests) => {
    const { outputs } = await client.infer("m", { x: { datatype: "BYTES", shape: [2], data: ["a", "b\u00e9"] } });
    assert.deepEqual(outputs.y.data, ["a", "b\u00e9"]);
    assert.deepEqual(requests[0].body.subarray(-12), packed);
  });
});

let failed = 0;
for (const [name, run] of tests) {
  try {
    await run();
  } catch (error) {
    failed++;
    console.log(`${name}: ${error.stack}`);
  }
}
console.log(`${tests.length - failed - skipped} passed, ${failed} failed, ${skipped} skipped`);
process.exit(failed === 0 ? 0 : 1);
