// The licence key: hidden until asked for, and again when the page is left or another device is chosen.
import { announce, copy, h, icon, place } from "/dashboard/assets/dom.js";
import { errorText } from "/dashboard/assets/errors.js";
import { t, time } from "/dashboard/assets/i18n.js";

export function licenceCard(where, getData, licenseOf) {
  let shown = null; // the key while it is shown
  let fault = null;

  async function reveal() {
    const { device } = getData();
    if (shown) { hide(); return announce(t("hidden")); }
    try {
      shown = (await licenseOf(device)).license_key;
      fault = null;
      announce(t("revealed"));
    } catch (error) {
      fault = errorText(error);
      announce(fault);
    }
    draw();
  }

  async function copyKey() {
    try {
      const key = shown ?? (await licenseOf(getData().device)).license_key;
      announce(await copy(key) ? t("key_copied") : t("copy_failed"));
      where.dataset.copied = "yes";
      setTimeout(() => { delete where.dataset.copied; }, 1600);
    } catch (error) {
      fault = errorText(error);
      draw();
    }
  }

  function hide() {
    if (!shown && !fault) return;
    shown = fault = null;
    draw();
  }

  function draw() {
    const { device, license } = getData();
    const off = !device || !license;
    const none = getData().status && !license;
    place(where,
      h("h2", { id: "licence-title" }, t("licence")),
      h("p", { class: "soft" }, t("licence_text")),
      h("div", { class: "key", "data-shown": shown ? "yes" : "no" },
        shown ? h("output", { class: "key-text", id: "licence-key", "aria-label": t("licence") }, shown)
          : h("span", { class: "key-text veiled" }, h("span", { "aria-hidden": "true" }, "•••••-•••••-•••••-•••••-•••••"),
            h("span", { class: "unseen" }, t("licence_hidden")))),
      none && h("p", { class: "small soft" }, t("licence_none")),
      fault && h("p", { class: "field-error" }, fault),
      h("div", { class: "actions" },
        h("button", { type: "button", id: "reveal", "data-key": "reveal", disabled: off, "aria-controls": "licence", onclick: reveal },
          icon(shown ? "eye-off" : "eye"), t(shown ? "hide" : "reveal")),
        h("button", { type: "button", id: "copy-key", "data-key": "copy-key", disabled: off, onclick: copyKey },
          h("span", { class: "swap" }, icon("copy"), icon("check")), t("copy_key"))),
      license?.expires_at && h("p", { class: "small soft" }, t("licence_until", { date: time(license.expires_at) })));
    where.setAttribute("aria-labelledby", "licence-title");
  }

  return { draw, hide };
}
