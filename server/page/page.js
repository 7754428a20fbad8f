// page.js: the page that halutd serves at "/". Three tabs; everything works against the same server, nothing is
// loaded from elsewhere. The page reduces a picture itself, with the server's filter, so that the pixels it
// shows are the very ones that are classified.
import { Client } from "/page/halutd.js";

const client = new Client("", { timeout: 15000, attempts: 3 });
const by = (id) => document.getElementById(id);

/** A new element with text. */
function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function say(place, text, kind = "") {
  by(place).replaceChildren(make("p", text, kind === "" ? {} : { class: kind }));
}

// ---- Tabs: arrows move, as the ARIA pattern has it ----

const tabs = [...document.querySelectorAll('[role="tab"]')];

function choose(tab) {
  for (const one of tabs) {
    const on = one === tab;
    one.setAttribute("aria-selected", String(on));
    one.tabIndex = on ? 0 : -1;
    by(one.getAttribute("aria-controls")).hidden = !on;
  }
  watch(tab.id === "tab-live");
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tabs.length - 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = tabs[(steps[event.key] + tabs.length) % tabs.length];
    choose(next);
    next.focus();
  });
}

// ---- Which models there are ----

let models = [];

async function start() {
  try {
    models = (await client.models()).models;
  } catch (error) {
    by("state").textContent = `The server does not answer: ${error.message}`;
    by("state").className = "bad";
    return;
  }
  fill("model", "network", "no network is served");
  fill("product", "product", "no product is served");
  by("state").textContent = `${models.length} model${models.length === 1 ? "" : "s"} served.`;
  by("state").className = "note";
  showProduct();
}

function fill(id, kind, none) {
  const fit = models.filter((model) => model.kind === kind && (kind === "product" || model.channels === 3));
  const names = fit.map((model) => model.name);
  by(id).replaceChildren(...names.map((name) => make("option", name, { value: name })));
  if (names.length === 0) by(id).append(make("option", none, { value: "" }));
  by(id).disabled = names.length === 0;
}

// ---- The picture ----

/** Weights of the triangle filter: for each of `target` pixels, [first source pixel, weights…, their sum]. */
function spans(source, target) {
  const reach = 2 * Math.max(source, target);
  return Array.from({ length: target }, (_, i) => {
    const weights = [];
    let first = -1;
    for (let j = 0; j < source; j++) {
      const weight = reach - Math.abs((2 * j + 1) * target - (2 * i + 1) * source);
      if (weight <= 0) continue;
      if (first < 0) first = j;
      weights.push(weight);
    }
    return { first, weights, total: weights.reduce((a, b) => a + b, 0) };
  });
}

/** The largest centred part of width x height that has the shape of W x H. */
function cropped(width, height, W, H) {
  const part = (extent, other, target, targetOther) =>
    Math.min(extent, Math.max(1, Math.floor((other * target) / targetOther)));
  const [w, h] = [part(width, height, W, H), part(height, width, H, W)];
  return [Math.floor((width - w) / 2), Math.floor((height - h) / 2), w, h];
}

/** RGBA pixels over white to planar u8 [3][H][W]; whole numbers below 2^53, as exact as the server's. */
function reduce({ data, width, height }, squash, W, H) {
  const [x0, y0, w, h] = squash ? [0, 0, width, height] : cropped(width, height, W, H);
  const [across, down] = [spans(w, W), spans(h, H)];
  const rows = new Uint16Array(h * 3 * W);
  for (let y = 0; y < h; y++) {
    for (const [i, { first, weights, total }] of across.entries()) {
      const sum = [0, 0, 0];
      let at = 4 * ((y0 + y) * width + x0 + first);
      for (const weight of weights) {
        const alpha = data[at + 3];
        for (let c = 0; c < 3; c++) {
          const over = Math.floor((data[at + c] * alpha + 255 * (255 - alpha) + 127) / 255);
          sum[c] += weight * over;
        }
        at += 4;
      }
      for (let c = 0; c < 3; c++) {
        rows[(y * 3 + c) * W + i] = Math.floor((sum[c] * 256 + Math.floor(total / 2)) / total);
      }
    }
  }
  const planar = new Uint8Array(3 * W * H);
  for (const [i, { first, weights, total }] of down.entries()) {
    for (let x = 0; x < 3 * W; x++) {
      let sum = 0;
      weights.forEach((weight, j) => (sum += weight * rows[(first + j) * 3 * W + x]));
      const at = Math.floor(x / W) * W * H + i * W + (x % W);
      planar[at] = Math.floor((sum + total * 128) / (total * 256));
    }
  }
  return planar;
}

function showSeen(planar, W, H) {
  const image = new ImageData(W, H);
  const plane = W * H;
  for (let i = 0; i < plane; i++) {
    image.data.set([planar[i], planar[plane + i], planar[2 * plane + i], 255], 4 * i);
  }
  [by("seen").width, by("seen").height] = [W, H];
  by("seen").getContext("2d").putImageData(image, 0, 0);
  by("seen").setAttribute("aria-label", `The picture reduced to ${W} by ${H} pixels`);
}

let lastPlanar = null; // what was classified last
let lastPicture = null; // ImageData, kept so that another fit or model can be tried at once

async function takeFile(file) {
  if (!file) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    say("verdict", `${file.name || "That"} is no picture that this browser can read.`, "bad");
    return;
  }
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  lastPicture = context.getImageData(0, 0, bitmap.width, bitmap.height);
  await classify();
}

async function classify() {
  if (lastPicture === null) return;
  const { width, height } = chosenNetwork() ?? { width: 32, height: 32 };
  const squash = document.querySelector('[name="fit"]:checked').value === "squash";
  const planar = reduce(lastPicture, squash, width, height);
  lastPlanar = planar;
  showSeen(planar, width, height);
  say("verdict", "Asking…", "note");
  const began = performance.now();
  try {
    const result = await client.classify(planar, { model: by("model").value || undefined, top: 5 });
    showResult(result, performance.now() - began);
  } catch (error) {
    for (const id of ["labels", "phases", "device", "compare"]) by(id).hidden = true;
    by("agreement").replaceChildren();
    say("verdict", error.message, "bad");
  }
}

function showResult(result, elapsed) {
  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  const [best] = result.top;
  say("verdict", `${best.label}, ${percent(best.probability)}: ${result.model} on ${result.backend}`);
  const rows = result.top.map(({ label, probability }) => {
    const row = make("tr");
    const bar = make("meter", percent(probability), { min: 0, max: 1, value: probability });
    bar.setAttribute("aria-label", `${label}: ${percent(probability)}`);
    const cell = make("td", `${percent(probability)} `);
    cell.append(bar);
    row.append(make("th", label, { scope: "row" }), cell);
    return row;
  });
  by("labels").tBodies[0].replaceChildren(...rows);
  by("labels").hidden = false;
  const phases = Object.entries(result.timing_us ?? {}).filter(([, value]) => typeof value === "number");
  phases.push(["seen from this page", 1000 * elapsed]);
  by("phases").tBodies[0].replaceChildren(
    ...phases.map(([name, value]) => {
      const row = make("tr");
      row.append(make("th", name, { scope: "row" }), make("td", value.toFixed(0)));
      return row;
    }),
  );
  by("phases").hidden = false;
  by("agreement").replaceChildren();
  by("compare").hidden = (chosenNetwork()?.backends ?? []).length < 2;
  const { device } = result;
  by("device").hidden = device === undefined;
  if (device !== undefined) {
    const { cycles, stalls, lookups, energy_uj: energy } = device;
    by("device").textContent =
      `Accelerator: ${cycles} cycles, ${stalls} of them waiting, ${lookups} look-ups, ` +
      `about ${energy.toFixed(1)} µJ.`;
  }
}

const chosenNetwork = () => models.find((model) => model.name === by("model").value);

/** The same pixels on every backend of the model: do they say the same, and how long did each take? */
async function compare() {
  say("agreement", "Asking each backend…", "note");
  try {
    const { name, backends } = chosenNetwork();
    const results = [];
    for (const backend of backends) {
      results.push(await client.classify(lastPlanar, { model: name, backend, top: 1000 }));
    }
    const same = results.every((one) => JSON.stringify(one.top) === JSON.stringify(results[0].top));
    const times = results.map((one) => `${one.backend} ${one.timing_us.compute} µs`).join(", ");
    const verdict = same ? "All say exactly the same" : "They differ, which must not be";
    say("agreement", `${verdict}: ${times}.`, same ? "" : "bad");
  } catch (error) {
    say("agreement", error.message, "bad");
  }
}

by("compare").addEventListener("click", compare);
by("file").addEventListener("change", (event) => takeFile(event.target.files[0]));
for (const radio of document.querySelectorAll('[name="fit"]')) radio.addEventListener("change", classify);
by("model").addEventListener("change", classify);
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) takeFile(file);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  by("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    by("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") takeFile(event.dataTransfer.files[0]);
  });
}

// ---- Drawing ----

const pad = by("pad").getContext("2d", { willReadFrequently: true });

function clearPad() {
  pad.fillStyle = "#ffffff";
  pad.fillRect(0, 0, 256, 256);
}

function draw(event) {
  if (event.buttons === 0) return;
  const box = by("pad").getBoundingClientRect();
  const scale = 256 / box.width;
  const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  pad.strokeStyle = by("ink").value;
  pad.lineWidth = Number(by("nib").value);
  pad.lineCap = "round";
  if (event.type === "pointerdown") {
    pad.beginPath();
    pad.moveTo(x, y);
  }
  pad.lineTo(x, y);
  pad.stroke();
}

by("pad").addEventListener("pointerdown", draw);
by("pad").addEventListener("pointermove", draw);
by("clear-drawing").addEventListener("click", clearPad);
by("classify-drawing").addEventListener("click", () => {
  lastPicture = pad.getImageData(0, 0, 256, 256);
  classify();
});
clearPad();

// ---- Matrices ----

const chosenProduct = () => models.find((model) => model.name === by("product").value);

function showProduct() {
  const model = chosenProduct();
  by("product-shape").textContent = model
    ? `A has ${model.columns} columns, the result ${model.outputs}.`
    : "";
}

function parseMatrix(text, name) {
  const lines = text.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  const rows = lines.map((line) => line.split(/[\s,;]+/).map(Number));
  rows.forEach((row, i) => {
    const bad = row.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) throw new Error(`${name}: line ${i + 1}, value ${bad + 1} is no number`);
    if (row.length !== rows[0].length) {
      throw new Error(`${name}: line ${i + 1} has ${row.length} values, line 1 has ${rows[0].length}`);
    }
  });
  return rows;
}

/** Rows with some structure, which is what learned tables live on: a few waves and a little noise. */
function generate() {
  const model = chosenProduct();
  if (!model) return;
  const lines = Array.from({ length: 16 }, () => {
    const [phase, speed, height] = [6.3 * Math.random(), 0.05 + 0.3 * Math.random(), Math.random()];
    const value = (j) => height * Math.sin(phase + speed * j) + 0.05 * (Math.random() - 0.5);
    return Array.from({ length: model.columns }, (_, j) => value(j).toFixed(3)).join(" ");
  });
  by("matrix-a").value = lines.join("\n");
}

/** A heat map of rows: blue below zero, white at it, orange above. */
function heatMap(title, rows, limit) {
  const canvas = make("canvas", "", { class: "map", role: "img", "aria-label": title });
  canvas.width = rows[0].length;
  canvas.height = rows.length;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  rows.flat().forEach((value, i) => {
    const part = Math.max(-1, Math.min(1, value / (limit || 1)));
    const fade = (to) => Math.round(255 + Math.abs(part) * (to - 255));
    const color = part < 0 ? [fade(20), fade(80), fade(200)] : [fade(220), fade(100), fade(0)];
    image.data.set([...color, 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
  const figure = make("figure");
  figure.append(make("figcaption", title), canvas);
  return figure;
}

function exactProduct(a, b) {
  if (a[0].length !== b.length) throw new Error(`B has ${b.length} rows, A has ${a[0].length} columns`);
  return a.map((row) => b[0].map((_, m) => row.reduce((sum, value, d) => sum + value * b[d][m], 0)));
}

const largest = (rows) => Math.max(...rows.flat().map(Math.abs));

async function multiply() {
  by("maps").replaceChildren();
  try {
    const a = parseMatrix(by("matrix-a").value, "A");
    if (a.length === 0) throw new Error("A has no rows: generate some, or paste them");
    const began = performance.now();
    const c = await client.matmul(a, { model: by("product").value });
    const elapsed = performance.now() - began;
    const rows = Array.from({ length: c.rows }, (_, i) =>
      Array.from(c.data.slice(i * c.columns, (i + 1) * c.columns)),
    );
    const text = `${c.rows} × ${c.columns} values in ${elapsed.toFixed(1)} ms, seen from this page.`;
    const b = parseMatrix(by("matrix-b").value, "B");
    if (b.length === 0) {
      by("maps").append(heatMap("A·B, looked up", rows, largest(rows)));
      say("matrix-result", text);
      return;
    }
    const exact = exactProduct(a, b);
    if (exact[0].length !== c.columns) throw new Error(`B has ${exact[0].length} columns, not ${c.columns}`);
    const difference = rows.map((row, i) => row.map((value, m) => value - exact[i][m]));
    const square = (all) => all.flat().reduce((sum, value) => sum + value * value, 0);
    const error = square(difference) / square(exact);
    const limit = largest(exact);
    by("maps").append(
      heatMap("A·B, looked up", rows, limit),
      heatMap("A·B, exact", exact, limit),
      heatMap("difference", difference, limit),
    );
    say("matrix-result", `${text} Squared error over squared exact values: ${error.toPrecision(3)}.`);
  } catch (error) {
    say("matrix-result", error.message, "bad");
  }
}

by("product").addEventListener("change", showProduct);
by("generate-a").addEventListener("click", generate);
by("multiply").addEventListener("click", multiply);

// ---- Live ----

const HISTORY = 60; // seconds

/** Prometheus' text to a list of {name, labels, value}. */
function parseMetrics(text) {
  const pattern = /^([a-z_:A-Z0-9]+)(?:\{(.*)\})? (\S+)$/gm;
  return [...text.matchAll(pattern)].map(([, name, inside, value]) => ({
    name,
    labels: Object.fromEntries([...(inside ?? "").matchAll(/(\w+)="([^"]*)"/g)].map((m) => [m[1], m[2]])),
    value: Number(value),
  }));
}

const total = (metrics, name, wanted = {}) =>
  metrics
    .filter((m) => m.name === name && Object.entries(wanted).every(([k, v]) => m.labels[k] === v))
    .reduce((sum, m) => sum + m.value, 0);

/** What is drawn: a value from two readings and the seconds between them. */
const charts = [
  {
    title: "Requests a second",
    value: (now, before, seconds) =>
      (total(now, "halutd_requests_total") - total(before, "halutd_requests_total")) / seconds,
  },
  {
    title: "Rows and images a second",
    value: (now, before, seconds) =>
      (total(now, "halutd_batch_rows_sum") - total(before, "halutd_batch_rows_sum")) / seconds,
  },
  {
    title: "Mean computing time, ms",
    value: (now, before) => {
      const phase = { phase: "compute" };
      const part = (name) => total(now, name, phase) - total(before, name, phase);
      const count = part("halutd_phase_seconds_count");
      return count > 0 ? (1000 * part("halutd_phase_seconds_sum")) / count : 0;
    },
  },
  { title: "Waiting in the queue", value: (now) => total(now, "halutd_queue_length") },
].map((chart) => ({ ...chart, points: [] }));

function drawChart(chart) {
  const top = Math.max(1e-9, ...chart.points);
  const x = (i) => HISTORY - chart.points.length + i + 1;
  chart.line.setAttribute("points", chart.points.map((v, i) => `${x(i)},${58 - 54 * (v / top)}`).join(" "));
  const last = chart.points.at(-1) ?? 0;
  const text = (v) => (v >= 100 ? v.toFixed(0) : v.toPrecision(3));
  chart.caption.textContent = `${chart.title}: ${text(last)} (most ${text(Math.max(0, ...chart.points))})`;
  chart.drawing.setAttribute("aria-label", chart.caption.textContent);
}

for (const chart of charts) {
  const space = "http://www.w3.org/2000/svg";
  const figure = make("figure");
  chart.caption = make("figcaption", chart.title);
  chart.drawing = document.createElementNS(space, "svg");
  chart.drawing.setAttribute("class", "chart");
  chart.drawing.setAttribute("viewBox", `0 0 ${HISTORY} 60`);
  chart.drawing.setAttribute("preserveAspectRatio", "none");
  chart.drawing.setAttribute("role", "img");
  chart.line = document.createElementNS(space, "polyline");
  chart.drawing.append(chart.line);
  figure.append(chart.caption, chart.drawing);
  by("charts").append(figure);
  drawChart(chart);
}

let timer = null;
let paused = false;
let reading = null; // {metrics, at}

async function poll() {
  try {
    const metrics = parseMetrics(await client.metrics());
    const at = performance.now();
    for (const chart of reading === null ? [] : charts) {
      chart.points.push(chart.value(metrics, reading.metrics, (at - reading.at) / 1000));
      chart.points = chart.points.slice(-HISTORY);
      drawChart(chart);
    }
    reading = { metrics, at };
    by("live-state").textContent = "once a second while this tab is open";
  } catch (error) {
    reading = null;
    by("live-state").textContent = `no metrics: ${error.message}`;
  }
}

function watch(on) {
  clearInterval(timer);
  timer = on && !paused ? setInterval(poll, 1000) : null;
  if (timer !== null) poll();
}

by("pause").addEventListener("click", () => {
  paused = !paused;
  by("pause").setAttribute("aria-pressed", String(paused));
  watch(true);
});

start();
