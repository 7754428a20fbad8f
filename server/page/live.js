// live.js: the third tab: what the server does, from /metrics, drawn once a second while the tab is open.
import { by, draw, make } from "./dom.js";
import { client, reason, turns } from "./server.js";

const HISTORY = 60; // readings
const PERIOD = 1000; // milliseconds
const HEIGHT = 60;

/** Prometheus' text to a list of {name, labels, value}. */
export function parseMetrics(text) {
  const pattern = /^([a-z_:A-Z0-9]+)(?:\{(.*)\})? (\S+)$/gm;
  return [...text.matchAll(pattern)].map(([, name, inside, value]) => ({
    name,
    labels: Object.fromEntries([...(inside ?? "").matchAll(/(\w+)="([^"]*)"/g)].map((m) => [m[1], m[2]])),
    value: value === "+Inf" ? Infinity : Number(value),
  }));
}

const total = (metrics, name, wanted = {}) =>
  metrics
    .filter((m) => m.name === name && Object.entries(wanted).every(([k, v]) => m.labels[k] === v))
    .reduce((sum, m) => sum + m.value, 0);

/** What a counter grew by a second; 0 over a restart, where it fell. */
const rate = (name) => (now, before, seconds) =>
  Math.max(0, total(now, name) - total(before, name)) / seconds;

/** The p-quantile in milliseconds of what was answered between two readings, as Prometheus has it. */
export function quantile(now, before, name, p) {
  const at = (metrics) =>
    metrics
      .filter((m) => m.name === `${name}_bucket`)
      .map(({ labels, value }) => [labels.le === "+Inf" ? Infinity : Number(labels.le), value])
      .sort((a, b) => a[0] - b[0]);
  const old = new Map(at(before));
  const grown = at(now).map(([le, value]) => [le, value - (old.get(le) ?? 0)]);
  const count = grown.at(-1)?.[1] ?? 0;
  if (count <= 0) return 0;
  let [low, below] = [0, 0];
  for (const [le, value] of grown) {
    if (value >= p * count) {
      return le === Infinity ? 1000 * low : 1000 * (low + ((le - low) * (p * count - below)) / (value - below));
    }
    [low, below] = [le, value];
  }
  return 1000 * low;
}

const latency = (p) => (now, before) => quantile(now, before, "halutd_request_seconds", p);

/** What is drawn: lines, each a value from two readings and the seconds between them. */
const charts = [
  { title: "Requests a second", lines: { requests: rate("halutd_requests_total") } },
  { title: "Images and rows a second", lines: { inputs: rate("halutd_batch_rows_sum") } },
  { title: "Latency, ms", lines: { median: latency(0.5), "99 in 100": latency(0.99) } },
  {
    title: "Requests now",
    lines: {
      waiting: (now) => total(now, "halutd_queue_length"),
      "in progress": (now) => total(now, "halutd_requests_in_progress"),
    },
  },
];

const number = (v) => (v >= 100 ? v.toFixed(0) : String(Number(v.toPrecision(3))));

function drawChart(chart) {
  const top = Math.max(1e-9, ...Object.values(chart.points).flat());
  const said = [];
  for (const [name, points] of Object.entries(chart.points)) {
    const now = `${name} ${number(points.at(-1) ?? 0)}`;
    const x = (i) => HISTORY - points.length + i + 1;
    const place = (v, i) => `${x(i)},${(HEIGHT - 2 - (HEIGHT - 6) * (v / top)).toFixed(2)}`;
    chart.drawn[name].setAttribute("points", points.map(place).join(" "));
    chart.keys[name].textContent = now;
    said.push(now);
  }
  chart.top.textContent = `top ${number(top > 1e-9 ? top : 0)}`;
  chart.drawing.setAttribute("aria-label", `${chart.title}: ${said.join(", ")}`);
}

for (const chart of charts) {
  const figure = make("figure");
  chart.points = {};
  chart.drawn = {};
  chart.keys = {};
  chart.top = make("span", "", { class: "note" });
  const caption = make("figcaption");
  caption.append(make("b", chart.title));
  chart.drawing = draw("svg", {
    class: "chart", viewBox: `0 0 ${HISTORY} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
  });
  for (const name of Object.keys(chart.lines)) {
    chart.points[name] = [];
    chart.drawn[name] = draw("polyline");
    chart.drawing.append(chart.drawn[name]);
    chart.keys[name] = make("span", "", { class: "key" });
    caption.append(chart.keys[name]);
  }
  caption.append(chart.top);
  figure.append(caption, chart.drawing);
  by("charts").append(figure);
  drawChart(chart);
}

const polling = turns();
let paused = false;
let reading = null; // {metrics, at}

/** Draws what happened since the last reading. */
function drawReading(metrics) {
  const at = performance.now();
  for (const chart of reading === null ? [] : charts) {
    for (const [name, value] of Object.entries(chart.lines)) {
      chart.points[name].push(value(metrics, reading.metrics, (at - reading.at) / 1000));
      chart.points[name] = chart.points[name].slice(-HISTORY);
    }
    drawChart(chart);
  }
  reading = { metrics, at };
}

/** One reading after the other, so that a slow server is not asked twice at once. */
async function poll(signal) {
  while (!signal.aborted) {
    try {
      const metrics = parseMetrics(await client.metrics({ signal }));
      if (signal.aborted) return;
      drawReading(metrics);
      by("live-state").textContent = "once a second while this tab is open";
    } catch (error) {
      if (signal.aborted) return;
      reading = null;
      by("live-state").textContent = `no metrics: ${reason(error)}`;
    }
    await new Promise((resolve) => setTimeout(resolve, PERIOD));
  }
}

/** Starts and ends the polling. */
export function watch(on) {
  const signal = polling.next();
  if (on && !paused) poll(signal);
}

by("pause").addEventListener("click", () => {
  paused = !paused;
  by("pause").setAttribute("aria-pressed", String(paused));
  if (paused) by("live-state").textContent = "paused";
  watch(true);
});
