// Quality against what it costs: one curve a method, its 95 % interval as a band.
const AXES = {
  nfe: { value: (cell) => cell.nfe, label: `network evaluations (NFE) per ${data.noun}`, digits: 3 },
  time: { value: (cell) => cell.time, label: "time, of the full run's", digits: 3 },
  flops: {
    value: (cell) => (cell.flops === null ? null : cell.flops / 1e12),
    label: `TFLOPs per ${data.noun}`, digits: 3,
  },
};
const MARKS = [
  "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-3.4-3.4h6.8v6.8h-6.8z", "M0-4.4L4.2 3.4H-4.2z",
  "M0-4.8L4.4 0 0 4.8-4.4 0z", "M0 4.4L4.2-3.4H-4.2z",
  "M-1.4-4.2h2.8v2.8h2.8v2.8h-2.8v2.8h-2.8v-2.8h-2.8v-2.8h2.8z",
  "M-4-2.2L-2.2-4 0-1.8 2.2-4 4-2.2 1.8 0 4 2.2 2.2 4 0 1.8-2.2 4-4 2.2-1.8 0z",
];
const chart = byId("chart");
let said = null; // the method that the line below the chart is about

function curves() {
  const axis = AXES[state.axis];
  return data.methods
    .map((_, m) => ({
      m,
      points: data.cells
        .filter((cell) => cell.m === m)
        .map((cell) => ({ cell, x: axis.value(cell), figures: cell.figures[state.metric.name] }))
        .filter((p) => p.x !== null && p.figures && p.figures[0] !== null)
        .sort((a, b) => a.x - b.x),
    }))
    .filter(({ m, points }) => points.length && !state.hidden.has(m));
}

function scales(shown, box) {
  const xs = shown.flatMap(({ points }) => points.map((p) => p.x));
  const means = shown.flatMap(({ points }) => points.map((p) => p.figures[0]));
  if (state.metric.full !== null) means.push(state.metric.full);
  const log = !state.metric.higher && Math.min(...means) > 0;
  const to = (v) => (log ? Math.log(v) : v);
  const [low, high] = [Math.min(...means.map(to)), Math.max(...means.map(to))];
  const pad = (high - low || Math.abs(high) || 1) * 0.07;
  const right = Math.max(...xs) * 1.04;
  const left = Math.max(0, Math.min(...xs) - right * 0.05);
  return {
    log,
    range: [log ? Math.exp(low - pad) : low - pad, log ? Math.exp(high + pad) : high + pad],
    domain: [left, right],
    x: (v) => box.left + ((v - left) / (right - left || 1)) * (box.right - box.left),
    y: (v) => {
      const place = (to(v) - low + pad) / (high - low + 2 * pad);
      return box.bottom - Math.min(1.02, Math.max(-0.02, place)) * (box.bottom - box.top);
    },
  };
}

function linearTicks([low, high], wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-12; k++) ticks.push(k * step);
  return ticks;
}

function logTicks([low, high]) {
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const k of [1, 2, 5]) ticks.push(k * 10 ** e);
  }
  const inside = ticks.filter((t) => t >= low && t <= high);
  return inside.length > 1 ? inside : linearTicks([low, high], 4);
}

const plainNumber = (v) => String(Number(v.toPrecision(4)));

function axes(scale, box) {
  const parts = [];
  const ticks = scale.log ? logTicks(scale.range) : linearTicks(scale.range, 5);
  for (const t of ticks) {
    const y = scale.y(t);
    parts.push(shape("path", { d: `M${box.left} ${y}H${box.right}`, class: "rule" }));
    parts.push(
      shape("text", { x: box.left - 8, y: y + 4, class: "tick end" }, plainNumber(t).replace(/^0\./, "."))
    );
  }
  for (const t of linearTicks(scale.domain, box.right < 500 ? 4 : 8)) {
    parts.push(shape("text", { x: scale.x(t), y: box.bottom + 20, class: "tick middle" }, plainNumber(t)));
  }
  const full = state.axis === "nfe" && box.right > 400 ? ` (full run: ${data.steps})` : "";
  const label = AXES[state.axis].label + full;
  parts.push(shape("text", { x: box.left, y: box.bottom + 40, class: "tick" }, label));
  const y = `${state.metric.label}, ${state.metric.higher ? "higher" : "lower"} is better`;
  parts.push(shape("text", { x: box.left, y: 14, class: "title" }, y + (scale.log ? ", log scale" : "")));
  if (state.metric.full !== null) {
    const at = scale.y(state.metric.full);
    parts.push(shape("path", { d: `M${box.left} ${at}H${box.right}`, class: "fullrun" }));
    parts.push(shape("text", { x: box.left + 6, y: at - 5, class: "tick" }, "full run"));
  }
  return parts;
}

function curve({ m, points }, scale) {
  const at = points.map((p) => [scale.x(p.x), scale.y(p.figures[0])]);
  const line = "M" + at.map((p) => p.map((v) => v.toFixed(1)).join(" ")).join("L");
  const group = shape("g", { class: "curve", "data-m": m, style: `color:${colour(m)}` });
  if (m === ours) group.classList.add("ours");
  if (coloured(m)) group.classList.add("pareto");
  if (points.every((p) => p.figures.length === 3)) {
    const edge = (k) => points.map((p) => `${scale.x(p.x).toFixed(1)} ${scale.y(p.figures[k]).toFixed(1)}`);
    group.append(shape("path", { d: `M${[...edge(2), ...edge(1).reverse()].join("L")}z`, class: "band" }));
  }
  group.append(shape("path", { d: line, class: "line" }));
  for (const [x, y] of at) {
    const mark = MARKS[series(m) ?? 0];
    const size = coloured(m) ? (m === ours ? 1.2 : 1) : 0.55;
    group.append(
      shape("path", { d: mark, class: "mark", transform: `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${size})` })
    );
  }
  return group;
}

// Names beside the right ends of coloured curves, apart from each other.
function endNames(shown, scale, box) {
  const ends = shown
    .filter(({ m }) => coloured(m))
    .map(({ m, points }) => {
      const last = points[points.length - 1];
      return { m, x: scale.x(last.x), y: scale.y(last.figures[0]) };
    })
    .sort((a, b) => a.y - b.y);
  ends.forEach((end, i) => {
    end.at = Math.max(end.y, i ? ends[i - 1].at + 17 : box.top);
  });
  for (let i = ends.length - 1, floor = box.bottom; i >= 0; i--, floor = ends[i + 1].at - 17) {
    ends[i].at = Math.min(ends[i].at, floor);
  }
  return ends.flatMap(({ m, x, y, at }) => [
    shape("path", { d: `M${x + 6} ${y}L${box.right + 8} ${at}`, class: "leader" }),
    shape(
      "text",
      { x: box.right + 12, y: at + 4, class: m === ours ? "end-name ours" : "end-name", style: `fill:${colour(m)}` },
      shorten(nameOf(m), 25)
    ),
  ]);
}

const shorten = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

function drawChart() {
  const width = Math.max(280, chart.clientWidth);
  const narrow = width < 620;
  const height = narrow ? 320 : 430;
  const box = { left: 46, right: width - (narrow ? 12 : 190), top: 30, bottom: height - 52 };
  const shown = curves();
  chart.querySelector("svg")?.remove();
  const label = `${state.metric.label} against ${AXES[state.axis].label} for ${shown.length} methods; the table has the figures`;
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  if (shown.length) {
    const scale = scales(shown, box);
    svg.append(...axes(scale, box));
    const back = (c) => (c.m === ours ? 2 : coloured(c.m) ? 1 : 0);
    for (const one of [...shown].sort((a, b) => back(a) - back(b))) svg.append(curve(one, scale));
    if (!narrow) svg.append(...endNames(shown, scale, box));
    svg.addEventListener("pointermove", (event) => point(event, shown, scale));
    svg.addEventListener("pointerdown", (event) => point(event, shown, scale));
  } else {
    svg.append(shape("text", { x: 20, y: 60, class: "title" }, "No method chosen below has this figure."));
  }
  svg.addEventListener("pointerleave", () => emphasise(null));
  chart.prepend(svg);
  byId("chart-note").hidden = !state.metric.total;
  sayMethod(said);
  legend();
}

function point(event, shown, scale) {
  const frame = chart.getBoundingClientRect();
  const [px, py] = [event.clientX - frame.left, event.clientY - frame.top];
  let best = null;
  for (const { m, points } of shown) {
    for (const p of points) {
      const d = Math.hypot(scale.x(p.x) - px, scale.y(p.figures[0]) - py);
      if (d < 40 && (!best || d < best.d)) best = { d, m, p, x: scale.x(p.x), y: scale.y(p.figures[0]) };
    }
  }
  emphasise(best ? best.m : null);
  tip(best);
}

function emphasise(m) {
  chart.classList.toggle("dimmed", m !== null);
  for (const group of chart.querySelectorAll(".curve")) {
    group.classList.toggle("near", m !== null && Number(group.dataset.m) === m);
  }
  const focused = m === null ? null : chart.querySelector(".curve.near");
  if (focused) focused.parentNode.append(focused);
  if (m === null) tip(null);
}

function tip(best) {
  const box = byId("tip");
  box.hidden = !best;
  if (!best) return;
  box.replaceChildren(make("b", {}, nameOf(best.m)), make("br"), figuresOf(best.p.cell, best.p.figures));
  const left = Math.min(Math.max(0, best.x + 12), chart.clientWidth - box.offsetWidth - 4);
  box.style.left = `${Math.max(0, left)}px`;
  box.style.top = `${best.y > 110 ? best.y - box.offsetHeight - 12 : best.y + 14}px`;
}

function figuresOf(cell, figures) {
  const cost = state.axis === "nfe" ? "" : `, ${Number(AXES[state.axis].value(cell).toPrecision(3))}`;
  const unit = { time: " of the full run's time", flops: " TFLOPs", nfe: "" }[state.axis];
  const range = figures.length === 3 ? ` [${write(figures[1])}, ${write(figures[2])}]` : "";
  const setting = cell.setting ? ` (${cell.setting})` : "";
  return `${Number(cell.nfe.toPrecision(3))} NFE${cost}${unit}: ${write(figures[0])}${range}${setting}`;
}

// What the chart shows of a method, in words: for those who come with the keyboard.
function sayMethod(m) {
  said = m;
  if (m === null) return;
  const points = curves().find((one) => one.m === m)?.points || [];
  const words = points.map((p) => figuresOf(p.cell, p.figures)).join("; ");
  byId("chart-said").textContent = `${nameOf(m)}: ${words || "no figure of this metric"}`;
}

function legend() {
  for (const key of document.querySelectorAll("#legend label")) {
    const m = Number(key.dataset.m);
    key.style.color = colour(m);
    key.classList.toggle("pareto", coloured(m));
    const mark = MARKS[series(m) ?? 0];
    key.querySelector(".swatch path:last-child").setAttribute("d", mark);
    key.querySelector("input").checked = !state.hidden.has(m);
  }
}

function buildLegend() {
  const order = data.methods.map((_, m) => m).sort((a, b) => coloured(b) - coloured(a) || a - b);
  for (const m of order) {
    const box = make("input", { type: "checkbox", checked: "" });
    const swatch = shape(
      "svg", { class: "swatch", width: 26, height: 12, viewBox: "-13 -6 26 12", "aria-hidden": "true" },
      shape("path", { d: "M-13 0H13", class: "line" }), shape("path", { class: "mark" })
    );
    const key = make("label", { "data-m": m }, box, swatch, make("span", {}, nameOf(m)));
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](m);
      drawChart();
    });
    box.addEventListener("focus", () => { emphasise(m); sayMethod(m); });
    box.addEventListener("blur", () => emphasise(null));
    key.addEventListener("pointerenter", () => { emphasise(m); sayMethod(m); });
    key.addEventListener("pointerleave", () => emphasise(null));
    byId("legend").append(key);
  }
}

function buildAxes() {
  const has = (axis) => data.cells.some((cell) => AXES[axis].value(cell) !== null);
  const names = { nfe: "NFE", time: "relative time", flops: "FLOPs" };
  for (const axis of Object.keys(names).filter(has)) {
    const radio = make("input", { type: "radio", name: "axis", value: axis });
    radio.checked = axis === state.axis;
    radio.addEventListener("change", () => { state.axis = axis; drawChart(); });
    byId("axes").append(make("label", {}, radio, make("span", {}, names[axis])));
  }
}
