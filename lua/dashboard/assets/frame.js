// What both pages share: the top bar with language, appearance and sign-out, the foot, and the pages for who comes
// without a token that serves.
import { announce, h, icon, mark, place } from "/dashboard/assets/dom.js";
import { language, languages, onLanguage, setLanguage, t } from "/dashboard/assets/i18n.js";
import * as session from "/dashboard/assets/session.js";

const page = document.documentElement.dataset.page;
const root = document.documentElement;
const THEMES = [["auto", "half"], ["light", "sun"], ["dark", "moon"]];

const theme = () => root.dataset.theme ?? "auto";

function setTheme(name) {
  if (name === "auto") delete root.dataset.theme;
  else root.dataset.theme = name;
  try { localStorage.setItem("atelier.theme", name); } catch { /* a private window may forbid it */ }
}

function choice(name, legend, options, chosen, onChoose) {
  return h("fieldset", { class: "choice" },
    h("legend", { class: "unseen" }, legend),
    options.map(([value, label, picture]) => h("label", { title: picture ? label : null },
      h("input", { type: "radio", name, value, checked: value === chosen, "data-key": `${name}-${value}`,
        onchange: () => onChoose(value) }),
      picture ? [icon(picture), h("span", { class: "unseen" }, label)] : h("span", { lang: value }, label))));
}

function drawTop({ signedIn, onSignOut }) {
  place(document.getElementById("top"),
    h("a", { class: "brand", href: page === "customer" ? "/dashboard" : "/dashboard/ops", "data-key": "brand" },
      mark(), h("span", {}, t("brand")), page === "operator" && h("span", { class: "brand-sub" }, t("ops"))),
    h("div", { class: "controls" },
      choice("language", t("language"), Object.entries(languages).map(([k, v]) => [k, k === "en" ? "EN" : v]), language(), setLanguage),
      choice("theme", t("theme"), THEMES.map(([k, p]) => [k, t(`theme_${k}`), p]), theme(), setTheme),
      signedIn && h("button", { type: "button", class: "quiet icon-only", "data-key": "sign-out", onclick: onSignOut,
        title: t("sign_out") }, icon("leave"), h("span", { class: "unseen" }, t("sign_out")))));
  document.title = t(`title_${page}`);
  document.querySelector(".skip").textContent = t("skip");
  place(document.getElementById("foot"), h("p", {}, t(`foot_${page}`)));
}

function signInForm(supabase, onSignedIn) {
  const message = h("p", { class: "field-error", role: "alert" });
  const button = h("button", { type: "submit", class: "primary" }, t("sign_in"));
  const email = h("input", { type: "email", name: "email", id: "email", autocomplete: "username", required: true });
  const password = h("input", { type: "password", name: "password", id: "password", autocomplete: "current-password",
    required: true });
  const submit = async (event) => {
    event.preventDefault();
    message.textContent = "";
    button.disabled = true;
    button.textContent = t("signing_in");
    try {
      await session.signIn(supabase, email.value.trim(), password.value);
      onSignedIn();
    } catch (error) {
      message.textContent = t(error.code ?? "sign_in_failed");
      button.disabled = false;
      button.textContent = t("sign_in");
      password.focus();
    }
  };
  return h("form", { class: "card sign-in", onsubmit: submit },
    h("h2", {}, t("sign_in_title")), h("p", { class: "soft" }, t("sign_in_text")),
    h("label", { for: "email" }, t("email")), email, h("label", { for: "password" }, t("password")), password,
    message, button);
}

const COMMAND = "atelier token --operator";

// For visitors without a token (why: "welcome"), with one that is over ("expired") or not accepted ("refused").
function door(why, supabase, onSignedIn) {
  const operator = page === "operator";
  const key = operator && why !== "expired" ? `${why}_operator` : why;
  return h("section", { class: "door", "aria-labelledby": "door-title", "data-state": why },
    h("div", { class: "door-mark" }, mark("mark large")),
    h("h1", { id: "door-title" }, t(`${key}_title`)),
    h("p", { class: "lead" }, t(`${key}_text`)),
    operator && why !== "expired" && h("pre", { class: "command", tabindex: 0 }, `${COMMAND}\n${location.origin}/dashboard/ops#token=…`),
    supabase && !operator ? signInForm(supabase, onSignedIn)
      : !operator && why === "welcome" && h("ol", { class: "steps" },
        [1, 2, 3].map((n) => h("li", {}, t(`welcome_step_${n}`)))));
}

// Runs a page: `open(config)` shows it for a token and returns {redraw, close}; it calls `leave(why)` when the token
// does not serve any more.
export function run(open) {
  const app = document.getElementById("app");
  let config = { supabase: null, signers: [] };
  let opened = null;
  let closed = null; // why the door is shown
  let timer;

  const redraw = () => {
    drawTop({ signedIn: Boolean(opened), onSignOut: () => { session.forget(); leave("welcome"); } });
    if (opened) opened.redraw();
    else if (closed) {
      place(app, door(closed, config.supabase, enter));
    }
  };

  async function leave(why) {
    clearTimeout(timer);
    if (why === "expired" && await session.renew(config.supabase)) return enter();
    opened?.close();
    opened = null;
    closed = why;
    session.forget();
    redraw();
    if (why === "expired") announce(t("has_ended"));
    document.getElementById("main").focus({ preventScroll: true });
  }

  // Timers beyond 24 days fire at once.
  function watchEnd() {
    clearTimeout(timer);
    const left = session.secondsLeft();
    const early = session.canRefresh() ? 60 : 0;
    if (left - early > 2e6) return;
    timer = setTimeout(async () => {
      if (session.canRefresh() && await session.renew(config.supabase)) watchEnd();
      else if (session.secondsLeft() <= 0) leave("expired");
      else watchEnd();
    }, Math.max(1, left - early) * 1000);
  }

  function enter() {
    opened?.close();
    opened = null;
    closed = null;
    if (!session.current()) closed = "welcome";
    else if (session.secondsLeft() <= 0 && !session.canRefresh()) { closed = "expired"; session.forget(); }
    else {
      opened = open(app, config, leave);
      watchEnd();
    }
    redraw();
  }

  onLanguage(redraw);
  session.takeFragment();
  addEventListener("hashchange", () => { if (session.takeFragment()) enter(); });
  drawTop({ signedIn: Boolean(session.current()), onSignOut: () => {} });
  fetch("/dashboard/config.json", { cache: "no-store", credentials: "omit" })
    .then((answer) => answer.ok ? answer.json() : config)
    .catch(() => config)
    .then((found) => { config = found; enter(); });
}
