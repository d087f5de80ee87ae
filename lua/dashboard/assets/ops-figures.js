// The board of counts, and the charts of throughput and latency.
import { chart } from "/dashboard/assets/charts.js";
import { h, place } from "/dashboard/assets/dom.js";
import { duration, number, t, time } from "/dashboard/assets/i18n.js";

const bones = (n) => h("div", { class: "skeleton", "aria-hidden": "true" }, Array.from({ length: n }, () => h("i", { class: "bone" })));

const STATES = ["queued", "processing", "completed", "failed"];

// The queue's answer: {states: {queued: {jobs, ready, oldest_seconds}, …}}.
export function boardOf(queue) {
  return [h("h2", { class: "unseen", id: "board-title" }, t("ops_queue")), h("dl", { class: "board" }, STATES.map((state) => {
    const now = queue?.states?.[state];
    const jobs = now?.jobs ?? 0;
    const notes = !now ? "" : state === "completed" ? t("ops_last_hour") : jobs && now.oldest_seconds !== null && state !== "failed"
      ? t("ops_oldest", { age: duration(now.oldest_seconds) }) : "";
    const waiting = state === "queued" && jobs > (now?.ready ?? jobs) ? ` · ${t("ops_waiting", { count: jobs - now.ready })}` : "";
    return h("div", { class: state === "failed" && jobs ? "bad" : "", "data-state": state },
      h("dt", {}, t(`ops_${state}`)), h("dd", {}, queue ? number(jobs) : "–", h("small", {}, notes, waiting)));
  }))];
}

// The queued ones by priority: how many, how long the oldest has waited. Nothing when nothing waits.
export function waitingCard(queue) {
  const rows = queue?.priorities ?? [];
  const most = Math.max(1, ...rows.map((row) => row.jobs));
  return [h("h2", { id: "waiting-title" }, t("ops_waiting_title")),
    h("ul", { class: "ages" }, rows.map((row) => h("li", {},
      h("span", {}, `${t("ops_priority")} ${number(row.priority)}`),
      h("span", { class: "meter", "aria-hidden": "true" }, h("i", { css: { "--share": String(row.jobs / most) } })),
      h("span", {}, h("b", {}, number(row.jobs)), row.oldest_seconds !== null && h("span", { class: "soft" }, ` · ${t("ops_oldest", { age: duration(row.oldest_seconds) })}`)))))];
}

const minute = (point) => time(point.at, { hour: "2-digit", minute: "2-digit" });
const ms = (value) => duration(value / 1000);

function throughput(points) {
  const sum = (of) => points.reduce((all, point) => all + of(point), 0);
  return {
    kind: "bars", points, format: number, label: minute, title: t("ops_throughput"), text: t("ops_throughput_text"),
    summary: t("ops_total", { done: sum((p) => p.completed), failed: sum((p) => p.failed) }),
    series: [{ name: "completed", title: t("ops_completed"), of: (p) => p.completed },
      { name: "failed", title: t("ops_failed"), of: (p) => p.failed }],
  };
}

function latency(points) {
  const last = [...points].reverse().find((p) => p.p50 !== null);
  return {
    kind: "lines", points, format: ms, label: minute, title: t("ops_latency"), text: t("ops_latency_text"),
    summary: last ? t("ops_latest", { p50: ms(last.p50), p95: ms(last.p95) }) : "",
    series: [{ name: "p50", title: t("ops_p50"), of: (p) => p.p50 }, { name: "p95", title: t("ops_p95"), of: (p) => p.p95 }],
  };
}

// The series' answer: items by minute, {minute, completed, failed, total_ms: {p50, p95}}.
const pointsOf = (series) => (series.items ?? []).map((item) => ({
  at: item.minute, completed: item.completed ?? 0, failed: item.failed ?? 0,
  p50: item.total_ms?.p50 ?? null, p95: item.total_ms?.p95 ?? null }));

export function chartsOf(parts) {
  const both = { throughput: chart(), latency: chart() };
  let last;
  const heading = (name) => h("h2", { class: "unseen", id: `${name}-title` }, t(`ops_${name}`));
  return {
    update(series, all) {
      if (!series) {
        for (const name of Object.keys(both)) place(parts[name], heading(name), bones(4));
        return;
      }
      const text = JSON.stringify(series);
      if (text === last && !all) return;
      const points = pointsOf(series);
      const isEmpty = points.every((p) => !p.completed && !p.failed);
      for (const [name, make] of [["throughput", throughput], ["latency", latency]]) {
        if (isEmpty) {
          place(parts[name], h("h2", { id: `${name}-title` }, t(`ops_${name}`)), h("p", { class: "soft" }, t("ops_no_data")));
          continue;
        }
        if (!parts[name].contains(both[name].figure) || all) parts[name].replaceChildren(heading(name), both[name].figure);
        both[name].update(make(points));
      }
      last = text;
    },
  };
}

export { bones };
