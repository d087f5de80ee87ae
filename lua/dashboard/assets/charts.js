// Two charts over time, drawn as SVG at the size that they have on the page: bars of counts, lines of durations. A
// pointer gets a reading; everyone gets the same figures as a table.
import { h, s } from "/dashboard/assets/dom.js";
import { number, t } from "/dashboard/assets/i18n.js";

const HEIGHT = 200;
const EDGE = { top: 12, right: 4, bottom: 26, left: 62 };

// A round number above the largest value, and the steps to it.
export function scale(largest, steps = 4) {
  const rough = Math.max(largest, 1e-9) / steps;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough);
  return { top: step * steps, ticks: Array.from({ length: steps + 1 }, (_, i) => i * step) };
}

function axis(width, { top, ticks }, format) {
  const inner = HEIGHT - EDGE.top - EDGE.bottom;
  return ticks.map((tick) => {
    const y = EDGE.top + inner * (1 - tick / top);
    return s("g", {}, s("line", { x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y, class: tick === 0 ? "axis" : "grid" }),
      s("text", { x: EDGE.left - 8, y: y + 4, class: "tick end" }, format(tick)));
  });
}

function times(points, x, label) {
  const every = 15;
  return points.map((point, i) => {
    const minute = new Date(point.at).getMinutes();
    return minute % every === 0 && s("text", { x: x(i), y: HEIGHT - 6, class: "tick middle" }, label(point));
  });
}

// kind "bars": series are stacked; "lines": each is a line, broken where a value is null.
function picture(width, { kind, points, series, format, label }) {
  const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
  const slot = inner.width / points.length;
  const x = (i) => EDGE.left + slot * (i + 0.5);
  const largest = kind === "bars"
    ? Math.max(4, ...points.map((p) => series.reduce((sum, { of }) => sum + (of(p) ?? 0), 0)))
    : Math.max(...points.flatMap((p) => series.map(({ of }) => of(p) ?? 0)));
  const to = scale(largest);
  const y = (value) => EDGE.top + inner.height * (1 - value / to.top);
  const marks = kind === "bars" ? points.map((point, i) => {
    let base = 0;
    return series.map(({ of, name }) => {
      const value = of(point) ?? 0;
      if (!value) return null;
      const from = base;
      base += value;
      return s("rect", { class: `bar ${name}`, x: x(i) - slot * 0.36, width: slot * 0.72, y: y(base), height: Math.max(1, y(from) - y(base)) });
    });
  }) : series.map(({ of, name }) => {
    let pen = false;
    const path = points.map((point, i) => {
      const value = of(point);
      if (value === null || value === undefined) { pen = false; return ""; }
      const move = pen ? "L" : "M";
      pen = true;
      return `${move}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
    }).join("");
    const dots = points.map((point, i) => {
      const value = of(point);
      return value !== null && value !== undefined && s("circle", { class: `dot-mark ${name}`, cx: x(i), cy: y(value), r: 2 });
    });
    return [s("path", { class: `line ${name}`, d: path }), dots];
  });
  const hair = s("line", { class: "hair", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, x1: -9, x2: -9 });
  const svg = s("svg", { class: "chart", width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" },
    axis(width, to, format), times(points, x, label), hair, marks);
  return { svg, hair, x, nearest: (px) => Math.max(0, Math.min(points.length - 1, Math.floor((px - EDGE.left) / slot))) };
}

function table(spec) {
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("ops_minute")),
      spec.series.map(({ title }) => h("th", { scope: "col", class: "number" }, title)))),
    h("tbody", {}, spec.points.filter((p) => spec.series.some(({ of }) => of(p))).reverse().map((point) => h("tr", {},
      h("th", { scope: "row" }, spec.label(point)),
      spec.series.map(({ of }) => h("td", { class: "number" }, of(point) === null ? "–" : spec.format(of(point)))))))));
}

// A figure; `update` draws it anew with {kind, points, series: [{name, title, of}], format, label, summary, title, text}.
export function chart() {
  const canvas = h("div", { class: "canvas" });
  const reading = h("p", { class: "reading", "aria-hidden": "true" });
  const caption = h("figcaption");
  const more = h("details");
  const figure = h("figure", { class: "figure" }, caption, reading, canvas, more);
  let spec = null;
  let drawn = null;

  const legend = () => reading.replaceChildren(...spec.series.map(({ name, title }) =>
    h("span", { class: `key-of ${name}` }, title)));

  function draw() {
    const width = Math.floor(canvas.clientWidth);
    if (!spec || width < 50) return;
    drawn = picture(width, spec);
    canvas.replaceChildren(drawn.svg);
  }

  canvas.addEventListener("pointermove", (event) => {
    if (!drawn) return;
    const i = drawn.nearest(event.clientX - canvas.getBoundingClientRect().left);
    const point = spec.points[i];
    drawn.hair.setAttribute("x1", drawn.x(i));
    drawn.hair.setAttribute("x2", drawn.x(i));
    reading.replaceChildren(h("b", {}, spec.label(point)), ...spec.series.map(({ name, title, of }) =>
      h("span", { class: `key-of ${name}` }, `${title} ${of(point) === null ? "–" : spec.format(of(point))}`)));
  });
  canvas.addEventListener("pointerleave", () => {
    if (!drawn) return;
    drawn.hair.setAttribute("x1", -9);
    drawn.hair.setAttribute("x2", -9);
    legend();
  });
  new ResizeObserver(draw).observe(canvas);

  return {
    figure,
    update(next) {
      spec = next;
      caption.replaceChildren(h("h3", {}, spec.title), h("p", { class: "small soft" }, spec.text), h("p", { class: "small" }, spec.summary));
      legend();
      more.replaceChildren(h("summary", { class: "small" }, t("ops_as_table")), more.open ? table(spec) : "");
      draw();
    },
    openTable: more.addEventListener("toggle", () => {
      if (more.open && spec) more.replaceChildren(h("summary", { class: "small" }, t("ops_as_table")), table(spec));
    }),
  };
}

export const count = (value) => number(value);
