"""Idea 2 of ideas.py: what an input's first outputs say about the rest of its schedule."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ideas_bench import Bench, Row, describe
from ideas_loop import SCALE, Adapt, N, Plan, Run, run
from numpy.typing import NDArray

from otcache_core.transport import interpolate, round_to_steps

FIRST = 3  # computed outputs that are looked at, and steps that stay
STRENGTHS = (1.0, 0.6, 0.8, 0.9, 1.1, 1.2, 1.4)
POWERS = (0.8, 0.9, 1.1, 1.25)
RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 1e9)
NEIGHBOURS = (3, 5, 9, 15)
COUNTS, FEATURE_RIDGES = (1, 2, 4), (0.03, 0.3)
ABOUT = (
    "The first three computed steps are the default's for every input; then an input may scale the "
    "weights of all later spans (*strength*: 0.6 .. 1.4), or take other steps for the rest of the "
    "budget (*coordinate*: the transport between anchor and reference at another lam, or the rest bent "
    "by a power). Or the weights of all later spans are linear in the features (*weights, linear*: the "
    "first 1, 2 or 4 principal ones, fitted in closed loop). Features: norms and cosines of v and of c "
    "- u at the three steps. Options are fitted and learned on 16 calibration prompts x 2 seeds, the "
    "static row too; parameters by leaving out prompts. *Oracle* picks, or fits its weights, on the "
    "held-out error itself."
)
CONCLUSION = (
    "**Off by default.** There is much to gain (the best continuation for each input would take 9 to 30 "
    "% off the decoded error, weights fitted to the input itself 32 to 47 %), but three outputs do not "
    "say what: no learned choice of strength or coordinate is better than the static policy with 95 % "
    "confidence on both metrics at any budget, and choosing the coordinate makes B = 6 worse; weights "
    "linear in the features gain 4 % at B = 5, within doubt elsewhere."
)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Option:
    """What an input may do after its first outputs: the steps, and the factor of later weights."""

    plan: Plan
    strength: float = 1.0

    @property
    def factors(self) -> list[float]:
        """A factor for each segment."""
        return [1.0] * (FIRST - 1) + [self.strength] * (len(self.plan.cond) - FIRST + 1)


def measure(bench: Bench, budget: int) -> dict[str, Row]:
    """Held-out errors of each way to choose an option for each input."""
    static = bench.steps(budget)
    families = {
        "strength": [Option(Plan.common(static), s) for s in STRENGTHS],
        "coordinate": [Option(Plan.common(s)) for s in continuations(bench, budget)],
    }
    rows = {}
    for family, options in families.items():
        tried = [_try(bench, option) for option in options]
        bench.more.memo.clear()
        bench.held.memo.clear()
        known, x = tried[0].features
        learned = np.log([t.tuning["decoded"] for t in tried]).T  # (samples, options)
        gain = learned - learned[:, :1]
        groups = np.array(bench.more.groups)
        held = np.stack([t.held["decoded"] for t in tried]).T
        choices = {
            "static (default policy)": np.zeros(len(x), dtype=int),
            f"{family}, one for all": np.full(len(x), gain.mean(0).argmin()),
            f"{family}, ridge": chosen(ridge, RIDGES, known, gain, x, groups),
            f"{family}, nearest": chosen(nearest, NEIGHBOURS, known, gain, x, groups),
            f"{family}, oracle": held.argmin(1),
        }
        for name, picked in choices.items():
            rows[name] = _row(tried, picked, options)
    return rows | weights(bench, Plan.common(static))


def weights(bench: Bench, plan: Plan) -> dict[str, Row]:
    """Later weights linear in the first principal features; and those fitted to the input itself."""
    fitted = run(bench.more, plan)
    static = run(bench.held, plan, fitted.weights)
    directions = principal(features(fitted))
    tried = []
    for count, ridge in itertools.product(COUNTS, FEATURE_RIDGES):
        phi = [directions(features(r))[:, :count] for r in (fitted, static)]
        learned = run(bench.more, plan, adapt=Adapt(phi[0], FIRST - 1, ridge))
        error = bench.more.errors(learned.x)["decoded"]
        tried.append((float(np.log(error).mean()), count, ridge, phi, learned))
    _, count, ridge, phi, learned = min(tried, key=lambda t: t[0])
    linear = run(bench.held, plan, learned.weights, adapt=Adapt(phi[1], FIRST - 1, ridge))
    own = run(bench.held, plan, fitted.weights, own_from=FIRST - 1)
    bench.more.memo.clear()
    bench.held.memo.clear()
    notes = {"linear": f"{count} features, ridge {ridge:g}", "oracle": "fitted to the full run"}
    return {
        f"weights, {name}": {m: e.tolist() for m, e in bench.held.errors(r.x).items()}
        | {"note": notes[name]}
        for name, r in (("linear", linear), ("oracle", own))
    }


def principal(known: Floats) -> Callable[[Floats], Floats]:
    """Standardised coordinates along the principal directions of known features."""
    mean, spread = known.mean(0), known.std(0)
    _, size, axes = np.linalg.svd((known - mean) / spread, full_matrices=False)
    scale = size / np.sqrt(len(known))
    return lambda x: (x - mean) / spread @ axes.T / scale


def continuations(bench: Bench, budget: int) -> list[tuple[int, ...]]:
    """The default steps, then others that share the first ones: along lam, and bent."""
    static, policy = bench.steps(budget), bench.policy
    first, last = static[:FIRST], static[FIRST - 1]
    found = [static]
    for lam in np.linspace(0, 1, 6):
        # At its own budget an end is returned with its weights; only steps count here.
        rest = interpolate(policy.anchor, policy.reference, budget, float(lam)).computed[FIRST:]
        found.append((*first, *rest))
    for power in POWERS:
        u = (np.array(static[FIRST:]) - last) / (N - last)
        left = N - last
        rest = np.array(round_to_steps([0.0, *u**power], left))[1:] + last
        found.append((*first, *rest.tolist()))
    usable = [s for s in found if s[FIRST] > last]
    return list(dict.fromkeys(usable))


@dataclass(frozen=True)
class Tried:
    """Errors of one option on every sample, and the features of the samples."""

    tuning: dict[str, Any]
    held: dict[str, Any]
    features: tuple[Floats, Floats]


def _try(bench: Bench, option: Option) -> Tried:
    """Each tuning sample runs with the weights of the others, fitted without any factor."""
    fitted = run(bench.more, option.plan)
    tuning, held = fitted, run(bench.held, option.plan, fitted.weights, strength=option.factors)
    if option.strength != 1.0:
        tuning = run(bench.more, option.plan, fitted.alone, strength=option.factors)
    both = features(tuning), features(held)
    return Tried(bench.more.errors(tuning.x), bench.held.errors(held.x), both)


def features(ran: Run) -> Floats:
    """Cosines and logarithms of norms of v and of o_c - o_u at the first computed steps."""
    cond, other = ([o.flatten(1) for _, o in reversed(s)][:FIRST] for s in ran.outputs)
    columns = []
    for kind in (
        [SCALE * c + (1 - SCALE) * u for c, u in zip(cond, other, strict=True)],
        [c - u for c, u in zip(cond, other, strict=True)],
    ):
        sizes = [v.norm(dim=1) for v in kind]
        for a in range(FIRST):
            columns.append((sizes[a] / sizes[0]).log() if a else sizes[0].log())
            columns += [(kind[a] * kind[b]).sum(1) / (sizes[a] * sizes[b]) for b in range(a)]
    return torch.stack(columns, 1).numpy()


def ridge(known: Floats, gain: Floats, x: Floats, strength: float) -> Floats:
    """Gain of every option over the first, predicted linearly; shape (inputs, options)."""
    mean, spread = known.mean(0), known.std(0)
    a, b = (known - mean) / spread, (x - mean) / spread
    w = np.linalg.solve(a.T @ a + strength * np.eye(a.shape[1]), a.T @ (gain - gain.mean(0)))
    return np.asarray(gain.mean(0) + b @ w)


def nearest(known: Floats, gain: Floats, x: Floats, count: float) -> Floats:
    """The mean gain of the nearest known inputs."""
    mean, spread = known.mean(0), known.std(0)
    a, b = (known - mean) / spread, (x - mean) / spread
    order = np.argsort(((b[:, None] - a[None]) ** 2).sum(2), axis=1)[:, : int(count)]
    return np.asarray(gain[order].mean(1))


def chosen(
    rule: Any, values: tuple[float, ...], known: Floats, gain: Floats, x: Floats, groups: Any
) -> Floats:
    """Option of each input; the rule's parameter is the best one when each prompt is left out."""

    def left_out(value: float) -> float:
        total = 0.0
        for g in np.unique(groups):
            out = groups == g
            picked = rule(known[~out], gain[~out], known[out], value).argmin(1)
            total += gain[out][np.arange(out.sum()), picked].sum()
        return total

    return np.asarray(rule(known, gain, x, min(values, key=left_out)).argmin(1))


def _row(tried: list[Tried], picked: Any, options: list[Option]) -> Row:
    rows = np.arange(len(picked))
    errors = {m: np.stack([t.held[m] for t in tried])[picked, rows] for m in tried[0].held}
    counts = np.bincount(picked, minlength=len(options))
    shown = [
        f"{n} x [{describe(o.plan)}{'' if o.strength == 1 else f' times {o.strength}'}]"
        for n, o in zip(counts, options, strict=True)
        if n
    ]
    return {m: e.tolist() for m, e in errors.items()} | {"note": ", ".join(shown)}
