// Videos: one clock for all of them; each is a canvas onto which one frame of its film strip is copied.
const film = gallery?.frames ? gallery : null;
const clock = { frame: 0, playing: false, speed: 1, from: 0, began: 0 };
const strips = new Map(); // place in gallery.images to its image
const screens = new WeakMap(); // canvas to what it shows
const inView = new Set(); // cards
const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    inView[isIntersecting ? "add" : "delete"](target);
    if (isIntersecting) showCard(target);
  }
});

function stripOf(place) {
  if (!strips.has(place)) {
    const image = new Image();
    image.src = gallery.images[place];
    strips.set(place, image);
  }
  return strips.get(place);
}

// An image, or a canvas that follows the clock; "against" is what the difference view subtracts.
function screenOf(place, words, against = null) {
  if (!film) return make("img", { src: gallery.images[place], alt: words, draggable: "false" });
  const [height, width] = film.size;
  const canvas = make("canvas", { width, height, role: "img", "aria-label": words });
  const needed = [place, against].filter((one) => one !== null).map(stripOf);
  screens.set(canvas, needed);
  Promise.all(needed.map((image) => image.decode())).then(() => paint(canvas));
  return canvas;
}

function paint(canvas) {
  const needed = screens.get(canvas);
  if (!needed.every((image) => image.complete)) return;
  const [height, width] = film.size;
  const [column, row] = [Math.floor(clock.frame / film.rows), clock.frame % film.rows];
  const pen = canvas.getContext("2d");
  const copy = (image, how) => {
    pen.globalCompositeOperation = how;
    pen.drawImage(image, column * width, row * height, width, height, 0, 0, width, height);
  };
  copy(needed[0], "source-over");
  if (state.view === "difference" && needed.length > 1) copy(needed[1], "difference");
}

function frameError(card, m) {
  const errors = card.errors[`${m}:${state.budget}`];
  const rmse = data.metrics.find((metric) => metric.name === "rmse") || { digits: 4 };
  return write(errors[clock.frame], rmse);
}

function showCard(article) {
  const card = film.cards.find((one) => String(one.sample) === article.dataset.sample);
  for (const canvas of article.querySelectorAll("canvas")) paint(canvas);
  for (const text of article.querySelectorAll(".now")) text.textContent = `frame ${frameError(card, text.dataset.m)}`;
  const x = film.frames.length > 1 ? (clock.frame / (film.frames.length - 1)) * 100 : 50;
  article.querySelector(".playhead")?.setAttribute("d", `M${x} 0V40`);
}

// While they play only cards in view are painted; the others follow when they come into view, or at rest.
function showFrame(frame) {
  clock.frame = frame;
  for (const article of clock.playing ? inView : byId("gallery").children) showCard(article);
  const said = `${film.frames[frame] + 1} of ${film.filmed}`;
  byId("scrub").value = frame;
  byId("scrub").setAttribute("aria-valuetext", `frame ${said}`);
  byId("frame-said").textContent = said;
}

function tick(now) {
  if (!clock.playing) return;
  const passed = Math.floor((Math.max(0, now - clock.began) / 1000) * film.rate * clock.speed);
  const frame = (clock.from + passed) % film.frames.length;
  if (frame !== clock.frame) showFrame(frame);
  requestAnimationFrame(tick);
}

// From the frame that is shown.
function setClock(changes) {
  const idle = !clock.playing;
  Object.assign(clock, changes, { from: clock.frame, began: performance.now() });
  byId("play").textContent = clock.playing ? "Pause" : "Play";
  if (!clock.playing) showFrame(clock.frame);
  else if (idle) requestAnimationFrame(tick);
}

// RMSE of each frame: a line a method, those of the Pareto front in their colours, the one in the large view thick.
function frameChart(card, m) {
  const errors = (one) => card.errors[`${one}:${state.budget}`];
  const methods = tileMethods().filter((one) => card.tiles[`${one}:${state.budget}`] !== undefined);
  const top = Math.max(1e-6, ...methods.filter((one) => one === m || coloured(one)).flatMap(errors));
  const x = (i) => (film.frames.length > 1 ? (i / (film.frames.length - 1)) * 100 : 50);
  const line = (one) => {
    const points = errors(one).map((error, i) => `${x(i).toFixed(2)} ${(39 - (error / top) * 37).toFixed(2)}`);
    const kind = one === m ? "line near" : "line";
    return shape("path", { d: `M${points.join("L")}`, class: kind, style: `color:${colour(one)}` });
  };
  const order = (one) => (one === m ? 2 : coloured(one) ? 1 : 0);
  const lines = [...methods].sort((a, b) => order(a) - order(b)).map(line);
  const rmse = { digits: 3 };
  const range = `${write(Math.min(...errors(m)), rmse)} to ${write(Math.max(...errors(m)), rmse)}`;
  const svg = shape(
    "svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": `RMSE of each frame: ${nameOf(m)} from ${range}` },
    ...lines, shape("path", { class: "playhead" })
  );
  return make(
    "figure", { class: "frames" }, svg,
    make("figcaption", {}, `RMSE of each frame, top ${write(top, rmse)}: `, make("b", { class: m === ours ? "ours" : "" }, nameOf(m)), " and the others")
  );
}

function buildPlayer() {
  if (!film) return;
  byId("scrub").max = film.frames.length - 1;
  byId("scrub").addEventListener("input", (event) => {
    clock.frame = Number(event.target.value);
    setClock({ playing: false });
  });
  byId("play").addEventListener("click", () => setClock({ playing: !clock.playing }));
  const speed = byId("speed");
  clock.speed = Number(speed.value); // a browser that reloads may keep an earlier choice
  speed.addEventListener("change", () => setClock({ speed: Number(speed.value) }));
  addEventListener("beforeprint", () => setClock({ playing: false }));
  showFrame(0);
  setClock({ playing: !matchMedia("(prefers-reduced-motion: reduce)").matches });
}
