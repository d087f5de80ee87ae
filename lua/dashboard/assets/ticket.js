// The ticket: where the file of a device stands, from the request to the seal, and its download.
import { announce, copy, h, icon, mark, place } from "/dashboard/assets/dom.js";
import { notice, reasonText } from "/dashboard/assets/errors.js";
import { relative, size, t, time } from "/dashboard/assets/i18n.js";

const STAGES = ["queued", "rendering", "checking", "sealing", "storing", "ready"];
const at = { queued: 0, claimed: 1, rendering: 1, checking: 2, sealing: 3, storing: 4 };

// Reasons that lie in the file and not in the device: another one may be asked for.
const OF_FILE = new Set(["no_file", "pending", "file_expired", "beyond_plan", "file_inactive"]);

const EXPIRED = new Set(["file_expired", "licence_expired", "trial_ended"]);

// What the customer is to see: one word for it all.
export function stateOf({ devices, device, status }) {
  if (devices && !device) return "no_devices";
  if (!status) return "loading";
  const { job } = status;
  if (job?.state === "queued" || job?.state === "processing") return status.is_ready ? "newer" : job.state;
  if (status.is_ready) return "ready";
  if (status.reason && !OF_FILE.has(status.reason)) return "refused";
  if (job?.state === "failed") return "failed";
  return status.ate_file_id ? "stale" : "none";
}

function track(job) {
  const here = job.state === "queued" ? 0 : at[job.stage] ?? 1;
  return h("ol", { class: "track", "aria-label": t("progress"), css: { "--done": String(here / (STAGES.length - 1)) } },
    STAGES.map((stage, i) => h("li", { class: i < here ? "past" : i === here ? "here" : "ahead",
      "aria-current": i === here ? "step" : null },
    h("span", { class: "dot" }, i < here && icon("check")), h("span", { class: "stage" }, t(`stage_${stage}`)))));
}

function jobTitle(job) {
  if (job.state === "processing") return t(job.stage ? `doing_${job.stage}` : "state_processing");
  if (job.position === 1) return t("state_queued_next");
  return job.position ? t("state_queued_place", { position: job.position }) : t("state_queued");
}

function facts(status) {
  const fact = (name, ...value) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value));
  return h("dl", { class: "facts" },
    fact(t("size"), size(status.file_size)),
    fact(t("valid_until"), status.expires_at
      ? [h("time", { datetime: status.expires_at }, time(status.expires_at)), h("small", {}, relative(status.expires_at))]
      : t("never")),
    fact(t("downloads"), h("span", { id: "download-count" }, t("downloads_count", { count: status.download_count ?? 0 }))),
    h("div", { class: "wide" }, h("dt", {}, t("checksum")), h("dd", { class: "checksum" },
      h("code", { title: status.checksum }, status.checksum),
      h("button", { type: "button", class: "quiet icon-only small-button", "data-key": "copy-sum", title: t("copy_checksum"),
        onclick: async () => announce(await copy(status.checksum) ? t("copied") : t("copy_failed")) },
      icon("copy"), h("span", { class: "unseen" }, t("copy_checksum"))))));
}

const button = (key, className, picture, text, onclick) =>
  h("button", { type: "button", class: className, "data-key": key, id: key, onclick }, icon(picture), text);

function failure(job) {
  const code = job.error?.code;
  const key = code === "cancelled" ? "job_cancelled" : code?.startsWith("jail_") ? "job_failed_check" : "job_failed_text";
  return h("div", {}, h("p", { class: "lead" }, t(key)),
    job.error && h("details", { class: "reason" }, h("summary", { "data-key": "reason" }, t("details")),
      h("p", {}, h("code", {}, job.error.code)), job.error.message && h("p", { class: "verbatim" }, job.error.message)));
}

const seal = () => h("div", { class: "seal", "aria-hidden": "true" }, mark("mark huge"));

const BODY = {
  loading: () => h("div", { class: "skeleton", "aria-hidden": "true" },
    h("i", { class: "bone wide" }), h("i", { class: "bone" }), h("i", { class: "bone tall" })),
  no_devices: () => [h("div", { class: "empty-picture" }, icon("device")), h("h2", {}, t("no_devices_title")),
    h("p", { class: "lead" }, t("no_devices_text"))],
  none: (data, act) => [h("h2", {}, t("state_none")), h("p", { class: "lead" }, t("state_none_text")),
    h("div", { class: "actions" }, button("generate", "primary", "plus", t("make"), act.generate))],
  queued: ({ status: { job } }) => [h("h2", {}, jobTitle(job)), track(job),
    h("p", { class: "soft" }, t(job.attempt > 0 ? "state_queued_again" : "state_queued_text"))],
  processing: ({ status: { job } }) => [h("h2", {}, jobTitle(job)), track(job), h("p", { class: "soft" }, t("state_processing_text"))],
  failed: ({ status }, act) => [h("h2", {}, t("state_failed")), failure(status.job),
    h("div", { class: "actions" }, button("generate", "primary", "again", t("retry"), act.generate))],
  refused: ({ status }) => [
    h("h2", {}, t(EXPIRED.has(status.reason) ? "state_expired" : status.ate_file_id ? "state_stale" : "state_none")),
    notice("warn", reasonText(status.reason))],
  stale: ({ status }, act) => [
    h("h2", {}, t(EXPIRED.has(status.reason) ? "state_expired" : "state_stale")), h("p", { class: "lead" }, reasonText(status.reason)),
    h("div", { class: "actions" }, button("generate", "primary", "again", t("regenerate"), act.generate))],
  ready: ({ status }, act) => [seal(), h("h2", {}, t("state_ready")), h("p", { class: "filename" }, status.filename),
    status.job?.state === "failed" && notice("warn", t("newer_failed"), null, { details: failure(status.job) }),
    facts(status),
    h("div", { class: "actions" }, button("download", "primary", "download", t("download"), act.download),
      button("generate", "", "again", t("regenerate"), act.generate))],
  newer: ({ status }, act) => [h("h2", {}, jobTitle(status.job)), track(status.job),
    h("p", { class: "soft" }, t("newer")), h("p", { class: "filename" }, status.filename), facts(status),
    h("div", { class: "actions" }, button("download", "", "download", t("download"), act.download))],
};

let spoken = "";

export function ticket(where, data, act) {
  const state = stateOf(data);
  where.dataset.state = state;
  where.setAttribute("aria-busy", state === "loading");
  where.setAttribute("aria-labelledby", "ticket-title");
  place(where,
    h("header", { class: "ticket-head" },
      h("h1", { id: "ticket-title" }, t("your_file")),
      h("div", { class: "ticket-meta" },
        data.device && h("span", { class: "tag" }, icon("device"), h("span", { class: "unseen" }, t("device")), data.device),
        h("span", { class: `pulse ${data.mode}`, title: t(data.mode === "live" ? "live_text" : data.mode === "polling" ? "polling_text" : "connecting") },
          t(data.mode)))),
    h("div", { class: `ticket-body is-${state}` }, BODY[state](data, act)));
  // Steps are told as they come, the first look is not.
  const { job } = data.status ?? {};
  const active = state === "queued" || state === "processing" || state === "newer";
  const now = active ? jobTitle(job) : "";
  if (now && now !== spoken && job.state === "processing") announce(now);
  spoken = now;
}
