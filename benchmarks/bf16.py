"""Quality with bfloat16 weights beside float32: ``python benchmarks/bf16.py OUT``.

One policy of the demo pipeline, calibrated in float32, runs held-out prompts at each precision; RMSE of
decoded pictures in [0, 1] against the full run of the same precision. The calibration in OUT is kept, so
an interrupted run goes on; OUT/bf16.md is the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import otcache
from otcache.calibration.recipe import Recipe
from otcache.report.statistics import mean_interval, paired_difference
from otcache.running import choose
from otcache_core.contracts import SampleRequest
from otcache_core.plugins import Registry
from otcache_core.policy import Policy
from otcache_diffusers import demo

N, BUDGETS, BATCH, CALIBRATION_PROMPTS, SEED = 30, (4, 6, 8, 10, 15), 8, 8, 1000
Pictures = NDArray[np.float64]
Errors = dict[str, dict[int, NDArray[np.float64]]]


def rounded(pipe: Any) -> Any:
    """Weights of bfloat16 values, arithmetic and latents in float32."""
    return pipe.to(torch.bfloat16).to(torch.float32)


def whole(pipe: Any) -> Any:
    """Weights, arithmetic and latents in bfloat16, as most people run large models."""
    return pipe.to(torch.bfloat16)


PRECISIONS: dict[str, Callable[[Any], Any]] = {
    "float32": lambda pipe: pipe,
    "bf16 weights": rounded,
    "bf16 throughout": whole,
}


def policy_of(out: Path) -> Policy:
    """The policy, calibrated in float32 on prompts that are not held out."""
    prompts = [text for text, _ in demo.prompts()["calibration"]][:CALIBRATION_PROMPTS]
    recipe = Recipe(batch_size=BATCH)
    folder = out / "calibration"
    pipe = demo.load()
    return otcache.plan(
        otcache.calibrate(
            pipe, prompts, N, recipe=recipe, directory=folder, progress=False, **demo.CALL
        )
    )


class Runs:
    """Pictures of the held-out prompts on one pipeline."""

    def __init__(self, pipe: Any, samples: int) -> None:
        self._pipe = pipe
        self._probe = choose(Registry(), "probes", pipe)
        self._prompts = [text for text, _ in demo.prompts()["heldout"]][:samples]

    def full(self) -> Pictures:
        """Shape (samples, height, width, 3)."""
        parts = [self._prompts[at : at + BATCH] for at in range(0, len(self._prompts), BATCH)]
        return np.concatenate([self._part(part) for part in parts]).astype(np.float64)

    def at(self, policy: Policy, budget: int) -> Pictures:
        """The same under the policy."""
        with otcache.accelerate(self._pipe, policy.schedule(budget)):
            return self.full()

    def _part(self, prompts: list[str]) -> Any:
        seeds = (SEED,) * len(prompts)
        request = SampleRequest(tuple(prompts), seeds, N, demo.CALL, BATCH)
        return self._probe.sample(self._pipe, request)


class Table:
    """What was measured, as text.

    Args:
        own: RMSE a prompt against the full run of the same precision, by precision and budget.
        true: against the float32 full run; at budget N that of the full run itself.
    """

    def __init__(self, own: Errors, true: Errors) -> None:
        self._own, self._true = own, true

    def lines(self) -> list[str]:
        """One line a budget and precision."""
        head = ["B", "precision", "RMSE to its own full run", "paired difference to float32"]
        head += ["inside float32's interval", "RMSE to the float32 full run"]
        lines = [f"| {' | '.join(head)} |", "|--:|" + "---|" * (len(head) - 1)]
        lines += [self._line(b, name) for b in BUDGETS for name in PRECISIONS]
        full = [f"| {N} | {name} | 0 | | | {_figure(self._true[name][N])} |" for name in PRECISIONS]
        return [*lines, *full, ""]

    def _line(self, budget: int, name: str) -> str:
        own, base = self._own[name][budget], self._own["float32"][budget]
        m, reference, d = mean_interval(own), mean_interval(base), paired_difference(own, base)
        inside = "yes" if reference.low <= m.mean <= reference.high else "no"
        change = f"{d.mean:+.5f} [{d.low:+.5f}, {d.high:+.5f}]"
        compared = " | " if name == "float32" else f"{change} | {inside}"
        return (
            f"| {budget} | {name} | {_figure(own)} | {compared} | "
            f"{_figure(self._true[name][budget])} |"
        )


def _figure(values: NDArray[np.float64]) -> str:
    m = mean_interval(values)
    return f"{m.mean:.5f} [{m.low:.5f}, {m.high:.5f}]"


def preamble(samples: int) -> list[str]:
    """What a reader must know."""
    return [
        "# bfloat16",
        "",
        f"Made by `nox -s bench -- bf16 OUT`: the demo pipeline with guidance, N = {N}, one policy "
        f"calibrated in float32, on {samples} held-out prompts.",
        "RMSE of decoded pictures in [0, 1], mean and 95 % bootstrap interval over prompts.",
        "",
        "- *bf16 weights*: weights rounded to bfloat16, arithmetic and latents in float32.",
        "- *bf16 throughout*: `pipe.to(torch.bfloat16)`: weights, arithmetic, latents and sampler output.",
        "",
        "With bfloat16 latents every step of the sampler rounds, in full runs too: the last three rows say",
        "how far that alone takes a full run from the float32 one. Two runs of different steps round",
        "differently, so errors of that size cannot be told from rounding, whatever makes them.",
        "",
    ]


def main() -> None:
    """Calibrate once, run every precision, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=24, help="held-out prompts")
    asked = parser.parse_args()
    policy, rmse = policy_of(asked.out), Registry().create("metrics", "rmse")
    own: Errors = {}
    true: Errors = {}
    exact: Pictures | None = None
    for name, precision in PRECISIONS.items():
        runs = Runs(precision(demo.load()), asked.samples)
        full = runs.full()
        exact = full if exact is None else exact
        made = {b: runs.at(policy, b) for b in BUDGETS}
        own[name] = {b: rmse(pictures, full) for b, pictures in made.items()}
        true[name] = {b: rmse(pictures, exact) for b, pictures in {**made, N: full}.items()}
    text = [*preamble(asked.samples), *Table(own, true).lines()]
    (asked.out / "bf16.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
