// Follow a playback table of otcache: docs/playback.md. Outputs and states are Float32Arrays.
export class Follower {
  constructor(table) {
    if (table.format !== "otcache-playback" || table.version !== 2) {
      throw new Error(`expected otcache-playback 2, got ${table.format} ${table.version}`);
    }
    this.table = table;
    this.begin();
  }

  // Start a run: nothing of the one before is used.
  begin() { this.kept = new Map(); this.weights = new Map(); }

  // Return the output of a skipped step; null: call the denoiser, and keep what it gives.
  forecast(branch, step, state) {
    const kept = this.keptOf(branch), terms = this.termsOf(branch, step);
    if (!terms?.every(([k]) => kept.has(k))) return null;
    const [a, b] = this.conversion(step);
    const output = state.map((x, i) => (terms.reduce((q, [k, c]) => q + c * kept.get(k)[i], -b * x)) / a);
    this.release(branch, step);
    return output;
  }

  // Take the output of a step that was computed.
  keep(branch, step, output, state) {
    const [a, b] = this.conversion(step);
    this.keptOf(branch).set(step, output.map((p, i) => a * p + b * state[i]));
    const choice = this.plan(branch).order_choices?.[step];
    if (choice) this.choose(branch, choice);
    this.release(branch, step);
  }

  // Choose how much of each higher order the forecasts of a span have, by the outputs before it.
  choose(branch, choice) {
    const [v, v1, v2] = choice.steps.map((k) => this.keptOf(branch).get(k));
    this.weights.delete(branch);
    if (!v || !v1 || (choice.steps.length > 2 && !v2)) return;
    const minus = (x, y) => x.map((each, i) => each - y[i]);
    const inner = (x, y) => x.reduce((sum, each, i) => sum + each * y[i], 0), size = (x) => Math.sqrt(inner(x, x));
    const change = minus(v, v1), before = v2 && minus(v1, v2);
    const q = size(change) / (size(v) + 1e-30);
    const c = before ? inner(change, before) / (size(change) * size(before) + 1e-30) : 0;
    this.weights.set(branch, choice.ramps.map(([o, l, m]) => Math.min(1, Math.max(0, o + l * c + m * q))));
  }

  // Return the [computed step, coefficient] that are added up at a skipped step, perhaps several of one step.
  termsOf(branch, step) {
    const { forecasts, orders } = this.plan(branch), rows = orders?.[step];
    if (!rows?.length) return forecasts[step];
    const times = (row, w) => row.map(([k, c]) => [k, w * c]), weights = this.weights.get(branch);
    return weights && rows[0].concat(...weights.map((w, i) => [...times(rows[i + 1], w), ...times(rows[i], -w)]));
  }

  // Return (a, b) of q = a p + b x: p is what the denoiser predicts, q what is kept and forecast.
  conversion(step) {
    const { prediction, forecast_in, alphas, sigmas } = this.table;
    if (prediction === forecast_in) return [1, 0];
    const alpha = alphas[step], sigma = sigmas[step];
    const parts = { epsilon: [1, 0], sample: [0, 1], v_prediction: [alpha, -sigma], flow: [1, -1] };
    const [e, d] = parts[prediction], [f, g] = parts[forecast_in], det = e * alpha - d * sigma;
    return [(f * alpha - g * sigma) / det, (e * g - d * f) / det];
  }

  plan(branch) { return this.table.branches[branch] ?? this.table.branches[""]; }
  keptOf(branch) { return this.kept.get(branch) ?? this.kept.set(branch, new Map()).get(branch); }
  release(branch, step) {
    const until = this.plan(branch).needed_until;
    for (const k of this.keptOf(branch).keys()) if (until[k] <= step) this.keptOf(branch).delete(k);
  }
}
