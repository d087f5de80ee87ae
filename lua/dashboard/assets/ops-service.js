// Who serves: the generation and its last reload, the workers and what they hold, the templates.
import { h, icon } from "/dashboard/assets/dom.js";
import { notice } from "/dashboard/assets/errors.js";
import { duration, number, relative, t, time } from "/dashboard/assets/i18n.js";
import { bones } from "/dashboard/assets/ops-figures.js";

const when = (value) => value ? h("time", { datetime: value, title: time(value) }, relative(value)) : "–";

const table = (id, columns, rows) => h("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": id },
  h("table", {}, h("thead", {}, h("tr", {}, columns.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows)));

// A service that just started tells its start as a reload that went well.
function reloadNotice(reload, generation) {
  if (!reload?.at || (reload.ok && generation === 1)) return h("p", { class: "soft" }, t("ops_reload_never"));
  if (reload.ok) return h("p", { class: "soft" }, t("ops_reload_ok", { when: relative(reload.at) }));
  return notice("bad", t("ops_reload_failed", { when: relative(reload.at) }), null,
    { details: h("p", { class: "verbatim", id: "reload-error" }, reload.message) });
}

// The state: {generation, started_at, reload: {ok, at, message}, processes: [{name, pid, generation, restarts, since}]}.
export function generationCard(state) {
  const head = h("h2", { id: "generation-title" }, t("ops_generation"));
  if (!state) return [head, bones(3)];
  return [head,
    h("p", { class: "reload" }, h("b", {}, number(state.generation ?? 0)),
      state.started_at && h("span", { class: "soft" }, t("ops_generation_text", { when: relative(state.started_at) }))),
    reloadNotice(state.reload, state.generation),
    state.processes?.length > 0 && table("generation-title", [t("ops_process"), t("ops_pid"), t("ops_restarts"), t("ops_since")],
      state.processes.map((one) => h("tr", {}, h("td", {}, one.name), h("td", {}, h("code", {}, String(one.pid))),
        h("td", {}, number(one.restarts ?? 0)), h("td", { class: "nowrap" }, when(one.since)))))];
}

function lease(worker) {
  if (!worker.jobs) return h("span", { class: "soft" }, t("ops_idle"));
  const left = worker.lease_until ? (new Date(worker.lease_until) - Date.now()) / 1000 : null;
  return [t("ops_holding", { count: worker.jobs }), left !== null && h("small", { class: "soft" },
    ` · ${left > 0 ? t("ops_lease_left", { span: duration(left) }) : t("ops_lease_over")}`)];
}

export function workerCard(answer) {
  const head = h("h2", { id: "workers-title" }, t("ops_workers"));
  if (!answer) return [head, bones(3)];
  const workers = answer.items;
  if (!workers.some((one) => one.alive)) {
    return [head, notice("warn", t("ops_workers_none")), workers.length > 0 && list(workers)];
  }
  return [head, list(workers)];
}

const list = (workers) => table("workers-title", [t("ops_worker"), t("ops_state"), t("ops_lease"), t("ops_seen")],
  workers.slice(0, 8).map((one) => h("tr", {},
    h("td", {}, h("span", { title: one.worker_id }, one.host ?? one.worker_id), one.pid && h("small", { class: "soft" }, ` · ${one.pid}`)),
    h("td", {}, h("span", { class: `verdict ${one.alive ? "ok" : ""}` }, t(one.alive ? "ops_alive" : "ops_gone"))),
    h("td", { class: "nowrap" }, one.alive ? lease(one) : one.gone_reason ?? "–"),
    h("td", { class: "nowrap" }, when(one.last_seen)))));

export function templateCard(answer) {
  const head = h("h2", { id: "templates-title" }, t("ops_templates"));
  if (!answer) return [head, bones(2)];
  if (!answer.items.length) return [head, h("p", { class: "calm" }, icon("info"), t("ops_templates_none"))];
  return [head, table("templates-title", [t("ops_name"), t("version"), t("ops_state"), t("ops_published")],
    answer.items.map((one) => h("tr", {}, h("td", { class: "wraps" }, h("b", {}, one.name), one.description && h("small", { class: "soft" }, h("br"), one.description)),
      h("td", {}, one.version), h("td", {}, h("span", { class: `verdict ${one.is_active ? "ok" : "warn"}` }, t(one.is_active ? "ops_active" : "ops_inactive"))),
      h("td", { class: "nowrap" }, when(one.published_at ?? one.updated_at)))))];
}
