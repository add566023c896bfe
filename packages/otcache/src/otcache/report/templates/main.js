// The bar that all sections follow.
function draw() {
  drawChart();
  showGroups();
  drawPairs();
  drawTags();
  drawGallery();
  for (const part of document.querySelectorAll("#schedules details[data-budget]")) {
    part.open = Number(part.dataset.budget) === state.budget;
  }
}

function choose(id, take) {
  const select = byId(id);
  if (!select) return;
  take(select.value); // a browser that reloads may keep an earlier choice
  select.addEventListener("change", () => { take(select.value); draw(); });
}

document.documentElement.classList.add("js");
choose("metric", (value) => { state.metric = data.metrics[Number(value)]; });
choose("budget", (value) => { state.budget = Number(value); });
choose("tag", (value) => { state.tag = value; });
buildAxes();
buildLegend();
buildGallery();
buildPlayer();
byId("all-budgets").addEventListener("change", showGroups);
for (const button of document.querySelectorAll("#all button.sort")) {
  button.addEventListener("click", () => sortBy(button));
}
byId("draw-all").addEventListener("click", () => { state.hidden.clear(); drawChart(); });
byId("draw-pareto").addEventListener("click", () => {
  state.hidden = new Set([...data.methods.keys()].filter((m) => !coloured(m)));
  drawChart();
});
draw();
new ResizeObserver(() => {
  if (chart.querySelector("svg")?.getAttribute("width") !== String(Math.max(280, chart.clientWidth))) drawChart();
}).observe(chart);
