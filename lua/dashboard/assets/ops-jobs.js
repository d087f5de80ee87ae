// Jobs: those that failed, with their reason and a way to run them again, and all by state.
import { h, icon } from "/dashboard/assets/dom.js";
import { duration, has, number, relative, t, time } from "/dashboard/assets/i18n.js";
import { bones } from "/dashboard/assets/ops-figures.js";

const STATES = ["", "queued", "processing", "completed", "failed", "cancelled"];
const KIND = { queued: "", processing: "busy", completed: "ok", failed: "bad", cancelled: "warn" };

const when = (value) => value ? h("time", { datetime: value, title: time(value) }, relative(value)) : "–";

function redriveButton(job, view, actions) {
  return h("button", { type: "button", class: "small-button", "data-key": `redrive-${job.queue_id}`, "data-redrive": job.queue_id,
    disabled: view.busy.has(job.queue_id), onclick: () => actions.redrive(job.queue_id) }, icon("again"), t("ops_redrive"),
  h("span", { class: "unseen" }, ` ${job.device_hash}`));
}

// Cancelling asks back in its own place: one press arms it, the next one does it, and any other disarms it.
function cancelButton(job, view, actions) {
  const armed = view.armed === job.queue_id;
  return h("button", { type: "button", class: `quiet small-button ${armed ? "armed" : ""}`, "data-key": `cancel-${job.queue_id}`,
    "data-cancel": job.queue_id, disabled: view.busy.has(job.queue_id), onclick: () => actions.cancel(job.queue_id) },
  icon("stop"), t(armed ? "ops_cancel_sure" : "ops_cancel"), h("span", { class: "unseen" }, ` ${job.device_hash}`));
}

const failureItem = (job, view, actions) => h("li", {},
  h("div", { class: "failure-head" }, h("b", {}, job.device_hash), h("span", { class: "code" }, job.error?.code ?? "–"),
    h("small", { class: "soft" }, `${job.template} · ${t("ops_attempt")} ${number(job.attempt)} · `, when(job.finished_at ?? job.updated_at))),
  h("p", { class: "verbatim" }, job.error?.message ?? "–"),
  h("div", { class: "actions" }, redriveButton(job, view, actions)));

export function failureCard(jobs, view, actions) {
  const head = h("div", { class: "card-head" }, h("h2", { id: "failures-title" }, t("ops_failures"),
    jobs?.length > 0 && h("span", { class: "count" }, ` ${number(jobs.length)}${jobs.length >= 50 ? "+" : ""}`)),
  jobs?.length > 1 && h("button", { type: "button", class: "small-button", "data-key": "redrive-all",
    onclick: () => actions.redriveAll(jobs.map((job) => job.queue_id)) }, icon("again"), t("ops_redrive_all")));
  if (!jobs) return [head, bones(3)];
  if (!jobs.length) return [head, h("p", { class: "calm" }, icon("check"), t("ops_failures_none"))];
  return [head, h("ul", { class: "failures" }, jobs.slice(0, view.failures).map((job) => failureItem(job, view, actions))),
    jobs.length > view.failures && h("button", { type: "button", class: "quiet", "data-key": "more-failures", onclick: actions.moreFailures },
      t("ops_more"))];
}

function row(job, view, actions) {
  const is = (...states) => states.includes(job.state);
  const span = job.finished_at ? (new Date(job.finished_at) - new Date(job.queued_at)) / 1000 : null;
  return h("tr", {},
    h("td", {}, h("code", { title: job.queue_id }, job.queue_id.slice(-8))),
    h("td", {}, job.device_hash),
    h("td", { class: "nowrap" }, h("span", { class: `verdict ${KIND[job.state]}` }, t(`ops_${job.state}`),
      is("processing") && job.stage && ` · ${has(`stage_${job.stage}`) ? t(`stage_${job.stage}`) : job.stage}`)),
    h("td", { class: "number" }, number(job.priority)),
    h("td", { class: "number" }, number(job.attempt)),
    h("td", { class: "nowrap" }, when(job.queued_at)),
    h("td", { class: "number" }, duration(span)),
    h("td", {}, h("div", { class: "job-actions" },
      is("failed", "cancelled") && redriveButton(job, view, actions), is("queued", "processing") && cancelButton(job, view, actions))));
}

export function jobCard(jobs, view, actions) {
  const head = h("div", { class: "card-head" }, h("h2", { id: "jobs-title" }, t("ops_jobs")),
    h("fieldset", { class: "choice filters" }, h("legend", { class: "unseen" }, t("ops_filter")),
      STATES.map((state) => h("label", {}, h("input", { type: "radio", name: "job-state", value: state, checked: view.state === state,
        "data-key": `state-${state}`, onchange: () => actions.filter(state) }), state ? t(`ops_${state}`) : t("ops_all")))));
  if (!jobs) return [head, bones(4)];
  if (!jobs.length) return [head, h("p", { class: "soft" }, t("ops_no_jobs"))];
  const columns = [["job"], ["device"], ["state"], ["priority", 1], ["attempt", 1], ["queued"], ["took", 1], ["actions", 1]];
  return [head, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": "jobs-title", "data-key": "jobs-scroll" },
    h("table", {}, h("thead", {}, h("tr", {}, columns.map(([name, right]) =>
      h("th", { scope: "col", class: right ? "number" : null }, name === "queued" ? t("ops_when") : t(`ops_${name}`))))),
    h("tbody", {}, jobs.map((job) => row(job, view, actions))))),
  jobs.length >= view.most && h("button", { type: "button", class: "quiet", "data-key": "more", onclick: actions.more }, t("ops_more"))];
}
