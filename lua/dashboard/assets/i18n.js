// The page's language: its texts, and how numbers, sizes and times are written in it.
import { en } from "/dashboard/assets/en.js";
import { ja } from "/dashboard/assets/ja.js";

const TEXTS = { en, ja };
const listeners = new Set();

export const languages = { en: "English", ja: "日本語" };
export const language = () => document.documentElement.lang;

// How numbers and dates look where the reader lives, when that is in this language: 22/12 or 12/22.
const locale = () => (navigator.languages ?? []).find((one) => one.toLowerCase().split("-")[0] === language()) ?? language();

export function onLanguage(listener) {
  listeners.add(listener);
}

export function setLanguage(name) {
  document.documentElement.lang = name;
  try { localStorage.setItem("atelier.language", name); } catch { /* a private window may forbid it */ }
  for (const listener of listeners) listener();
}

export const has = (key) => TEXTS[language()][key] !== undefined;

// The text of a key; `count` among the values chooses its plural form.
export function t(key, values = {}) {
  let text = TEXTS[language()][key] ?? en[key] ?? key;
  if (typeof text === "object") {
    text = text[new Intl.PluralRules(language()).select(values.count)] ?? text.other;
  }
  return text.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    return value === undefined ? whole : typeof value === "number" ? number(value) : String(value);
  });
}

export const number = (value, digits = 0) =>
  new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);

export function size(bytes) {
  if (!Number.isFinite(bytes)) return "–";
  if (bytes < 1024) return t("bytes", { count: bytes });
  const units = ["KB", "MB", "GB", "TB"];
  let step = -1;
  let value = bytes;
  do { value /= 1024; step += 1; } while (value >= 1024 && step < units.length - 1);
  return `${number(value, value < 10 ? 1 : 0)} ${units[step]}`;
}

export const yen = (value) =>
  new Intl.NumberFormat(locale(), { style: "currency", currency: "JPY", currencyDisplay: "narrowSymbol" }).format(value);

export function time(value, style = {}) {
  const options = Object.keys(style).length ? style : { dateStyle: "medium", timeStyle: "short" };
  return new Intl.DateTimeFormat(locale(), options).format(new Date(value));
}

const SPANS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

// "in 29 days", "3 minutes ago".
export function relative(value) {
  const seconds = (new Date(value) - Date.now()) / 1000;
  const [unit, length] = SPANS.find(([, span]) => Math.abs(seconds) >= span) ?? SPANS[3];
  return new Intl.RelativeTimeFormat(language(), { numeric: "auto" }).format(Math.trunc(seconds / length), unit);
}

// A span of time, as in "2 min 5 s"; milliseconds below a second.
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return `${number(seconds * 1000)} ms`;
  if (seconds < 60) return `${number(seconds, 1)} ${t("unit_s")}`;
  if (seconds < 3600) return `${number(Math.floor(seconds / 60))} ${t("unit_min")} ${number(Math.floor(seconds % 60))} ${t("unit_s")}`;
  if (seconds < 86400) return `${number(Math.floor(seconds / 3600))} ${t("unit_h")} ${number(Math.floor(seconds % 3600 / 60))} ${t("unit_min")}`;
  return `${number(Math.floor(seconds / 86400))} ${t("unit_d")} ${number(Math.floor(seconds % 86400 / 3600))} ${t("unit_h")}`;
}

// A known tool's name in this language; an unknown one as it is written, made readable.
export function toolName(tool) {
  const key = `tool_${tool}`;
  return has(key) ? t(key) : tool.replace(/_/g, " ");
}
