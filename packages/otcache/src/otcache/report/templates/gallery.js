// The gallery of images or videos: cards are made when they are shown, from the one copy of each.
const picked = new Map(); // sample to the method in its large view
const placeOf = (card, m) => card.tiles[`${m}:${state.budget}`];

function tileMethods() {
  return data.methods
    .map((_, m) => m)
    .filter((m) => state.tiles.has(m) && gallery.cards.some((card) => placeOf(card, m) !== undefined));
}

function galleryOrder() {
  const judge = Number(byId("judge").value);
  const cell = cellOf(judge, state.budget) || cellsAt(state.budget)[0];
  const values = cell?.values[state.metric.name] || [];
  return gallery.cards
    .filter((card) => !state.tag || data.samples[card.sample].tags.includes(state.tag))
    .sort((a, b) => {
      const [x, y] = [badness(values[a.sample]), badness(values[b.sample])];
      return x === y ? a.sample - b.sample : y - x;
    });
}

function drawGallery() {
  if (!gallery) return;
  const cards = galleryOrder();
  const methods = tileMethods();
  byId("gallery").classList.toggle("difference", state.view === "difference");
  sight.disconnect();
  inView.clear();
  byId("gallery").replaceChildren(...cards.map((card) => cardOf(card, methods)));
  byId("gallery").classList.toggle("filmed", Boolean(film));
  for (const article of film ? byId("gallery").children : []) {
    showCard(article);
    sight.observe(article);
  }
  const judge = nameOf(Number(byId("judge").value));
  const [height, width] = gallery.size;
  const kind = state.tag ? ` tagged ${state.tag}` : "";
  const noun = film ? "Videos" : "Images";
  byId("gallery-said").textContent = cards.length
    ? `${cards.length} of ${data.samples.length} samples${kind}, the worst of ${judge} by ${state.metric.label} at B = ${state.budget} first. ` +
      `${noun} of ${width} by ${height} pixels${gallery.smaller > 1 ? ", made smaller for this page" : ""}.${aboutFrames()}`
    : `None of the ${gallery.cards.length} samples in the gallery is tagged ${state.tag}.`;
  byId("tiles-said").textContent = `Methods: ${methods.length} of ${data.methods.length}`;
}

function aboutFrames() {
  if (!film) return "";
  const thin = film.frames.length < film.filmed ? `, one of ${film.frames[1]} shown` : "";
  return ` ${film.filmed} frames${thin}; below each video its ${state.metric.label} and the RMSE of the frame that is shown.`;
}

function figureOf(m, sample) {
  const values = cellOf(m, state.budget)?.values[state.metric.name];
  return values ? write(values[sample]) : "";
}

function words(m, card) {
  const { prompt } = data.samples[card.sample];
  const figure = figureOf(m, card.sample);
  return `${prompt}: ${nameOf(m)} at budget ${state.budget}` + (figure ? `, ${state.metric.label} ${figure}` : "");
}

function cardOf(card, methods) {
  const { prompt, seed, tags } = data.samples[card.sample];
  const about = [`seed ${seed}`, ...tags].join(", ");
  const stage = make("div", { class: "stage" });
  const tiles = make("div", { class: "tiles", role: "group", "aria-label": "Method beside the full run" });
  const show = (m) => {
    picked.set(card.sample, m);
    stage.replaceChildren(...stageOf(card, m));
    if (film && stage.isConnected) showCard(stage.closest(".card"));
    for (const tile of tiles.children) tile.setAttribute("aria-pressed", String(Number(tile.dataset.m) === m));
  };
  for (const m of methods) tiles.append(tileOf(card, m, show));
  const before = picked.get(card.sample);
  const first = [before, ours, methods[0]].find((m) => m !== undefined && methods.includes(m));
  if (first !== undefined) show(first);
  else stage.append(make("p", { class: "note" }, "No method chosen above was run at this budget."));
  const style = film ? null : `--full:url(${gallery.images[card.full]})`;
  return make(
    "article", { class: "card", style, "data-sample": card.sample },
    make("h3", {}, prompt + " ", make("small", {}, about)), make("div", { class: "pair" }, stage, tiles)
  );
}

function tileOf(card, m, show) {
  const figure = figureOf(m, card.sample);
  const image = screenOf(placeOf(card, m), words(m, card), card.full);
  const now = film ? [make("span", { class: "error now", "data-m": m })] : [];
  const tile = make(
    "button", { type: "button", class: m === ours ? "tile ours" : "tile", "data-m": m, "aria-pressed": "false" },
    make("span", { class: "frame" }, make("span", { class: "view" }, image)),
    make("span", { class: "caption" }, nameOf(m), make("span", { class: "error" }, figure), ...now)
  );
  tile.addEventListener("click", () => show(m));
  return tile;
}

// The full run to the left of the cut, the method to the right of it.
function stageOf(card, m) {
  const { prompt } = data.samples[card.sample];
  const full = screenOf(card.full, `${prompt}: full run of ${data.steps} steps`);
  const other = screenOf(placeOf(card, m), words(m, card), card.full);
  const after = make("div", { class: "after" }, make("div", { class: "view" }, other));
  const frame = make("div", { class: "compare frame", style: "--cut:50%" }, full, after, make("div", { class: "cut" }));
  const slider = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": `Share of the full run beside ${nameOf(m)}` });
  const move = () => {
    frame.style.setProperty("--cut", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % full run`);
  };
  slider.addEventListener("input", move);
  frame.addEventListener("pointerdown", (event) => drag(event, frame, slider, move));
  move();
  const ends = make("div", { class: "ends" }, make("span", {}, "full run"), make("span", { class: m === ours ? "ours" : "" }, nameOf(m)));
  return film ? [frame, ends, slider, frameChart(card, m)] : [frame, ends, slider];
}

function drag(event, frame, slider, move) {
  const follow = (e) => {
    const { left, width } = frame.getBoundingClientRect();
    slider.value = Math.round((100 * (e.clientX - left)) / width);
    move();
  };
  frame.setPointerCapture(event.pointerId);
  frame.addEventListener("pointermove", follow);
  frame.addEventListener("pointerup", () => frame.removeEventListener("pointermove", follow), { once: true });
  follow(event);
}

// otcache, the coloured baselines and as many others as two rows beside the large view hold.
function firstTiles() {
  const order = new Set([...Object.keys(data.metrics[0].pareto).map(Number), ...data.methods.keys()]);
  return new Set([...order].slice(0, matchMedia("(max-width: 34rem)").matches ? 6 : 14));
}

function buildGallery() {
  if (!gallery) return;
  state.tiles = firstTiles();
  for (const [m, name] of data.methods.entries()) {
    const box = make("input", { type: "checkbox", value: name, name: "method" });
    box.checked = state.tiles.has(m);
    box.addEventListener("change", () => {
      state.tiles[box.checked ? "add" : "delete"](m);
      drawGallery();
    });
    byId("methods").append(make("label", {}, box, make("span", {}, name)));
    byId("judge").append(make("option", { value: m }, name));
  }
  byId("judge").value = String(ours < 0 ? 0 : ours);
  byId("judge").addEventListener("change", drawGallery);
  for (const [id, wanted] of [["every-tile", true], ["few-tiles", false]]) {
    byId(id).addEventListener("click", () => {
      state.tiles = wanted ? new Set(data.methods.keys()) : firstTiles();
      document.querySelectorAll("#methods input").forEach((box, m) => { box.checked = state.tiles.has(m); });
      drawGallery();
    });
  }
  for (const radio of document.querySelectorAll('input[name="view"]')) {
    radio.addEventListener("change", () => { state.view = radio.value; drawGallery(); });
  }
}
