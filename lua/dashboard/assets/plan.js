// The plan: the tools that are in, those that are not, and what a larger plan adds.
import { h, icon, place } from "/dashboard/assets/dom.js";
import { t, toolName, yen } from "/dashboard/assets/i18n.js";

const toolsOf = (plan) => plan.tools ?? [];

// Plans by price; every tool of any of them, each once, those of cheaper plans first.
function survey(plans) {
  const sorted = [...plans].sort((a, b) => a.price_jpy - b.price_jpy);
  return { sorted, tools: [...new Set(sorted.flatMap(toolsOf))] };
}

const toolItem = (tool, has, where) => h("li", { class: has ? "has" : "lacks" },
  icon(has ? "check" : "dash"), h("span", { class: "tool-name" }, toolName(tool)),
  h("span", { class: "unseen" }, has ? t("included") : t("not_included")),
  where && h("small", {}, where));

export function planCard(where, data) {
  const name = data.license?.plan ?? data.devices?.find((one) => one.device_hash === data.device)?.plan;
  const { sorted, tools } = survey((data.plans ?? []).filter((one) => one.is_active !== false || one.name === name));
  const mine = sorted.find((one) => one.name === name);
  where.setAttribute("aria-labelledby", "plan-title");
  if (!data.plans || (!mine && !data.status)) {
    return place(where, h("h2", { id: "plan-title" }, t("plan")), h("div", { class: "skeleton", "aria-hidden": "true" },
      h("i", { class: "bone" }), h("i", { class: "bone" }), h("i", { class: "bone" })));
  }
  const owned = new Set(mine ? toolsOf(mine) : []);
  const larger = sorted.filter((one) => !mine || (one.price_jpy > mine.price_jpy));
  const missing = tools.filter((tool) => !owned.has(tool));
  const within = (tool) => sorted.filter((one) => toolsOf(one).includes(tool)).map((one) => one.display_name).join(", ");
  place(where,
    h("h2", { id: "plan-title" }, t("plan")),
    mine && h("p", { class: "plan-name" }, h("b", {}, mine.display_name), h("span", { class: "price" }, yen(mine.price_jpy)),
      h("small", {}, t("devices_up_to", { count: mine.max_devices }))),
    owned.size > 0 && [h("h3", {}, t("in_plan")),
      h("ul", { class: "tools" }, tools.filter((tool) => owned.has(tool)).map((tool) => toolItem(tool, true)))],
    missing.length > 0 && [h("h3", {}, t("not_in_plan")),
      h("ul", { class: "tools rows" }, missing.map((tool) => toolItem(tool, false, t("has_it", { plans: within(tool) }))))],
    missing.length === 0 && h("p", { class: "soft" }, t("top_plan")),
    larger.length > 0 && h("div", { class: "upgrades" }, h("h3", {}, t("upgrade")),
      larger.map((plan) => {
        const adds = toolsOf(plan).filter((tool) => !owned.has(tool));
        return h("details", { class: "upgrade" },
          h("summary", { "data-key": `upgrade-${plan.name}` }, h("b", {}, plan.display_name), h("span", { class: "price" }, yen(plan.price_jpy)),
            h("span", { class: "plus" }, `+${adds.length}`)),
          h("ul", { class: "tools" }, adds.map((tool) => h("li", { class: "adds" }, icon("plus"), h("span", { class: "tool-name" }, toolName(tool))))),
          h("p", { class: "small soft" }, t("devices_up_to", { count: plan.max_devices })));
      })));
}
