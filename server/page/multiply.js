// multiply.js: the second tab: learn a product from two matrices, multiply by it, compare with the exact product.
import { LearningError } from "/page/halutd.js";
import { by, download, fillSelect, heatMap, make, say, show } from "./dom.js";
import { csv, format, largest, minus, multiply as exactly, noise, parse, square, unflatten, waves } from "./matrix.js";
import { client, modelOf, onModels, reason, refresh, turns } from "./server.js";

const SHOWN_ROWS = 64; // in a heat map
const [MADE_ROWS, MADE_COLUMNS, MADE_OUTPUTS] = [1024, 16, 8];

const chosen = () => modelOf(by("product").value);

function showProduct() {
  const model = chosen();
  if (model === undefined) {
    by("product-shape").textContent = "Learn one from the two matrices.";
    return;
  }
  const nmse = Number(model.nmse).toPrecision(3);
  const error = model.nmse === undefined ? "" : ` Its error on rows it had not seen: ${nmse}.`;
  by("product-shape").textContent =
    `A has ${model.columns} columns, the result ${model.outputs}; ${model.codebooks} codebooks.${error}`;
}

// ---- Learning ----

let cancel = null; // gives up what is being learned, if anything is

function showJob(state) {
  show(true, "learning");
  by("learn-progress").value = state.progress ?? 0;
  const stage = state.stage ? ` (${state.stage})` : "";
  by("learn-state").textContent = `${state.name}: ${state.state}${stage}, ${Math.round(100 * (state.progress ?? 0))} %`;
}

/** Ends a job's display; multiplies by what it made. */
async function showEnd(state) {
  show(false, "learning");
  if (state.state === "done") {
    const { model, nmse, r2 } = state.result;
    const numbers = [["error", nmse], ["R²", r2]].filter(([, value]) => value !== undefined);
    const said = numbers.map(([name, value]) => `${name} ${Number(value).toPrecision(3)}`).join(", ");
    await refresh();
    by("product").value = model;
    showProduct();
    say("learned", `Learned ${model}; on rows that it had not seen: ${said}.`);
    await multiply();
  } else {
    say("learned", `${state.name}: ${state.error ?? state.state}`, state.state === "failed" ? "bad" : "note");
  }
}

async function learn() {
  const controller = new AbortController();
  const { signal } = controller;
  by("learn").disabled = true;
  try {
    const [a, b] = [parse(by("matrix-a").value, "A"), parse(by("matrix-b").value, "B")];
    if (a.length === 0 || b.length === 0) throw new Error("Both A and B are needed: generate a pair, or paste them");
    if (a[0].length !== b.length) throw new Error(`B has ${b.length} rows, A has ${a[0].length} columns`);
    by("learned").replaceChildren();
    const codebooks = Number(by("codebooks").value);
    const name = by("learn-name").value.trim();
    cancel = () => controller.abort(new Error(`${name}: cancelled`));
    await showEnd(await client.learn(a, b, { name, codebooks, signal, progress: showJob }));
  } catch (error) {
    if (error instanceof LearningError) return showEnd(error.job);
    show(false, "learning");
    say("learned", reason(error), signal.aborted ? "note" : "bad");
  } finally {
    cancel = null;
    by("learn").disabled = false;
  }
}

// ---- Multiplying ----

let product = null; // rows of the last result
const questions = turns();

function showMaps(rows, exact) {
  const top = (all) => all.slice(0, SHOWN_ROWS);
  const cut = rows.length > SHOWN_ROWS ? `, the first ${SHOWN_ROWS} rows` : "";
  const limit = largest(exact ?? rows);
  const maps = [heatMap(`A·B, looked up${cut}`, top(rows), limit)];
  if (exact !== undefined) {
    maps.push(heatMap(`A·B, exact${cut}`, top(exact), limit));
    maps.push(heatMap(`Difference${cut}`, top(minus(rows, exact)), limit));
  }
  by("maps").replaceChildren(...maps);
  const key = `Rows go down, columns across. Blue is below zero, orange above; full colour is ${limit.toPrecision(3)}.`;
  by("maps").append(make("p", key, { class: "note" }));
}

async function multiply() {
  by("maps").replaceChildren();
  show(false, "download");
  product = null;
  const signal = questions.next();
  try {
    const a = parse(by("matrix-a").value, "A");
    if (a.length === 0) throw new Error("A has no rows: generate some, or paste them");
    const began = performance.now();
    const c = await client.matmul(a, { model: by("product").value, signal });
    if (signal.aborted) return;
    const elapsed = performance.now() - began;
    const rows = unflatten(c);
    const text = `${c.rows} × ${c.columns} values in ${elapsed.toFixed(1)} ms, seen from this page.`;
    const b = parse(by("matrix-b").value, "B");
    const exact = b.length > 0 ? exactly(a, b) : undefined;
    if (exact !== undefined && exact[0].length !== c.columns) {
      throw new Error(`B has ${exact[0].length} columns, not ${c.columns}`);
    }
    showMaps(rows, exact);
    product = rows;
    show(true, "download");
    if (exact === undefined) {
      say("matrix-result", text);
      return;
    }
    const error = square(minus(rows, exact)) / square(exact);
    say("matrix-result", `${text} Squared error over squared exact values: ${error.toPrecision(3)}.`);
  } catch (error) {
    if (!signal.aborted) say("matrix-result", reason(error), "bad");
  }
}

/** Rows for the chosen product; or, with B, a pair to learn from. */
function generate(pair) {
  const columns = pair ? MADE_COLUMNS : (chosen()?.columns ?? MADE_COLUMNS);
  by("matrix-a").value = format(waves(pair ? MADE_ROWS : 16, columns));
  by("matrix-b").value = pair ? format(noise(columns, MADE_OUTPUTS)) : "";
}

by("product").addEventListener("change", showProduct);
by("generate-a").addEventListener("click", () => generate(false));
by("generate-pair").addEventListener("click", () => generate(true));
by("multiply").addEventListener("click", multiply);
by("learn").addEventListener("click", learn);
by("cancel-learning").addEventListener("click", () => cancel?.());
by("download").addEventListener("click", () => download("product.csv", csv(product), "text/csv"));

onModels((models) => {
  const names = models.filter(({ kind }) => kind === "product").map(({ name }) => [name, name]);
  fillSelect("product", names, "none yet: learn one");
  showProduct();
});
