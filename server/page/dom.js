// dom.js: making and filling elements.

export const by = (id) => document.getElementById(id);

/** A new element with text. */
export function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** A new element of a drawing. */
export function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== "") element.textContent = text;
  return element;
}

export function say(id, text, kind = "") {
  by(id).removeAttribute("aria-busy");
  by(id).replaceChildren(make("p", text, kind === "" ? {} : { class: kind }));
}

/** Marks a place that waits for an answer, until say() has it: a screen reader then reads the answer alone. */
export function busy(id) {
  by(id).setAttribute("aria-busy", "true");
}

/** Shows or hides by id. */
export function show(visible, ...ids) {
  for (const id of ids) by(id).hidden = !visible;
}

/** Fills a table with [name, text, part from 0 to 1] rows, the part drawn as a bar. */
export function fillBars(id, rows) {
  by(id).tBodies[0].replaceChildren(
    ...rows.map(([name, text, part]) => {
      const row = make("tr");
      const cell = make("td", text, { class: "number" });
      const bar = make("td");
      bar.append(make("meter", text, { min: 0, max: 1, value: part, "aria-hidden": "true" }));
      row.append(make("th", name, { scope: "row" }), cell, bar);
      return row;
    }),
  );
  by(id).hidden = rows.length === 0;
}

/** The options of a select; one disabled line of `none` if there are none. Keeps what was chosen. */
export function fillSelect(id, values, none) {
  const select = by(id);
  const chosen = select.value;
  select.replaceChildren(...values.map(([value, text]) => make("option", text, { value })));
  if (values.length === 0) select.append(make("option", none, { value: "" }));
  if (values.some(([value]) => value === chosen)) select.value = chosen;
  select.disabled = values.length === 0;
}

/** Blue below zero, white at it, orange above: [r, g, b] for a part from -1 to 1. */
function colour(part) {
  const fade = (to) => Math.round(255 + Math.abs(part) * (to - 255));
  return part < 0 ? [fade(20), fade(80), fade(200)] : [fade(220), fade(100), fade(0)];
}

/** A figure with a heat map of rows of numbers; `limit` is where the colours end. */
export function heatMap(title, rows, limit) {
  const canvas = make("canvas", "", { class: "map", role: "img", "aria-label": title });
  canvas.width = rows[0].length;
  canvas.height = rows.length;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  rows.flat().forEach((value, i) => {
    const part = Math.max(-1, Math.min(1, value / (limit || 1)));
    image.data.set([...colour(part), 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
  const figure = make("figure");
  figure.append(make("figcaption", title), canvas);
  return figure;
}

/** Gives the reader a file. */
export function download(name, content, type) {
  const link = make("a", "", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
