// server.js: the server that sent this page: what it serves, whether it is there, and the key it may want.
import { Client, ConnectionError, RequestError } from "/page/halutd.js";
import { by, show } from "./dom.js";

export const client = new Client("", { timeout: 30000, attempts: 3 });

/** What to tell of a failure: a browser's own words for a lost connection say little. */
export const reason = (error) => (error instanceof ConnectionError ? "The server does not answer." : error.message);

/** Signals, one at a time: the next aborts the one before, so that an older answer never overwrites a newer one. */
export function turns() {
  let turn = new AbortController();
  return {
    next() {
      turn.abort();
      turn = new AbortController();
      return turn.signal;
    },
    now: () => turn.signal,
  };
}

let models = [];
const listeners = [];

/** Called with all models now and whenever they change. */
export function onModels(listener) {
  listeners.push(listener);
  if (models.length > 0) listener(models);
}

export const modelOf = (name) => models.find((model) => model.name === name);

function tell(text, kind) {
  if (by("state").textContent === text) return;
  by("state").textContent = text;
  by("state").className = kind;
}

/** The newest version of each model, which is the one that its name means. */
function newest(listed) {
  const named = new Map();
  for (const model of listed) {
    const key = `${model.kind} ${model.name}`;
    if (model.version >= (named.get(key)?.version ?? 0)) named.set(key, model);
  }
  return [...named.values()];
}

const listings = turns();

/** Asks what is served; a refusal for want of a key shows the field for it. False without an answer. */
export async function refresh() {
  const signal = listings.next();
  try {
    const listed = newest((await client.models({ signal })).models);
    if (signal.aborted) return false;
    const changed = JSON.stringify(listed) !== JSON.stringify(models);
    models = listed;
    tell(`${models.length} model${models.length === 1 ? "" : "s"} served.`, "note");
    show(false, "key-form");
    if (changed) for (const listener of listeners) listener(models);
    return true;
  } catch (error) {
    if (signal.aborted) return false;
    const wantsKey = error instanceof RequestError && (error.status === 401 || error.status === 403);
    show(wantsKey, "key-form");
    tell(wantsKey ? "This server wants an API key." : reason(error), "bad");
    return false;
  }
}

by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  client.headers.Authorization = `Bearer ${by("key").value}`;
  refresh();
});

const PAUSE = 2000; // milliseconds between two looks whether the server is there

let there = false;

async function look() {
  if (!document.hidden) {
    const alive = await client.healthy();
    if (alive && !there) there = await refresh();
    else if (!alive) tell("The server does not answer. Trying again every two seconds.", "bad");
    there = there && alive;
  }
  setTimeout(look, PAUSE);
}

look();
