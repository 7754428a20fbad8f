// explain.js: how one value of a learned layer was made: which way each tree went, and which table entries were
// added. All numbers are the server's, from /v1/explain.
import { busy, by, draw, fillSelect, make, say, show } from "./dom.js";
import { client, reason, turns } from "./server.js";

const LEVELS = 4;
const LEAVES = 16;
const MAP_SIDE = 256; // pixels of the canvas that shows a map

let asked = { model: "", planar: null };
let told = null; // the last explanation
let layers = [];
const questions = turns(); // a newer place overtakes what was asked before

/** Offers the learned layers of the model, and explains one for this picture, unless `signal` says that it is gone. */
export async function explainPicture(model, planar, signal) {
  try {
    const described = await client.model(model, { signal });
    if (signal.aborted) return;
    layers = described.layers.filter((one) => one.op === "halut");
  } catch (error) {
    if (!signal.aborted) say("explained", reason(error), "bad");
    return;
  }
  asked = { model, planar };
  show(layers.length > 0, "explanation");
  if (layers.length === 0) return;
  fillSelect("layer", layers.map(({ name }) => [name, name]), "none");
  if (told === null) [by("at-x").value, by("at-y").value] = [layer().width >> 1, layer().height >> 1];
  await ask();
}

const layer = () => layers.find(({ name }) => name === by("layer").value);

/** Keeps the places within the layer: another layer has other sizes. */
function bound() {
  const { width, height, channels } = layer();
  for (const [id, end] of [["at-x", width], ["at-y", height], ["at-output", channels]]) {
    by(id).max = end - 1;
    by(id).value = Math.min(end - 1, Math.max(0, Math.round(Number(by(id).value) || 0)));
  }
}

async function ask() {
  bound();
  const signal = questions.next();
  busy("explained");
  const place = { layer: by("layer").value, x: by("at-x").value, y: by("at-y").value, output: by("at-output").value };
  try {
    const answer = await client.explain(asked.planar, { model: asked.model, ...place, signal });
    if (signal.aborted) return;
    told = answer;
  } catch (error) {
    if (!signal.aborted) say("explained", reason(error), "bad");
    return;
  }
  const name = (path) => `${path.codebook}: prototype ${path.code} adds ${path.entry}`;
  fillSelect("codebook", told.paths.map((path) => [String(path.codebook), name(path)]), "none");
  showMap();
  showSum();
  showPath();
}

/** The sum and what became of it, as the format has it. */
function showSum() {
  const { sum, bias, scale, value, paths, input, output, x, y } = told;
  const raised = Math.min(65535, Math.max(0, sum + bias));
  const made = Math.min(255, Math.floor((raised * scale) / 65536));
  say(
    "explained",
    `Output ${output} at column ${x}, row ${y} of ${told.layer} (it reads ${input}): ${paths.length} table entries ` +
      `add up to ${sum}. With the bias ${bias} and limited to 0…65535 that is ${raised}; times ${scale}, shifted ` +
      `right by 16, limited to 255: ${made}. The server computed ${value}${made === value ? ", the same." : "!"}`,
    made === value ? "" : "bad",
  );
  drawEntries();
}

function showMap() {
  const { map, shape, x, y } = told;
  const canvas = by("layer-map");
  canvas.hidden = map === undefined;
  if (map === undefined) return;
  const [, height, width] = shape;
  const scale = Math.max(1, Math.floor(MAP_SIDE / Math.max(width, height)));
  [canvas.width, canvas.height] = [width * scale, height * scale];
  const context = canvas.getContext("2d");
  const most = Math.max(1, ...map.flat());
  map.forEach((row, i) =>
    row.forEach((value, j) => {
      const grey = Math.round((255 * value) / most);
      context.fillStyle = `rgb(${grey}, ${grey}, ${grey})`;
      context.fillRect(j * scale, i * scale, scale, scale);
    }),
  );
  context.lineWidth = 3;
  context.strokeStyle = "#ff7a00";
  context.strokeRect(x * scale + 1, y * scale + 1, scale - 2, scale - 2);
  const label = `Output ${told.output} of ${told.layer}, ${width} by ${height}; column ${x}, row ${y} is marked`;
  canvas.setAttribute("aria-label", label);
}

/** A bar for each codebook: up adds, down subtracts. */
function drawEntries() {
  const { paths, sum } = told;
  const most = Math.max(1, ...paths.map(({ entry }) => Math.abs(entry)));
  const chosen = by("codebook").value;
  const drawing = draw("svg", {
    class: "chart entries",
    viewBox: `0 -52 ${paths.length} 104`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": `Entries of ${paths.length} codebooks, from ${Math.min(...paths.map((p) => p.entry))} to ` +
      `${Math.max(...paths.map((p) => p.entry))}, adding up to ${sum}`,
  });
  for (const { codebook, entry } of paths) {
    const height = (50 * Math.abs(entry)) / most;
    const bar = draw("rect", {
      x: codebook + 0.1, y: entry > 0 ? -height : 0, width: 0.8, height: Math.max(height, 0.5),
      class: String(codebook) === chosen ? "chosen" : entry > 0 ? "plus" : "minus",
    });
    bar.addEventListener("click", () => {
      by("codebook").value = String(codebook);
      showPath();
    });
    drawing.append(bar);
  }
  by("entries").replaceChildren(make("h3", "Entries that were added, a bar for each codebook"), drawing);
}

/** What a step of the path says; outside of the map a value is 0. */
function stepText(step) {
  const [, height, width] = told.input_shape;
  const inside = step.y >= 0 && step.y < height && step.x >= 0 && step.x < width;
  const where = `channel ${step.channel}, column ${step.x}, row ${step.y}${inside ? "" : " (padding)"}`;
  return `${where}: ${step.value} ${step.right ? ">" : "≤"} ${step.threshold}, so ${step.right ? "right" : "left"}`;
}

function showPath() {
  const path = told.paths[Number(by("codebook").value)];
  drawEntries();
  by("path").replaceChildren(
    make("h3", `Decisions of codebook ${path.codebook}`),
    ...[make("ol")].map((list) => {
      list.append(...path.levels.map((step) => make("li", stepText(step))));
      return list;
    }),
    make("p", `That is prototype ${path.code}; its entry for output ${told.output} is ${path.entry}.`),
    tree(path),
  );
}

/** The tree of the codebook, the way taken drawn thick, and under each leaf its table entry. */
function tree(path) {
  const place = (node) => {
    const level = Math.floor(Math.log2(node));
    return [((node - 2 ** level + 0.5) * 32 * LEAVES) / 2 ** level, 12 + 30 * level];
  };
  const taken = new Set(path.levels.map(({ node }) => node));
  taken.add(path.code + LEAVES);
  const drawing = draw("svg", {
    class: "tree",
    viewBox: `0 0 ${32 * LEAVES} ${12 + 30 * LEVELS + 42}`,
    role: "img",
    "aria-label": `Tree of codebook ${path.codebook}: ` +
      path.levels.map(({ right }) => (right ? "right" : "left")).join(", ") +
      `, to entry ${path.entry}`,
  });
  for (let node = 2; node < 2 * LEAVES; node++) {
    const [[x1, y1], [x2, y2]] = [place(node >> 1), place(node)];
    drawing.append(draw("line", { x1, y1, x2, y2, class: taken.has(node) ? "taken" : "" }));
  }
  for (let node = 1; node < 2 * LEAVES; node++) {
    const [x, y] = place(node);
    const kind = taken.has(node) ? "taken" : "";
    if (node < LEAVES) {
      drawing.append(draw("circle", { cx: x, cy: y, r: 5, class: kind }));
    } else {
      const low = y + 18 + 18 * (node % 2); // in two rows, so that neighbours do not touch
      drawing.append(draw("text", { x, y: low, class: kind }, String(path.entries[node - LEAVES])));
    }
  }
  return drawing;
}

for (const id of ["layer", "at-x", "at-y", "at-output"]) by(id).addEventListener("change", ask);
by("codebook").addEventListener("change", showPath);
by("layer-map").addEventListener("click", (event) => {
  if (told === null) return; // nothing is drawn yet
  const box = by("layer-map").getBoundingClientRect();
  const [, height, width] = told.shape;
  by("at-x").value = Math.floor(((event.clientX - box.left) / box.width) * width);
  by("at-y").value = Math.floor(((event.clientY - box.top) / box.height) * height);
  ask();
});
