// learning.js: a product learned by the server: the job is started, followed by its events, and cancelled.
import { client } from "./server.js";

const ENDED = ["done", "failed", "cancelled"];
const PAUSE = 1000; // milliseconds before a job is asked for again whose events broke off
const ATTEMPTS = 30;

async function ask(method, url, body, headers = {}) {
  const reply = await fetch(url, { method, body, headers: { ...client.headers, ...headers } });
  if (reply.ok) return reply;
  const said = await reply.text();
  let message = said;
  try {
    message = JSON.parse(said).error ?? said;
  } catch {
    // not JSON: said as it is
  }
  throw new Error(message || `the server answered ${reply.status}`);
}

/** The data of each server-sent event of a reply, as objects. */
async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const whole = text.split(/\r?\n\r?\n/);
    text = whole.pop();
    for (const event of whole) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (data.length > 0) yield JSON.parse(data.map((line) => line.slice(5).trim()).join("\n"));
    }
  }
}

/** Follows a job to its end; onProgress gets each state. Asks again where the events break off. */
async function follow(url, onProgress) {
  for (let attempt = 1; ; attempt++) {
    try {
      for await (const state of events(await ask("GET", `${url}/events`))) {
        onProgress(state);
        if (ENDED.includes(state.state)) return state;
      }
      const state = await (await ask("GET", url)).json();
      if (ENDED.includes(state.state)) return state;
    } catch (error) {
      if (attempt >= ATTEMPTS) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

/** Learns a times b under `name`; the job's last state. onStart gets the function that cancels it. */
export async function learn({ name, a, b, codebooks, onStart, onProgress }) {
  const body = JSON.stringify({ name, a, b, codebooks });
  const job = await (await ask("POST", "/v1/learn", body, { "Content-Type": "application/json" })).json();
  onStart(() => ask("DELETE", job.url));
  onProgress({ name, ...job });
  return follow(job.url, onProgress);
}
