// "Open and check a file here": the file never leaves the page. Shows every check, and what is inside.
import { announce, h, icon, place } from "/dashboard/assets/dom.js";
import { size, t, time, toolName } from "/dashboard/assets/i18n.js";
import { openAte } from "/dashboard/assets/opener.js";

const LARGEST = 512 * 2 ** 20; // WebCrypto takes a file whole
const TEXTS = /\.(lua|json|txt|md|csv)$/i;
const SHOWN = 64 * 1024;

const MAKE_STEPS = ["form", "key", "intact", "signer", "contents"];
// The step at which a code refuses.
const REFUSED_AT = { wrong_key: "key", tampered: "intact", bad_signature: "signer", bad_archive: "contents" };

const verdict = (kind, text, note) => h("li", { class: `check ${kind}` },
  icon(kind === "ok" ? "check" : kind === "warn" ? "warn" : "cross"),
  h("div", {}, h("span", { class: "unseen" }, `${t(`verdict_${kind}`)}: `), text, note && h("p", { class: "note" }, note)));

function signerCheck(result) {
  if (result.container !== "ate1") return verdict("warn", t("check_signer_winzip"));
  if (result.signature === "good") return verdict("ok", t("check_signer", { id: result.signer.slice(0, 8) }));
  if (result.signature === "unsupported") return verdict("warn", t("check_signer_old"));
  return verdict("warn", t("check_signer_none"), t("file_unknown_signer"));
}

function expiryCheck({ metadata, expired }) {
  if (!metadata) return null;
  if (metadata.expires_at === null) return verdict("ok", t("check_forever"));
  const date = time(metadata.expires_at);
  return expired ? verdict("warn", t("check_expired", { date }), t("file_expired")) : verdict("ok", t("check_valid", { date }));
}

function aboutFile(metadata) {
  const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  return metadata && h("dl", { class: "facts" },
    fact(t("plan"), `${metadata.plan} · ${metadata.tools.map(toolName).join(", ")}`),
    fact(t("version"), `${metadata.template} ${metadata.version}`),
    fact(t("generation"), String(metadata.generation)),
    fact(t("made"), time(metadata.issued_at)));
}

function preview(entry) {
  const text = new TextDecoder().decode(entry.bytes.subarray(0, SHOWN));
  return h("details", { class: "entry" },
    h("summary", {}, h("code", {}, entry.name), h("span", { class: "number" }, size(entry.size))),
    h("pre", { tabindex: 0, "aria-label": entry.name }, text, entry.size > SHOWN && "\n…"));
}

function contents(entries) {
  const total = entries.reduce((sum, entry) => sum + entry.size, 0);
  return h("div", { class: "contents" },
    h("h3", {}, t("contents"), h("small", {}, t("contents_count", { count: entries.length, size: size(total) }))),
    h("ul", {}, entries.map((entry) => h("li", {}, entry.bytes && TEXTS.test(entry.name) ? preview(entry)
      : h("div", { class: "entry" }, h("code", {}, entry.name), h("span", { class: "number" }, size(entry.size)))))));
}

export function openerCard(where, context) {
  let outcome = null; // {name, result} or {name, code, steps}, or {name} while working
  let latest = 0;

  where.setAttribute("aria-labelledby", "opener-title");
  const input = h("input", { type: "file", id: "ate-file", class: "file-input", "aria-describedby": "opener-text" });
  const other = { device: h("input", { type: "text", id: "other-device", autocomplete: "off", spellcheck: "false" }),
    key: h("input", { type: "text", id: "other-key", autocomplete: "off", spellcheck: "false", class: "mono" }) };
  const zone = h("div", { class: "drop" });
  const answer = h("div", { class: "outcome", id: "opener-outcome" });
  const form = h("details", { class: "other" });
  const head = h("div");

  async function keysFor() {
    const { device, license } = context();
    const given = other.key.value.trim();
    const name = other.device.value.trim() || device;
    if (given) return { device: name, licence: given };
    return { device: name, licence: (await license(name)).license_key };
  }

  async function attempt(file, steps) {
    if (file.size > LARGEST) return { code: "too_large" };
    let bytes;
    try { bytes = new Uint8Array(await file.arrayBuffer()); } catch { return { code: "unreadable" }; }
    let keys;
    try { keys = await keysFor(); } catch { return { code: "needs_key" }; }
    try {
      return { result: await openAte(bytes, { ...keys, signers: context().signers, onStep: (step) => steps.push(step) }) };
    } catch (error) {
      if (!error.code) throw error;
      return { code: error.code, detail: error.detail };
    }
  }

  async function take(file) {
    if (!file) return;
    const mine = ++latest;
    const steps = [];
    outcome = { name: file.name };
    draw();
    announce(t("opener_working", { name: file.name }));
    const found = await attempt(file, steps);
    if (mine !== latest) return; // another file was chosen meanwhile
    outcome = { name: file.name, steps, ...found };
    draw();
    announce(`${headline()} ${found.code ? refusal() : ""}`);
    input.value = "";
  }

  const isClean = ({ result }) => result.signature === "good" && !result.expired;
  const headline = () => outcome.code ? t("opener_bad") : t(isClean(outcome) ? "opener_good" : "opener_warned");
  const refusal = () => outcome.code === "needs_key" ? t("opener_needs_key") : t(`file_${outcome.code}`);

  function checks() {
    if (outcome.code) {
      const at = REFUSED_AT[outcome.code] ?? "form";
      const passed = MAKE_STEPS.slice(0, MAKE_STEPS.indexOf(at)).filter((step) => outcome.steps.includes(step) && step !== "signer");
      return [passed.map((step) => verdict("ok", t(`check_${step}`))), verdict("bad", refusal(), outcome.detail && h("code", {}, outcome.detail))];
    }
    const { result } = outcome;
    return [verdict("ok", t("check_form")), verdict("ok", t("check_key")), verdict("ok", t("check_intact")), signerCheck(result),
      result.container === "ate1" && verdict("ok", t("check_contents")), expiryCheck(result)];
  }

  function drawOutcome() {
    if (!outcome) return answer.replaceChildren();
    if (!outcome.result && !outcome.code) {
      return answer.replaceChildren(h("p", { class: "working" }, t("opener_working", { name: outcome.name })));
    }
    const kind = outcome.code ? "bad" : isClean(outcome) ? "ok" : "warn";
    answer.replaceChildren(h("div", { class: `report ${kind}`, "data-code": outcome.code ?? "ok" },
      h("p", { class: "report-title" }, icon(kind === "ok" ? "check" : kind === "warn" ? "warn" : "cross"),
        h("span", {}, h("b", {}, headline()), h("small", {}, outcome.name))),
      h("ul", { class: "checks" }, checks()),
      outcome.result && [aboutFile(outcome.result.metadata), contents(outcome.result.entries)]));
  }

  function draw() {
    place(head, h("h2", { id: "opener-title" }, t("opener")), h("p", { class: "soft", id: "opener-text" }, t("opener_text")));
    zone.replaceChildren(icon("file", "big"), h("span", { class: "drop-text" }, t("opener_drop")), input,
      h("label", { for: "ate-file", class: "button" }, t("opener_choose")));
    const { open } = form;
    form.replaceChildren(h("summary", {}, t("opener_other")),
      h("div", { class: "fields" }, h("label", { for: "other-device" }, t("opener_device")), other.device,
        h("label", { for: "other-key" }, t("opener_key")), other.key));
    form.open = open;
    other.device.placeholder = context().device ?? "";
    other.key.placeholder = "XXXXX-XXXXX-XXXXX-XXXXX-XXXXX";
    drawOutcome();
  }

  input.addEventListener("change", () => take(input.files[0]));
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  // A file that misses the place must not replace the page.
  for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());

  where.replaceChildren(head, zone, form, answer);
  draw();
  return { draw, clear() { latest += 1; outcome = null; draw(); } };
}
