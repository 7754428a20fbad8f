// node peer.mjs MODULES MODEL BATCH SECONDS: time ONNX Runtime on one thread.
//
// Prints one JSON object like `halut bench --json`: images_per_second (wall clock) and
// cpu_seconds_per_image (processor time of the whole process while it ran batches, which does not
// grow when the core is shared). MODULES is the folder that onnxruntime-node was installed into.
import { createRequire } from 'node:module';
import { resolve } from 'node:path';

const [modules, model, batchText, secondsText] = process.argv.slice(2);
const batch = Number(batchText);
const seconds = Number(secondsText);
if (!model || !(batch >= 1) || !(seconds > 0)) {
  console.error('usage: node peer.mjs MODULES MODEL BATCH SECONDS');
  process.exit(2);
}
const ort = createRequire(resolve(modules) + '/')('onnxruntime-node');
const session = await ort.InferenceSession.create(model, {
  executionProviders: ['cpu'],
  intraOpNumThreads: 1,
  interOpNumThreads: 1,
  executionMode: 'sequential',
  graphOptimizationLevel: 'all',
  logSeverityLevel: 3,
});
const pixels = Float32Array.from({ length: batch * 3072 }, () => Math.random() * 4 - 2);
const x = new ort.Tensor('float32', pixels, [batch, 3, 32, 32]);
for (let warm = 0; warm < 3; warm++) await session.run({ x });

let images = 0;
const cpu = process.cpuUsage();
const begin = performance.now();
let elapsed = 0;
do {
  await session.run({ x });
  images += batch;
  elapsed = (performance.now() - begin) / 1000;
} while (elapsed < seconds);
const used = process.cpuUsage(cpu);
console.log(JSON.stringify({
  images,
  images_per_second: images / elapsed,
  cpu_seconds_per_image: (used.user + used.system) / 1e6 / images,
}));
