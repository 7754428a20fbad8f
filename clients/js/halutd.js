// halutd.js: a client of halutd for browsers and Node 18 and later; one file, no dependency.
//
//   import { Client } from "./halutd.js";
//   const client = new Client("http://127.0.0.1:8080");
//   const { top } = await client.classify(file);   // a File or Blob, an ArrayBuffer, a Uint8Array
//
// Every method returns a promise and takes a last argument { signal } to cancel it. A busy server (503) and
// a broken connection are tried again, with growing pauses, within `timeout` milliseconds. Only the start of
// learning is not tried again after a broken connection: the job may have been queued.

/** The server refused: `status` is the HTTP status, `message` what the server says. */
export class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.name = "RequestError";
    this.status = status;
  }
}

/** The server cannot be reached, or went away before its answer was complete. */
export class ConnectionError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = "ConnectionError";
  }
}

/** No complete answer in time, pauses and repetitions included. */
export class TimeoutError extends Error {
  constructor(message) {
    super(message);
    this.name = "TimeoutError";
  }
}

/** A learning job ended without a model; `job` is the server's object. */
export class LearningError extends Error {
  constructor(job) {
    super(`job ${job.id} (${job.name}): ${job.error ?? job.state}`);
    this.name = "LearningError";
    this.job = job;
  }
}

const FIRST_PAUSE = 50; // milliseconds
const LONGEST_PAUSE = 2000;

const ARRAYS = {
  BOOL: Uint8Array,
  UINT8: Uint8Array,
  UINT16: Uint16Array,
  UINT32: Uint32Array,
  UINT64: BigUint64Array,
  INT8: Int8Array,
  INT16: Int16Array,
  INT32: Int32Array,
  INT64: BigInt64Array,
  FP32: Float32Array,
  FP64: Float64Array,
};

/** A flat typed array of the protocol's `datatype` from nested or flat numbers. */
function typed(datatype, data) {
  const type = ARRAYS[datatype];
  if (type === undefined) throw new TypeError(`${datatype} is no datatype that this client can send`);
  if (data instanceof type) return data;
  const flat = ArrayBuffer.isView(data) ? Array.from(data) : data.flat(Infinity);
  const big = datatype === "INT64" || datatype === "UINT64";
  return type.from(big ? flat.map((value) => BigInt(value)) : flat.map((value) => Number(value)));
}

/** So many milliseconds; ends at once, with its reason, where the signal is aborted. */
function sleep(pause, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, pause);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

/** The elements of a BYTES tensor, text or bytes, each behind its length. */
function packBytes(data) {
  const items = data.map((item) => (typeof item === "string" ? new TextEncoder().encode(item) : new Uint8Array(item)));
  const packed = new Uint8Array(items.reduce((all, item) => all + 4 + item.length, 0));
  let at = 0;
  for (const item of items) {
    new DataView(packed.buffer).setUint32(at, item.length, true);
    packed.set(item, at + 4);
    at += 4 + item.length;
  }
  return packed;
}

/** The elements of a BYTES tensor as text. */
function unpackBytes(buffer) {
  const items = [];
  for (let at = 0; at < buffer.byteLength; ) {
    const length = new DataView(buffer).getUint32(at, true);
    items.push(new TextDecoder().decode(buffer.slice(at + 4, at + 4 + length)));
    at += 4 + length;
  }
  return items;
}

/** A flat tensor for a request: how many values, as bytes, and as JSON has them. */
function tensor(datatype, data) {
  if (datatype === "BYTES") return { count: data.length, bytes: () => packBytes(data), plain: () => data };
  const values = typed(datatype, data);
  return {
    count: values.length,
    bytes: () => new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    plain: () => Array.from(values, (value) => Number(value)),
  };
}

const product = (shape) => shape.reduce((all, size) => all * size, 1);

/** Rows of numbers as one Float32Array with its shape. */
function matrix(a) {
  if (a.data instanceof Float32Array) {
    if (a.data.length !== a.rows * a.columns) throw new RangeError("a: data does not fill its shape");
    return a;
  }
  const rows = a.length;
  const columns = rows > 0 ? a[0].length : 0;
  if (columns === 0) throw new RangeError("a: no values");
  const data = new Float32Array(rows * columns);
  a.forEach((row, i) => {
    if (row.length !== columns) {
      throw new RangeError(`a[${i}]: ${row.length} values where the first row has ${columns}`);
    }
    data.set(row, i * columns);
  });
  return { data, rows, columns };
}

function writeNpy({ data, rows, columns }) {
  let head = `{'descr': '<f4', 'fortran_order': False, 'shape': (${rows}, ${columns}), }`;
  head = head.padEnd(Math.ceil((head.length + 11) / 64) * 64 - 11, " ") + "\n";
  const out = new Uint8Array(10 + head.length + data.byteLength);
  out.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, head.length & 255, head.length >> 8]);
  out.set(new TextEncoder().encode(head), 10);
  out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 10 + head.length);
  return out;
}

function readNpy(buffer) {
  const bytes = new Uint8Array(buffer);
  const magic = String.fromCharCode(...bytes.slice(1, 6));
  const start = 10 + bytes[8] + 256 * bytes[9];
  const head = new TextDecoder("latin1").decode(bytes.slice(10, start));
  const shape = /'shape': \((\d+), (\d+)\)/.exec(head);
  if (magic !== "NUMPY" || bytes[6] !== 1 || !head.includes("'<f4'") || shape === null) {
    throw new Error("the answer is not a float32 matrix");
  }
  const [rows, columns] = [Number(shape[1]), Number(shape[2])];
  return { data: new Float32Array(buffer.slice(start, start + 4 * rows * columns)), rows, columns };
}

export class Client {
  /**
   * @param {string} url of the server; "" in a page that the server itself has sent
   * @param {{timeout?: number, attempts?: number, headers?: Object}} options
   */
  constructor(url = "http://127.0.0.1:8080", { timeout = 30000, attempts = 5, headers = {} } = {}) {
    this.url = url.replace(/\/+$/, "");
    this.timeout = timeout;
    this.attempts = attempts;
    this.headers = headers;
  }

  /**
   * The likeliest labels of a picture: {model, backend, top: [{label, index, probability}], timing_us}. `timing`
   * ("layers"), `compare` (true) and `codes` (the name of a layer) add what the server says of them.
   */
  async classify(image, { model, top = 5, fit, backend, timing, compare, codes, signal } = {}) {
    const query = this.#query({ top, model, fit, backend, timing, compare, codes });
    const headers = { "Content-Type": "application/octet-stream" };
    const reply = await this.#call("POST", `/v1/classify${query}`, image, headers, signal);
    return reply.json();
  }

  /** How a learned layer made its output `output` at column x, row y, for this picture: every table entry it added. */
  async explain(image, { layer, x, y, output, codebook, model, fit, backend, signal }) {
    const query = this.#query({ layer, x, y, output, codebook, model, fit, backend });
    const headers = { "Content-Type": "application/octet-stream" };
    return (await this.#call("POST", `/v1/explain${query}`, image, headers, signal)).json();
  }

  /**
   * a times the matrix that `model` has learned, approximately. `a` is rows of numbers, or {data, rows, columns}
   * with a Float32Array; so is the result.
   */
  async matmul(a, { model, backend, signal }) {
    const headers = { "Content-Type": "application/x-npy", Accept: "application/x-npy" };
    const query = this.#query({ model, backend });
    const body = writeNpy(matrix(a));
    const reply = await this.#call("POST", `/v1/matmul${query}`, body, headers, signal);
    return readNpy(await reply.arrayBuffer());
  }

  /**
   * An inference by the Open Inference Protocol v2. `inputs` is {name: {datatype, shape, data}}; the result's
   * `outputs` is the same, its data flat: typed arrays if `binary`, else numbers. Data of datatype BYTES is a flat
   * array of text or, if `binary`, of bytes; without `binary` a picture is base64. Such outputs are text.
   */
  async infer(model, inputs, { outputs, version, id, parameters, binary = true, signal } = {}) {
    const blobs = [];
    const body = { id, parameters: { ...parameters }, inputs: [], outputs: undefined };
    if (binary) body.parameters.binary_data_output = true;
    if (outputs !== undefined) body.outputs = outputs.map((name) => ({ name }));
    for (const [name, { datatype, shape, data }] of Object.entries(inputs)) {
      const values = tensor(datatype, data);
      if (values.count !== product(shape)) {
        throw new RangeError(`${name}: ${values.count} values do not fill its shape`);
      }
      if (binary) {
        const blob = values.bytes();
        blobs.push(blob);
        body.inputs.push({ name, datatype, shape, parameters: { binary_data_size: blob.length } });
      } else {
        body.inputs.push({ name, datatype, shape, data: values.plain() });
      }
    }
    const head = new TextEncoder().encode(JSON.stringify(body));
    const headers = { "Content-Type": binary ? "application/octet-stream" : "application/json" };
    if (binary) headers["Inference-Header-Content-Length"] = String(head.length);
    const versioned = version === undefined ? "" : `/versions/${encodeURIComponent(version)}`;
    const path = `/v2/models/${encodeURIComponent(model)}${versioned}/infer`;
    const reply = await this.#call("POST", path, new Blob([head, ...blobs]), headers, signal);
    return this.#outputs(reply, await reply.arrayBuffer());
  }

  /**
   * Queues the learning of a product from samples of a and from b (each as matmul takes them); options are name,
   * codebooks, prototypes, ridge, heldout, seed, candidates, tree_rows, by. Gives the job: {id, state, progress, …}.
   */
  async startLearning(a, b, { signal, ...fields }) {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) {
      if (value !== undefined) form.append(name, String(value));
    }
    form.append("a", new Blob([writeNpy(matrix(a))]));
    form.append("b", new Blob([writeNpy(matrix(b))]));
    const reply = await this.#call("POST", "/v1/learn", form, {}, signal, false);
    const { id } = await reply.json();
    try {
      return await this.job(id, { signal });
    } catch (error) {
      if (signal?.aborted) await this.cancel(id).catch(() => {}); // whoever gave up never learned its id
      throw error;
    }
  }

  /** startLearning, then waits for the end, calling `progress` with the job now and then; a signal cancels the job. */
  async learn(a, b, { progress, signal, ...fields }) {
    let job = await this.startLearning(a, b, { signal, ...fields });
    try {
      for (let pause = FIRST_PAUSE; ; pause = Math.min(1000, pause * 1.2)) {
        progress?.(job);
        if (job.state === "done") return job;
        if (job.state !== "queued" && job.state !== "running") throw new LearningError(job);
        await sleep(pause, signal);
        job = await this.job(job.id, { signal });
      }
    } catch (error) {
      if (signal?.aborted) await this.cancel(job.id).catch(() => {});
      throw error;
    }
  }

  /** The state of a learning job. */
  async job(id, { signal } = {}) {
    return (await this.#call("GET", `/v1/jobs/${encodeURIComponent(id)}`, undefined, {}, signal)).json();
  }

  /** The jobs that the server remembers, the oldest first. */
  async jobs({ signal } = {}) {
    return (await (await this.#call("GET", "/v1/jobs", undefined, {}, signal)).json()).jobs;
  }

  /** Cancels a job that waits or runs. */
  async cancel(id, { signal } = {}) {
    return (await this.#call("DELETE", `/v1/jobs/${encodeURIComponent(id)}`, undefined, {}, signal)).json();
  }

  /** True if the server is there, has its models and takes requests; never rejects. */
  async healthy({ signal } = {}) {
    try {
      return (await this.#once("GET", "/healthz", undefined, {}, this.timeout, signal)).status === 200;
    } catch {
      return false;
    }
  }

  /** What /v1/models says. */
  async models({ signal } = {}) {
    return (await this.#call("GET", "/v1/models", undefined, {}, signal)).json();
  }

  /** What /v1/models says of one model; of a network, with its layers. */
  async model(name, { signal } = {}) {
    return (await this.#call("GET", `/v1/models/${encodeURIComponent(name)}`, undefined, {}, signal)).json();
  }

  /** The protocol's metadata of the server, or of a model. */
  async metadata(model, { signal } = {}) {
    const path = model === undefined ? "/v2" : `/v2/models/${encodeURIComponent(model)}`;
    return (await this.#call("GET", path, undefined, {}, signal)).json();
  }

  /** The metrics in Prometheus' text format. */
  async metrics({ signal } = {}) {
    return (await this.#call("GET", "/metrics", undefined, {}, signal)).text();
  }

  #query(members) {
    const given = Object.entries(members).filter(([, value]) => value !== undefined);
    return given.length > 0 ? `?${new URLSearchParams(given)}` : "";
  }

  #outputs(reply, buffer) {
    const length = reply.headers.get("Inference-Header-Content-Length");
    let at = length === null ? buffer.byteLength : Number(length);
    const raw = JSON.parse(new TextDecoder().decode(buffer.slice(0, at)));
    const outputs = {};
    for (const { name, datatype, shape, data, parameters } of raw.outputs ?? []) {
      const size = parameters?.binary_data_size;
      if (size === undefined) {
        outputs[name] = { datatype, shape, data: data.flat(Infinity) };
      } else {
        if (at + size > buffer.byteLength) throw new Error(`${name}: the answer ends too early`);
        const part = buffer.slice(at, at + size);
        const values = datatype === "BYTES" ? unpackBytes(part) : new ARRAYS[datatype](part);
        outputs[name] = { datatype, shape, data: values };
        at += size;
      }
    }
    return { ...raw, outputs };
  }

  async #once(method, path, body, headers, timeout, signal) {
    const limit = AbortSignal.timeout(Math.max(1, timeout));
    const either = new AbortController();
    const stop = () => either.abort(signal?.aborted ? signal.reason : limit.reason);
    const signals = [limit, signal].filter((one) => one !== undefined);
    if (signals.some((one) => one.aborted)) stop();
    for (const one of signals) one.addEventListener("abort", stop);
    const all = { ...this.headers, ...headers };
    try {
      const options = { method, body, headers: all, signal: either.signal };
      const reply = await fetch(this.url + path, options);
      // Read here, within the time limit and inside this try: a body can break off too.
      const content = await reply.arrayBuffer();
      return new Response(content, { status: reply.status, headers: reply.headers });
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (limit.aborted) throw new TimeoutError(`no answer within ${this.timeout} ms`);
      throw new ConnectionError(error.cause?.message ?? error.message, { cause: error });
    } finally {
      for (const one of signals) one.removeEventListener("abort", stop); // a caller may keep its signal for ever
    }
  }

  async #call(method, path, body, headers, signal, repeatable = true) {
    const end = Date.now() + this.timeout;
    for (let attempt = 1; ; attempt++) {
      let reply;
      let failure;
      try {
        reply = await this.#once(method, path, body, headers, end - Date.now(), signal);
      } catch (error) {
        if (!(error instanceof ConnectionError)) throw error;
        failure = error;
      }
      if (reply?.ok) return reply;
      failure ??= await this.#refusal(reply);
      const again = (repeatable && failure instanceof ConnectionError) || failure.status === 503;
      const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1));
      const asked = 1000 * Number(reply?.headers.get("Retry-After") ?? 0) || 0;
      const pause = Math.max(longest * (0.5 + Math.random() / 2), Math.min(asked, LONGEST_PAUSE));
      if (!again || attempt >= this.attempts || Date.now() + pause >= end) throw failure;
      await sleep(pause, signal);
    }
  }

  async #refusal(reply) {
    const text = await reply.text();
    try {
      return new RequestError(reply.status, JSON.parse(text).error ?? text);
    } catch {
      return new RequestError(reply.status, text.slice(0, 200) || "no explanation");
    }
  }
}
