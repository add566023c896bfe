// What the reader chose, and small tools that every part uses.
const read = (id) => JSON.parse(document.getElementById(id)?.textContent || "null");
const byId = (id) => document.getElementById(id);
const data = read("figures");
const gallery = read("images-data");
const ours = data.methods.indexOf(data.ours);

const state = {
  metric: data.metrics[0],
  budget: data.shared[0],
  tag: "",
  axis: "nfe",
  hidden: new Set(), // methods not drawn in the chart
  tiles: new Set(), // methods in the gallery
  view: "image",
};

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function write(value, metric = state.metric) {
  if (value === null || value === undefined) return "∞";
  return value.toFixed(metric.digits).replace(/^(-?)0\./, "$1.").replace("-", "−");
}

const signed = (value) => (value === null ? "–" : (value < 0 ? "" : "+") + write(value));
const nameOf = (m) => data.methods[m];
const cellsAt = (budget) => data.cells.filter((cell) => cell.b === budget);
const cellOf = (m, budget) => data.cells.find((cell) => cell.m === m && cell.b === budget);
const series = (m) => state.metric.pareto[m]; // undefined for those in grey
const coloured = (m) => series(m) !== undefined;
const colour = (m) => (coloured(m) ? `var(--s${series(m)})` : "var(--grey)");

function mean(values) {
  const finite = values.filter((value) => value !== null);
  return finite.length ? finite.reduce((a, b) => a + b, 0) / finite.length : null;
}

// Greater is worse; null means infinity: identical to the full run, the best there is.
function badness(value) {
  if (value === null || value === undefined) return -Infinity;
  return state.metric.higher ? -value : value;
}
