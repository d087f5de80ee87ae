// Building elements without markup in strings. Text stays text, whatever it holds.

const SVG = "http://www.w3.org/2000/svg";

function append(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : String(child));
  }
  return parent;
}

function assign(node, props) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else if (name === "css") for (const [rule, to] of Object.entries(value)) node.style.setProperty(rule, to);
    else node.setAttribute(name, value === true ? "" : value);
  }
  return node;
}

export function h(tag, props, ...children) {
  return append(assign(document.createElement(tag), props), children);
}

export function s(tag, props, ...children) {
  return append(assign(document.createElementNS(SVG, tag), props), children);
}

// Line icons on a grid of 24, one stroke each: drawn for this page.
const ICONS = {
  download: "M12 4v11m0 0-4.5-4.5M12 15l4.5-4.5M5 19.5h14",
  check: "m5 12.5 4.6 4.6L19.5 7",
  dash: "M7 12h10",
  cross: "m6.5 6.5 11 11m0-11-11 11",
  warn: "M12 4.2 21 19.5H3L12 4.2Zm0 5.8v4.4m0 2.6v.1",
  info: "M12 11v6m0-9.6v.1M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17Z",
  eye: "M2.8 12S6.2 6 12 6s9.2 6 9.2 6-3.4 6-9.2 6-9.2-6-9.2-6Zm9.2-2.6a2.6 2.6 0 1 0 0 5.2 2.6 2.6 0 0 0 0-5.2Z",
  "eye-off": "M4 4l16 16M9.9 6.3A9 9 0 0 1 12 6c5.8 0 9.2 6 9.2 6a16 16 0 0 1-2.7 3.3M6.3 8A15.6 15.6 0 0 0 2.8 12S6.2 18 12 18a9 9 0 0 0 4-.9",
  copy: "M9 9h10.5v10.5H9V9ZM15 9V4.5H4.5V15H9",
  again: "M19.5 12a7.5 7.5 0 1 1-2.4-5.5M19.5 4v4.5H15",
  device: "M8 3h8a1.5 1.5 0 0 1 1.5 1.5v15A1.5 1.5 0 0 1 16 21H8a1.5 1.5 0 0 1-1.5-1.5v-15A1.5 1.5 0 0 1 8 3Zm3 15h2",
  file: "M6.5 3.5h7l4 4v13h-11v-17Zm7 0v4h4",
  open: "M4 7.5V5.5h5.5l2 2H20v3M4 7.5v11h14.4l2.6-8H6.8L4 18.5",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8Zm0-5v2m0 14v2M3 12h2m14 0h2M5.6 5.6 7 7m10 10 1.4 1.4M5.6 18.4 7 17M17 7l1.4-1.4",
  moon: "M19.5 14.2A8 8 0 0 1 9.8 4.5a8 8 0 1 0 9.7 9.7Z",
  half: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17Zm0 0v17M12 7.5h6M12 12h8.5M12 16.5h6",
  leave: "M14 4.5H5.5v15H14M10 12h10.5m0 0L17 8.5m3.5 3.5L17 15.5",
  plus: "M12 6v12M6 12h12",
  key: "M8 11.5a4 4 0 1 0 0 8 4 4 0 0 0 0-8Zm2.9 1.2L19.5 4m-3.4 3.4 2.8 2.8m-5.4-.2 2 2",
  stop: "M7 7h10v10H7V7Z",
  pause: "M8.5 6v12m7-12v12",
  play: "M8 5.5 18.5 12 8 18.5v-13Z",
  clock: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17Zm0 4V12l3 2.2",
  lock: "M6 11h12v9H6v-9Zm2.5 0V8a3.5 3.5 0 0 1 7 0v3",
};

export function icon(name, className = "") {
  return s("svg", { class: `icon ${className}`, viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" },
    s("path", { d: ICONS[name] }));
}

// The mark of the house: a pair of compasses that draws an A, in a seal.
export function mark(className = "mark") {
  return s("svg", { class: className, viewBox: "0 0 32 32", "aria-hidden": "true", focusable: "false" },
    s("rect", { x: 1.5, y: 1.5, width: 29, height: 29, rx: 6 }),
    s("circle", { cx: 16, cy: 8.4, r: 2.1 }),
    s("path", { d: "M15 10.6 8.6 25M17 10.6 23.4 25M10.6 19.4c3.6 1.9 7.2 1.9 10.8 0" }));
}

// Puts new content in a place, and the focus back on what had it (by data-key), so that a live page can be used by
// keyboard; what was unfolded stays so.
export function place(where, ...content) {
  const held = where.contains(document.activeElement) ? document.activeElement : null;
  const key = held?.closest("[data-key]")?.dataset.key;
  const unfolded = [...where.querySelectorAll("details[open] > summary[data-key]")].map((one) => one.dataset.key);
  where.replaceChildren();
  append(where, content);
  for (const one of unfolded) {
    const summary = where.querySelector(`summary[data-key="${CSS.escape(one)}"]`);
    if (summary) summary.parentElement.open = true;
  }
  if (!held) return;
  const next = key && where.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (next && !next.disabled) next.focus({ preventScroll: true });
  else {
    const heading = where.querySelector("h1, h2, h3") ?? where;
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }
}

// Says a sentence to who listens instead of looking; the same sentence again is said again.
export function announce(text) {
  const where = document.getElementById("announce");
  where.textContent = "";
  requestAnimationFrame(() => { where.textContent = text; });
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = h("textarea", { class: "unseen", "aria-hidden": "true", readonly: true });
    box.value = text;
    document.body.append(box);
    const held = document.activeElement;
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    held?.focus();
    return done;
  }
}
