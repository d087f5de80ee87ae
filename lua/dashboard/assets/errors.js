// Failures in plain language: what happened, and what one can do.
import { h, icon } from "/dashboard/assets/dom.js";
import { has, t } from "/dashboard/assets/i18n.js";

const SAME = {
  connection: "unavailable", busy: "unavailable", read_only: "unavailable", draining: "unavailable",
  too_many_requests: "rate_limited", http_429: "rate_limited", http_502: "unavailable", http_503: "unavailable",
  http_504: "timeout", http_500: "internal",
};

export const reasonText = (reason) => has(`reason_${reason}`) ? t(`reason_${reason}`) : t("error_not_entitled");

export function errorText(error) {
  const code = error.status === 429 ? "rate_limited" : SAME[error.code] ?? error.code;
  if (code === "not_entitled") return reasonText(error.details);
  return has(`error_${code}`) ? t(`error_${code}`) : t("error_other");
}

// A box with a heading; `kind`: bad, warn or info.
export function notice(kind, title, text, { id, action, details } = {}) {
  return h("div", { class: `notice ${kind}`, role: kind === "bad" ? "alert" : null },
    icon(kind === "info" ? "info" : "warn"),
    h("div", { class: "notice-text" },
      h("p", { class: "notice-title" }, title), text && h("p", {}, text),
      id && h("p", { class: "small" }, t("error_number", { id })), details),
    action && h("div", { class: "notice-action" }, action));
}
