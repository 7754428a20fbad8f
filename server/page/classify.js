// classify.js: the first tab: a picture in, labels, times and the agreement of the backends out.
import { busy, by, fillBars, fillSelect, say, show } from "./dom.js";
import { explainPicture } from "./explain.js";
import { pixelsOf, reduce, showPlanar } from "./picture.js";
import { client, modelOf, onModels, reason, turns } from "./server.js";

let picture = null; // ImageData, kept so that another fit or model can be tried at once
let planar = null; // what was classified last
const questions = turns(); // a newer picture, model or backend overtakes what was asked before

const chosen = () => modelOf(by("model").value);
const whole = (value) => Math.round(value).toLocaleString("en");
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const micros = (value) => (value >= 10 ? whole(value) : value.toFixed(1));

async function takeFile(file) {
  if (!file) return;
  const signal = questions.next();
  busy("verdict");
  try {
    const pixels = await pixelsOf(file);
    if (signal.aborted) return;
    picture = pixels;
  } catch {
    if (!signal.aborted) fail(`${file.name || "That"} is no picture that this browser can read.`);
    return;
  }
  await classify();
}

async function classify() {
  const model = chosen();
  if (picture === null) return;
  const signal = questions.next();
  if (model === undefined) {
    fail("No network is served that could classify it.");
    return;
  }
  const squash = document.querySelector('[name="fit"]:checked').value === "squash";
  planar = reduce(picture, squash, model.width, model.height);
  showPlanar(by("seen"), planar, model.width, model.height);
  by("seen").setAttribute("aria-label", `The picture reduced to ${model.width} by ${model.height} pixels`);
  say("verdict", "Asking…", "note");
  by("agreement").replaceChildren();
  const backend = by("backend").value || undefined;
  busy("verdict");
  const began = performance.now();
  try {
    const result = await client.classify(planar, { model: model.name, backend, top: 5, timing: "layers", signal });
    if (signal.aborted) return;
    showResult(result, performance.now() - began);
    await explainPicture(model.name, planar, signal);
  } catch (error) {
    if (!signal.aborted) fail(reason(error));
  }
}

/** Says why there is no result, and takes the last one away. */
function fail(why) {
  show(false, "labels", "timing", "device", "compare", "explanation");
  by("agreement").replaceChildren();
  say("verdict", why, "bad");
}

function showResult(result, elapsed) {
  const [best] = result.top;
  say("verdict", `${best.label}, ${percent(best.probability)}: ${result.model} on ${result.backend}`);
  fillBars(
    "labels",
    result.top.map(({ label, probability }) => [label, percent(probability), probability]),
  );
  const phases = Object.entries(result.timing_us);
  const most = Math.max(...phases.map(([, us]) => us));
  fillBars(
    "phases",
    phases.map(([name, us]) => [name, micros(us), us / most]),
  );
  by("elapsed").textContent = `${elapsed.toFixed(1)} ms seen from this page, with the way there and back.`;
  show(true, "timing");
  const longest = Math.max(...result.layers.map((layer) => layer.us));
  fillBars(
    "layers",
    result.layers.map(({ name, op, us }) => [`${name} (${op})`, micros(us), us / longest]),
  );
  show((chosen()?.backends ?? []).length > 1, "compare");
  showDevice(result.device);
}

function showDevice(device) {
  show(device !== undefined, "device");
  if (device === undefined) return;
  const { cycles, stalls, utilisation, lookups, energy_uj: energy } = device;
  by("device").textContent =
    `Accelerator: ${whole(cycles)} cycles, ${whole(stalls)} of them waiting (${percent(utilisation)} busy), ` +
    `${whole(lookups)} look-ups, about ${energy.toFixed(1)} µJ.`;
}

/** The same pixels on both backends, on the server: the same integers? */
async function compare() {
  say("agreement", "Computing on both backends; the accelerator is simulated and takes its time…", "note");
  by("compare").disabled = true;
  const signal = questions.now();
  try {
    const { compare: both, device } = await client.classify(planar, { model: chosen().name, compare: true, signal });
    if (signal.aborted) return;
    const names = both.backends.join(" and ");
    showDevice(device);
    if (both.identical) {
      const digest = both.sha256[both.backends[0]];
      say("agreement", `${names} gave the same integers, SHA-256 ${digest.slice(0, 16)}….`);
      return;
    }
    const { layer, element, values } = both.first_difference;
    const seen = both.backends.map((name) => `${values[name]} on ${name}`).join(", ");
    say("agreement", `They differ, which must not be: first in ${layer}, element ${element}: ${seen}.`, "bad");
  } catch (error) {
    if (!signal.aborted) say("agreement", reason(error), "bad");
  } finally {
    by("compare").disabled = false;
  }
}

// ---- Where pictures come from ----

by("compare").addEventListener("click", compare);
by("file").addEventListener("change", ({ target }) => {
  takeFile(target.files[0]);
  target.value = ""; // the same file may be chosen again
});
for (const radio of document.querySelectorAll('[name="fit"]')) radio.addEventListener("change", classify);
by("model").addEventListener("change", () => {
  showBackends();
  classify();
});
by("backend").addEventListener("change", classify);
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

const PAD = 256; // pixels of the drawing pad
const pad = by("pad").getContext("2d", { willReadFrequently: true });

function clearPad() {
  pad.fillStyle = "#ffffff";
  pad.fillRect(0, 0, PAD, PAD);
}

function drawOn(event) {
  if (event.buttons === 0) return;
  const box = by("pad").getBoundingClientRect();
  const scale = PAD / box.width;
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

by("pad").addEventListener("pointerdown", drawOn);
by("pad").addEventListener("pointermove", drawOn);
by("clear-drawing").addEventListener("click", clearPad);
by("classify-drawing").addEventListener("click", () => {
  picture = pad.getImageData(0, 0, PAD, PAD);
  classify();
});
clearPad();

// ---- Models ----

function showBackends() {
  const backends = chosen()?.backends ?? [];
  fillSelect("backend", backends.map((name) => [name, name]), "none");
  show(backends.length > 1, "backend-choice");
}

onModels((models) => {
  const fit = models.filter((model) => model.kind === "network" && model.channels === 3);
  fillSelect("model", fit.map(({ name }) => [name, name]), "no network is served");
  showBackends();
});
