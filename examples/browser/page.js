// The image demo of otcache in ONNX Runtime Web: every prompt in full, and by the table of follow.js.
import * as ort from "./ort/ort.wasm.min.mjs";
import { Follower } from "./follow.js";

ort.env.wasm.numThreads = 1;
const BRANCHES = ["cond", "uncond"];
const element = (id) => document.getElementById(id);
const tensor = (data, dims) => new ort.Tensor("float32", Float32Array.from(data), dims);
const json = async (name) => (await fetch(`./demo/${name}`)).json();
const open = (name) => ort.InferenceSession.create(`./demo/${name}`, { executionProviders: ["wasm"] });

// Sample with Euler and guidance; return the latent, and the steps that each branch computed.
async function sample(denoiser, facts, run, follower, onStep) {
  const { grid, scale, shapes } = facts;
  const computed = { cond: [], uncond: [] };
  const texts = {};
  for (const branch of BRANCHES) {
    texts[branch] = Object.fromEntries(
      Object.entries(run[branch]).map(([name, row]) => [name, tensor(row, shapes[name])]),
    );
  }
  let x = Float32Array.from(run.noise);
  follower?.begin();
  for (let step = 0; step + 1 < grid.length; step++) {
    const v = {};
    for (const branch of BRANCHES) {
      v[branch] = follower?.forecast(branch, step, x) ?? null;
      if (v[branch] !== null) continue;
      const given = { hidden_states: tensor(x, shapes.hidden_states), timestep: tensor([grid[step]], [1]) };
      v[branch] = (await denoiser.run({ ...given, ...texts[branch] })).prediction.data;
      computed[branch].push(step);
      follower?.keep(branch, step, v[branch], x);
    }
    const dt = grid[step + 1] - grid[step];
    x = x.map((value, i) => value + dt * (v.uncond[i] + scale * (v.cond[i] - v.uncond[i])));
    onStep?.(step, computed.cond.at(-1) === step);
  }
  return { latent: x, computed };
}

// Add a card with a canvas and a row of steps for the full run and for the other.
function card(prompt, steps) {
  const article = document.createElement("article");
  const figure = `<figure><canvas width="64" height="64"></canvas>
    <div class="steps">${"<i></i>".repeat(steps)}</div><figcaption>&nbsp;</figcaption></figure>`;
  article.innerHTML = `<h2></h2><div class="pair">${figure}${figure}</div>`;
  article.querySelector("h2").textContent = prompt;
  element("runs").append(article);
  return [...article.querySelectorAll("figure")];
}

async function draw(decoder, shapes, latent, canvas) {
  const { image } = await decoder.run({ latent: tensor(latent, shapes.hidden_states) });
  const [, , height, width] = image.dims;
  const pixels = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = Math.round(255 * image.data[c * height * width + i]);
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

async function timed(work) {
  const begin = performance.now();
  const made = await work();
  return { ...made, seconds: (performance.now() - begin) / 1000 };
}

// Run one way, show it, and return what the program that opened the page compares with torch.
async function show(figure, title, facts, networks, run, follower) {
  const marks = figure.querySelectorAll("i");
  const mark = (step, made) => marks[step].classList.toggle("computed", made);
  const made = await timed(() => sample(networks.denoiser, facts, run, follower, mark));
  const calls = BRANCHES.reduce((sum, branch) => sum + made.computed[branch].length, 0);
  const text = `${title}: ${calls} calls, ${made.seconds.toFixed(2)} s`;
  figure.querySelector("figcaption").textContent = text;
  await draw(networks.decoder, facts.shapes, made.latent, figure.querySelector("canvas"));
  return { ...made, latent: Array.from(made.latent), calls };
}

// Time one run, shown nowhere.
async function secondsOf(facts, networks, run, follower) {
  return (await timed(() => sample(networks.denoiser, facts, run, follower))).seconds;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

function summarize(results, seconds, table) {
  const calls = (way) => results.reduce((total, run) => total + run[way].calls, 0);
  const budget = table.branches[""].forecasts.filter((terms) => terms === null).length;
  const figures = [
    [`${calls("fast")} of ${calls("full")}`, "denoiser calls"],
    [`${median(seconds.map(([full]) => full)).toFixed(2)} s`, "a run, in full"],
    [`${median(seconds.map(([, fast]) => fast)).toFixed(2)} s`, "a run, by the table"],
    [`${median(seconds.map(([full, fast]) => full / fast)).toFixed(2)} ×`, "measured speedup"],
    [`${(table.num_steps / budget).toFixed(2)} ×`, "N / B"],
  ];
  for (const [value, name] of figures) {
    const box = element("figures").appendChild(document.createElement("div"));
    box.innerHTML = `<b>${value}</b><span>${name}</span>`;
  }
}

async function main() {
  const [facts, table] = await Promise.all([json("demo.json"), json("table.json")]);
  const networks = { denoiser: await open("denoiser.onnx"), decoder: await open("decoder.onnx") };
  const follower = new Follower(table);
  element("status").textContent = "running …";
  await secondsOf(facts, networks, facts.runs[0], follower); // the first run allocates
  const results = [];
  for (const run of facts.runs) {
    const [full, fast] = card(run.prompt, table.num_steps);
    results.push({
      full: await show(full, "full run", facts, networks, run, null),
      fast: await show(fast, "by the table", facts, networks, run, follower),
    });
  }
  const seconds = results.map(({ full, fast }) => [full.seconds, fast.seconds]);
  element("status").textContent = "timing every prompt twice more …";
  for (const run of [...facts.runs, ...facts.runs]) {
    const full = await secondsOf(facts, networks, run, null);
    seconds.push([full, await secondsOf(facts, networks, run, follower)]);
  }
  summarize(results, seconds, table);
  element("status").textContent =
    `ONNX Runtime Web ${ort.env.versions.web}, WebAssembly on one thread. Blue steps call the denoiser, ` +
    "the others are weighted sums of its earlier outputs.";
  return { version: ort.env.versions.web, results, seconds };
}

window.finished = main().catch((error) => {
  element("status").textContent = String(error);
  throw error;
});
