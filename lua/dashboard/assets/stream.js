// Live states by server-sent events, read with fetch because it can send the token in a header; when that does not
// work, the caller is told to poll, and events are tried again all the while.
import { request, ApiError } from "/dashboard/assets/api.js";

const SILENCE = 60000; // the server says something more often than that
const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

// Takes pieces of text, gives whole events.
export function parser(onEvent) {
  let rest = "";
  let event = { name: "message", data: [], id: undefined };
  const line = (text) => {
    if (text === "") {
      if (event.data.length) onEvent({ name: event.name, data: event.data.join("\n"), id: event.id });
      event = { name: "message", data: [], id: event.id };
      return;
    }
    if (text.startsWith(":")) return;
    const colon = text.indexOf(":");
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? "" : text.slice(colon + 1).replace(/^ /, "");
    if (field === "event") event.name = value;
    else if (field === "data") event.data.push(value);
    else if (field === "id") event.id = value;
  };
  return (text) => {
    rest += text;
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    lines.forEach(line);
  };
}

async function readOnce(path, state, { onEvent, onOpen, signal }) {
  const stop = new AbortController();
  const both = AbortSignal.any([signal, stop.signal]);
  const headers = { Accept: "text/event-stream", ...(state.last && { "Last-Event-ID": state.last }) };
  let watchdog;
  const alive = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => stop.abort(), SILENCE);
  };
  try {
    alive();
    const answer = await request(path, { headers, signal: both, timeout: 0 });
    onOpen();
    const feed = parser((event) => {
      if (event.id) state.last = event.id;
      onEvent(event);
    });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      alive();
      feed(value);
    }
  } finally {
    clearTimeout(watchdog);
  }
}

// Follows until `signal` aborts. onMode: "live" or "polling"; onRefused: the server wants no more of this token.
export async function follow(path, { onEvent, onMode, onRefused, signal }) {
  const state = { last: null };
  let failures = 0;
  while (!signal.aborted) {
    try {
      await readOnce(path, state, { onEvent, signal, onOpen: () => { failures = 0; onMode("live"); } });
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && (error.status === 401 || error.status === 403)) return onRefused(error);
    }
    failures += 1;
    if (failures > 1) onMode("polling");
    await pause(Math.min(500 * 2 ** failures, 30000) * (0.5 + Math.random() / 2), signal);
  }
}
