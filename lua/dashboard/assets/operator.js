// The operator's page: asks for everything every few seconds and draws what has changed.
import * as api from "/dashboard/assets/api.js";
import { announce, h, icon, place } from "/dashboard/assets/dom.js";
import { errorText, notice } from "/dashboard/assets/errors.js";
import { run } from "/dashboard/assets/frame.js";
import { relative, t } from "/dashboard/assets/i18n.js";
import { boardOf, chartsOf, waitingCard } from "/dashboard/assets/ops-figures.js";
import { failureCard, jobCard } from "/dashboard/assets/ops-jobs.js";
import { generationCard, templateCard, workerCard } from "/dashboard/assets/ops-service.js";

const EVERY = 3000;
// Figures per minute need no more than that.
const SERIES_EVERY = 15000;

const PARTS = [["alert", "div", ""], ["head", "div", "bench-head"], ["board", "div", ""], ["waiting", "section", "card"], ["throughput", "section", "card half"],
  ["latency", "section", "card half"], ["failures", "section", "card two-thirds"], ["generation", "section", "card third"],
  ["jobs", "section", "card"], ["workers", "section", "card half"], ["templates", "section", "card half"]];

function open(app, config, leave) {
  const stop = new AbortController();
  const parts = {};
  const data = { queue: null, series: null, failed: null, jobs: null, workers: null, state: null, templates: null };
  const view = { state: "", paused: false, updated: null, fault: null, most: 25, failures: 5, armed: null, busy: new Set() };
  const drawn = {};
  let timer;
  let seriesAt = 0;
  let turns = 0;

  const bench = h("div", { class: "bench" });
  for (const [name, tag, className] of PARTS) {
    parts[name] = h(tag, { class: className, id: `ops-${name}`, "aria-labelledby": tag === "section" ? `${name}-title` : null });
    bench.append(parts[name]);
  }
  app.replaceChildren(bench);
  const charts = chartsOf(parts);

  // Each part is drawn when what it shows has changed: whoever reads it or stands in it is left in peace.
  function draw(all = false) {
    const part = (name, key, content) => {
      const now = JSON.stringify(key);
      if (!all && drawn[name] === now) return;
      drawn[name] = now;
      place(parts[name], content());
    };
    part("alert", [view.fault?.code, view.fault?.requestId], () => view.fault && notice("bad", t("error_title"), errorText(view.fault), { id: view.fault.requestId }));
    drawHead();
    part("board", data.queue, () => boardOf(data.queue));
    parts.waiting.hidden = !data.queue?.priorities?.length;
    part("waiting", data.queue?.priorities, () => waitingCard(data.queue));
    charts.update(data.series, all);
    part("failures", [data.failed, view.failures, [...view.busy]], () => failureCard(data.failed, view, actions));
    part("generation", data.state, () => generationCard(data.state));
    part("jobs", [data.jobs, view.state, view.most, view.armed, [...view.busy]], () => jobCard(data.jobs, view, actions));
    part("workers", data.workers, () => workerCard(data.workers));
    part("templates", data.templates, () => templateCard(data.templates));
  }

  function drawHead() {
    const stale = view.fault && view.updated;
    place(parts.head,
      h("h1", {}, t("ops_now")),
      h("span", { class: `pulse ${view.paused ? "paused" : view.fault ? "stale" : ""}` },
        view.paused ? t("ops_paused") : !view.updated ? t("loading") : t(stale ? "ops_stale" : "ops_updated", { when: relative(view.updated) })),
      h("button", { type: "button", id: "pause", "data-key": "pause", class: "small-button", "aria-pressed": String(view.paused), onclick: actions.pause },
        icon(view.paused ? "play" : "pause"), t(view.paused ? "ops_resume" : "ops_pause")));
  }

  // Only the last one that was begun draws: an answer to what was asked before, say with another filter, may come later.
  async function refresh() {
    clearTimeout(timer);
    const turn = ++turns;
    try {
      if (!view.updated) data.queue = await api.ops("queue"); // one refusal is enough
      const wantsSeries = Date.now() - seriesAt > SERIES_EVERY;
      const [queue, failed, jobs, workers, state, templates, series] = await Promise.all([
        api.ops("queue"), api.list("/api/ops/jobs", { state: "failed", most: 50, limit: 50 }),
        api.list("/api/ops/jobs", { state: view.state || undefined, most: view.most, limit: Math.min(view.most, 100) }),
        api.ops("workers"), api.ops("state"), api.ops("templates"),
        wantsSeries ? api.ops("series", { minutes: 60 }) : data.series,
      ]);
      if (stop.signal.aborted || turn !== turns) return;
      Object.assign(data, { queue, failed, jobs, workers, state, templates, series });
      if (wantsSeries) seriesAt = Date.now();
      view.fault = null;
      view.updated = new Date();
    } catch (error) {
      if (stop.signal.aborted || turn !== turns) return;
      if (error.status === 401) return leave(error.code === "token_expired" ? "expired" : "refused");
      if (error.status === 403) return leave("refused");
      if (!(error instanceof api.ApiError)) console.warn(error);
      view.fault = error;
    }
    draw();
    schedule();
  }

  function schedule() {
    clearTimeout(timer);
    if (stop.signal.aborted || view.paused) return;
    timer = setTimeout(() => document.hidden ? schedule() : refresh(), EVERY);
  }

  async function act(ids, verb, said) {
    ids.forEach((id) => view.busy.add(id));
    draw();
    try {
      for (const id of ids) await api.post(`/api/ops/jobs/${id}/${verb}`);
      announce(said);
    } catch (error) {
      announce(errorText(error));
      view.fault = error;
    }
    ids.forEach((id) => view.busy.delete(id));
    seriesAt = 0;
    await refresh();
  }

  const actions = {
    redrive: (id) => act([id], "redrive", t("ops_redriven")),
    redriveAll: (ids) => act(ids, "redrive", t("ops_redriven_count", { count: ids.length })),
    cancel: (id) => {
      if (view.armed === id) { view.armed = null; return act([id], "cancel", t("ops_cancelled_said")); }
      view.armed = id;
      announce(t("ops_cancel_sure"));
      draw();
    },
    filter: (state) => { view.armed = null; view.state = state; view.most = 25; data.jobs = null; draw(); refresh(); },
    more: () => { view.most += 50; refresh(); },
    moreFailures: () => { view.failures += 20; draw(); },
    pause: () => { view.paused = !view.paused; drawHead(); if (view.paused) clearTimeout(timer); else refresh(); },
  };

  const disarm = (event) => {
    if (!view.armed || event.target.closest?.(`[data-cancel="${CSS.escape(view.armed)}"]`)) return;
    if (event.type === "keydown" && event.key !== "Escape") return;
    view.armed = null;
    draw();
  };
  for (const type of ["pointerdown", "keydown"]) document.addEventListener(type, disarm, { signal: stop.signal });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !view.paused) refresh(); }, { signal: stop.signal });
  const clock = setInterval(() => { if (!document.hidden && !parts.head.contains(document.activeElement)) drawHead(); }, 1000);
  draw();
  refresh();
  return {
    redraw: () => draw(true),
    close: () => { stop.abort(); clearTimeout(timer); clearInterval(clock); app.replaceChildren(); },
  };
}

run(open);
