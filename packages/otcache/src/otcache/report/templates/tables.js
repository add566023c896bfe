// Tables that follow the chosen metric and budget.
function showGroups() {
  const all = byId("all-budgets").checked;
  for (const group of document.querySelectorAll("#all tbody")) {
    group.hidden = !all && Number(group.dataset.budget) !== state.budget;
  }
}

function sortBy(button) {
  const head = button.closest("th");
  const column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  for (const group of document.querySelectorAll("#all tbody")) {
    const rows = Array.from(group.rows).filter((row) => row.cells.length > 1);
    const worth = (row) => {
      const cell = row.cells[column];
      if (column === 0) return cell.dataset.v;
      return cell.dataset.v === "" ? Infinity : Number(cell.dataset.v);
    };
    const order = (a, b) => (worth(a) < worth(b) ? -1 : worth(a) > worth(b) ? 1 : 0);
    rows.sort((a, b) => (down ? order(b, a) : order(a, b)));
    group.append(...rows);
  }
}

// An interval as a bar beside the line of no difference.
function forest(low, mid, high, reach, verdict) {
  const at = (v) => (60 + (v / reach) * 56).toFixed(1);
  return shape(
    "svg", { class: `forest ${verdict.replace(" ", "-")}`, viewBox: "0 0 120 16", width: 120, height: 16, "aria-hidden": "true" },
    shape("path", { d: "M60 0V16", class: "zero" }),
    shape("path", { d: `M${at(low)} 8H${at(high)}`, class: "range" }),
    shape("circle", { cx: at(mid), cy: 8, r: 3.2 })
  );
}

function drawPairs() {
  const rows = (data.pairs[state.metric.name] || []).filter(([b]) => b === state.budget);
  const body = byId("pair-rows");
  const known = rows.filter((row) => row[2] !== null);
  const reach = Math.max(1e-12, ...known.flatMap((row) => [Math.abs(row[3]), Math.abs(row[4])]));
  const worse = (row) => (row[2] === null ? -Infinity : badness(row[2]));
  rows.sort((a, b) => worse(b) - worse(a));
  body.replaceChildren(...rows.map((row) => pairRow(row, reach)));
  byId("pair-table").hidden = !rows.length;
  byId("pair-none").hidden = rows.length > 0;
  const count = (verdict) => rows.filter((row) => row[8] === verdict).length;
  byId("pair-said").textContent = rows.length
    ? `${state.metric.label} at B = ${state.budget}: ${data.ours} is better than ${count("better")}, ` +
      `worse than ${count("worse")} and not clearly different from ${count("no difference")} of ${rows.length} methods.`
    : "";
}

const figureCell = (figure, range) => make("td", {}, figure + " ", make("span", { class: "doubt" }, range));

function pairRow([budget, m, mid, low, high, ...rest], reach) {
  const [wins, least, most, verdict] = rest;
  const percent = (v) => Math.round(v * 100);
  const cell = cellOf(m, budget);
  const range = mid === null ? "" : `[${signed(low)}, ${signed(high)}]`;
  return make(
    "tr", {},
    make("th", { scope: "row", class: "name" }, nameOf(m)),
    make("td", {}, String(Number(cell.nfe.toPrecision(3)))),
    figureCell(signed(mid), range),
    make("td", {}, mid === null ? "" : forest(low, mid, high, reach, verdict)),
    figureCell(`${percent(wins)} %`, `[${percent(least)}, ${percent(most)}]`),
    make("td", { class: `verdict ${verdict.replace(" ", "-")}` }, verdict)
  );
}

function drawTags() {
  if (!byId("tag-rows")) return;
  const cells = cellsAt(state.budget).filter((cell) => cell.values[state.metric.name]);
  byId("tag-none").hidden = cells.length > 0;
  byId("tag-table").hidden = !cells.length;
  byId("tag-rows").replaceChildren(...cells.map(tagRow));
}

function tagRow(cell) {
  const values = cell.values[state.metric.name];
  const worse = data.regressions.filter(
    ([m, b, metric]) => m === cell.m && b === cell.b && metric === state.metric.name
  );
  const figures = data.tags.map((tag) => {
    const found = worse.find((one) => one[3] === tag);
    const figure = write(mean(values.filter((_, i) => data.samples[i].tags.includes(tag))));
    if (!found) return make("td", {}, figure);
    const words = `a larger loss than on the rest, p = ${found[4].toPrecision(2)}`;
    return make("td", { class: "regression", title: words }, "⚠ " + figure, make("span", { class: "sr" }, ` ${words}`));
  });
  const row = make("tr", {}, make("th", { scope: "row", class: "name" }, nameOf(cell.m)), ...figures);
  row.append(make("td", {}, write(mean(values))));
  if (cell.m === ours) row.classList.add("ours");
  return row;
}
