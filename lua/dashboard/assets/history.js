// The downloads of a device's file.
import * as api from "/dashboard/assets/api.js";
import { h, place } from "/dashboard/assets/dom.js";
import { size, t, time } from "/dashboard/assets/i18n.js";

const PAGE = 10;

// What an agent calls itself, short: its most telling product, "Chrome 131".
export function agentName(agent) {
  if (!agent) return "–";
  const known = agent.match(/(Edg|Firefox|Chrome|CriOS|FxiOS|Version|AutoTouch|curl|Wget|okhttp)\/(\d+)/);
  if (!known) return agent.split(/[\s/(]/)[0].slice(0, 24);
  const names = { Edg: "Edge", CriOS: "Chrome", FxiOS: "Firefox", Version: "Safari" };
  return `${names[known[1]] ?? known[1]} ${known[2]}`;
}

export function historyCard(where, getData) {
  let items = null;
  let most = PAGE;
  let owner = null;

  async function load() {
    const { device, status } = getData();
    if (!device) return;
    if (device !== owner) { items = null; most = PAGE; owner = device; }
    try {
      const all = status?.ate_file_id ? await api.list("/api/ate/history", { most: 200, ate_file_id: status.ate_file_id }) : [];
      if (device !== getData().device) return;
      items = all;
    } catch {
      items ??= []; // the page says elsewhere that the service is not there
    }
    draw();
  }

  const row = (item) => h("tr", {},
    h("td", {}, h("time", { datetime: item.created_at }, time(item.created_at, { dateStyle: "medium", timeStyle: "short" }))),
    h("td", {}, h("span", { class: `verdict ${item.status === "completed" ? "ok" : "warn"}` }, t(`history_${item.status}`))),
    h("td", { class: "number" }, size(item.bytes)),
    h("td", {}, agentName(item.user_agent)));

  function draw() {
    where.setAttribute("aria-labelledby", "history-title");
    place(where, h("h2", { id: "history-title" }, t("history")),
      items === null ? h("div", { class: "skeleton", "aria-hidden": "true" }, h("i", { class: "bone" }), h("i", { class: "bone" }))
        : items.length === 0 ? h("p", { class: "soft" }, t("history_empty"))
          : h("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": "history-title" },
            h("table", {},
              h("thead", {}, h("tr", {}, ["when", "what", "size", "with"].map((name) =>
                h("th", { scope: "col", class: name === "size" ? "number" : null }, t(`history_${name}`))))),
              h("tbody", {}, items.slice(0, most).map(row)))),
      items?.length > most && h("button", { type: "button", class: "quiet", "data-key": "more",
        onclick: () => { most += 20; draw(); } }, t("history_more")));
  }

  draw();
  return { load, draw };
}
