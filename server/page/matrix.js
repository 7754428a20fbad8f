// matrix.js: matrices as rows of numbers: text to rows, made-up ones, products, errors.

export function parse(text, name) {
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

export const format = (rows) => rows.map((row) => row.map((value) => value.toFixed(3)).join(" ")).join("\n");
export const csv = (rows) => rows.map((row) => row.join(",")).join("\n") + "\n";

/** Rows with some structure, which is what learned tables live on: a few waves and a little noise. */
export function waves(count, columns) {
  return Array.from({ length: count }, () => {
    const [phase, speed, height] = [6.3 * Math.random(), 0.05 + 0.3 * Math.random(), Math.random()];
    const value = (j) => height * Math.sin(phase + speed * j) + 0.05 * (Math.random() - 0.5);
    return Array.from({ length: columns }, (_, j) => value(j));
  });
}

/** Evenly spread from -1 to 1. */
export const noise = (count, columns) =>
  Array.from({ length: count }, () => Array.from({ length: columns }, () => 2 * Math.random() - 1));

export function multiply(a, b) {
  if (a[0].length !== b.length) throw new Error(`B has ${b.length} rows, A has ${a[0].length} columns`);
  return a.map((row) => b[0].map((_, m) => row.reduce((sum, value, d) => sum + value * b[d][m], 0)));
}

export const minus = (a, b) => a.map((row, i) => row.map((value, m) => value - b[i][m]));
export const square = (rows) => rows.flat().reduce((sum, value) => sum + value * value, 0);
export const largest = (rows) => rows.flat().reduce((most, value) => Math.max(most, Math.abs(value)), 0);

/** {data, rows, columns} of the client to rows. */
export const unflatten = ({ data, rows, columns }) =>
  Array.from({ length: rows }, (_, i) => Array.from(data.slice(i * columns, (i + 1) * columns)));
