"""The first image: what needs no calibration, side by side: ``python benchmarks/instant.py OUT``.

RMSE of held-out samples against the full run: the image demo without guidance and with scales 3 and 6, the
video demo, and a loop of one's own around an exact flow to a mixture of Gaussians in 24 dimensions. OUT
keeps the errors of finished cells, so an interrupted run goes on; OUT/instant.md is the page.

Baselines: every rule of ``otcache compare`` that needs no calibration. If the knob of one is no budget
(EasyCache), the best of 32 settings counts whose runs of the held-out samples stay within the budget.
Not here: TeaCache, MagCache and SenCache need coefficients of the model that have to be measured; caches
inside blocks do not stay within a budget of whole steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_runs import SEED, DemoRuns, head, interval, mean_cell, parser, rmse, row, write
from numpy.typing import NDArray

import otcache
from otcache.calibration.recipe import Recipe
from otcache.comparison.forecast_rules import windows_for
from otcache.report.statistics import paired_ratio
from otcache_core import Schedule
from otcache_core.transport import uniform_steps
from otcache_diffusers import demo
from otcache_diffusers.baselines.easycache import EasyCacheHook
from otcache_diffusers.baselines.fewer_steps import SAMPLERS
from otcache_diffusers.hooks import drive

SHARES = (0.13, 0.17, 0.2, 0.27, 0.33, 0.5)
OURS, CALIBRATED = "otcache, no calibration", "otcache, calibrated"
FEWER = {"Euler": "euler", "AB2": "adams-bashforth", "DPM++": "dpmpp", "UniPC": "unipc"}
RULES: dict[str, Callable[[int, int], Schedule]] = {
    "uniform, reuse": lambda n, b: Schedule(n, uniform_steps(n, b)),
    "uniform, linear": lambda n, b: Schedule(n, uniform_steps(n, b), "linear"),
    "Taylor, order 2": lambda n, b: Schedule(n, uniform_steps(n, b), "taylor"),
    "HiCache": lambda n, b: Schedule(n, uniform_steps(n, b), "hermite"),
    "Spectrum": lambda n, b: Schedule(n, windows_for(n, b), "spectrum"),
}
HEAD = [
    "# Without calibration",
    "",
    "Made by `nox -s bench -- instant OUT` on two CPU cores: RMSE on held-out samples against the full",
    "run (of a seed for each prompt), mean and half of its 95 % interval. *otcache, no calibration* is",
    "`otcache.accelerate(pipe, budget=B)`; how its numbers were chosen, on calibration prompts, is in",
    "[theory.md](theory.md), section 9.12. A ratio below 1 is better than the best of the others at that",
    "budget, whichever that is.",
    "",
]
NOTE = [
    "Not in these tables: TeaCache, MagCache and SenCache need coefficients of the model that must be",
    "measured; caches inside blocks keep no budget of whole steps. They stand in",
    "[comparison](comparison/table.md).",
    "",
]
Errors = NDArray[np.float64]


class MixtureFlow(torch.nn.Module):
    """The exact velocity from noise to a mixture of Gaussians; a prompt is one quarter of its modes."""

    def __init__(self, dimensions: int = 24, modes: int = 12, width: float = 0.2) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(2026)
        self.means = torch.randn(modes, dimensions, generator=random, dtype=torch.float64)
        self.width = width

    def forward(self, x: torch.Tensor, s: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Return (x - E[x_0 | x]) / s of x = (1 - s) x_0 + s noise; shape (n, dimensions)."""
        data = 1.0 - s
        variance = (data * self.width) ** 2 + s**2
        away = x[:, None] - data * self.means
        logits = -away.square().sum(-1) / (2 * variance)
        shares = logits.masked_fill(~masks, -torch.inf).softmax(-1)
        clean = self.means + data * self.width**2 / variance * away
        return (x - (shares[..., None] * clean).sum(1)) / s


def toy_loop() -> Any:
    """Make a loop of one's own around the flow; prompts are numbers that choose modes."""
    flow = MixtureFlow()

    def grid(num_steps: int) -> list[float]:
        s = np.linspace(1.0, 0.0, num_steps + 1)
        return (1.5 * s / (1 + 0.5 * s)).tolist()

    def sample(prompts: Sequence[str], seeds: Sequence[int], num_steps: int) -> torch.Tensor:
        modes, dimensions = flow.means.shape
        randoms = [
            torch.Generator().manual_seed(1000 * int(p) + s)
            for p, s in zip(prompts, seeds, strict=True)
        ]
        x = torch.stack(
            [torch.randn(dimensions, generator=r, dtype=torch.float64) for r in randoms]
        )
        masks = torch.zeros(len(prompts), modes, dtype=torch.bool)
        for row_, random in zip(masks, randoms, strict=True):
            row_[torch.randperm(modes, generator=random)[: modes // 4]] = True
        levels = torch.tensor(grid(num_steps), dtype=torch.float64)
        for s, following in pairwise(levels):
            x = x + (following - s) * flow(x, s, masks)
        return x

    return otcache.loop(sample, denoiser=flow, grid=grid)


@dataclass(frozen=True)
class Target:
    """One block of the table.

    Args:
        name: for headings.
        num_steps: N.
        make: makes the pipeline or loop, the arguments of its calls, and its prompts.
        counts: numbers of calibration and held-out samples.
    """

    name: str
    num_steps: int
    make: Callable[[], tuple[Any, dict[str, Any], Any]]
    counts: tuple[int, int]

    @property
    def budgets(self) -> list[int]:
        """B of each share."""
        return [round(share * self.num_steps) for share in SHARES]


def image(scale: float) -> tuple[Any, dict[str, Any], Any]:
    """Load the image demo."""
    omitted = () if scale > 1 else ("true_cfg_scale", "negative_prompt")
    call = {name: value for name, value in demo.CALL.items() if name not in omitted}
    if scale > 1:
        call["true_cfg_scale"] = scale
    return demo.load(), call, demo.prompts()


def video() -> tuple[Any, dict[str, Any], Any]:
    """Load the video demo."""
    from otcache_video import demo as video_demo

    return video_demo.load(), dict(video_demo.CALL), video_demo.prompts()


def toy() -> tuple[Any, dict[str, Any], Any]:
    """Make the loop."""
    numbers = [(str(n), "") for n in range(64)]
    return toy_loop(), {}, {"calibration": numbers[:16], "heldout": numbers[16:]}


def targets(held: int) -> list[Target]:
    """Return every block."""
    made = []
    for n in (30, 50):
        for scale in (3.0, 6.0, 1.0):
            name = f"image demo, {f'guidance {scale:g}' if scale > 1 else 'unguided'}, N = {n}"
            made.append(Target(name, n, lambda scale=scale: image(scale), (8, held)))
        made.append(Target(f"video demo, N = {n}", n, video, (8, min(16, held))))
        made.append(Target(f"loop around a mixture flow, N = {n}", n, toy, (8, 2 * held)))
    return made


class Bench:
    """One target: the errors of every method."""

    def __init__(self, target: Target, out: Path) -> None:
        self.target = target
        self._folder = out / "".join(c if c.isalnum() else "-" for c in target.name)
        self._folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def runs(self) -> DemoRuns:
        """The target, loaded; every held-out prompt has a seed of its own."""
        pipe, call, prompts = self.target.make()
        target = self.target
        runs = DemoRuns(target.num_steps, call, pipe, target.counts, target.counts[1], prompts)
        runs.held_seeds = [SEED + i for i in range(len(runs.held_prompts))]
        return runs

    def errors(self, method: str, budget: int) -> Errors:
        """Return the error of each held-out sample; finished cells are read."""
        path = self._folder / f"{''.join(c if c.isalnum() else '-' for c in method)}-{budget}.json"
        if not path.exists():
            full = self.runs.full
            with np.errstate(all="ignore"):
                path.write_text(json.dumps(self._found(method, budget, full).tolist()))
        return np.array(json.loads(path.read_text()))

    def _found(self, method: str, budget: int, full: Any) -> Errors:
        runs, n = self.runs, self.target.num_steps
        if method == OURS:
            return self._within(otcache.accelerate(runs.pipe, budget=budget))
        if method == CALIBRATED:
            return runs.errors(otcache.plan(self.calibration).schedule(budget))
        if method in RULES:
            return runs.errors(RULES[method](n, budget))
        if method == "HiCache++":
            rule = runs.registry.create("baselines", "otcache-diffusers/hicache-dmd")
            (setting,) = rule.settings(n, [budget], {})
            return self._within(rule.apply(runs.pipe, setting, {}))
        if method == "EasyCache":
            within = [errors for steps, errors in self._easycache if steps <= budget]
            return min(within, key=lambda errors: float(errors.mean()))
        return self._fewer(method.removeprefix("fewer steps, "), budget)

    def _within(self, context: AbstractContextManager[Any]) -> Errors:
        with context:
            made = self.runs.sample()
        return rmse(made, self.runs.full)

    def _fewer(self, name: str, budget: int) -> Errors:
        pipe = self.runs.pipe
        if name == "Euler" and not hasattr(pipe, "scheduler"):
            return rmse(self.runs.sample(budget), self.runs.full)
        own = pipe.scheduler
        pipe.scheduler = SAMPLERS[FEWER[name]].scheduler(own)
        try:
            made = self.runs.sample(budget)
        finally:
            pipe.scheduler = own
        return rmse(made, self.runs.full)

    @cached_property
    def _easycache(self) -> list[tuple[int, Errors]]:
        """Computed steps and errors of each threshold, from the largest down to the largest budget."""
        found = []
        for threshold in (math.inf, *np.geomspace(20.0, 0.01, 31)):
            hook = EasyCacheHook(float(threshold))
            drove = drive(self.runs.pipe, hook, num_steps=self.target.num_steps)
            errors = self._within(drove)
            found.append((len(hook.computed), errors))
            if len(hook.computed) > self.target.budgets[-1] + 2:
                break
        return found

    @cached_property
    def calibration(self) -> otcache.Calibration:
        """The default calibration."""
        return self.runs.calibrate(self._folder / "calibration", Recipe(batch_size=16))

    @property
    def baselines(self) -> list[str]:
        """The methods without calibration that apply."""
        fewer = [f"fewer steps, {name}" for name in FEWER]
        if "loop" in self.target.name:
            fewer = fewer[:1]
        return [*RULES, "HiCache++", "EasyCache", *fewer]

    def cells(self, calibrated: bool = True) -> dict[str, dict[int, Errors]]:
        """Return every cell, without the row of the calibrated policy if so wanted."""
        found: dict[str, dict[int, Errors]] = {}
        for method in (*self.baselines, OURS, *([CALIBRATED] if calibrated else [])):
            for budget in self.target.budgets:
                errors = self.errors(method, budget)
                found.setdefault(method, {})[budget] = errors
                print(
                    f"{self.target.name}  {method}  B = {budget}  {errors.mean():.5f}", flush=True
                )
        return found


def block(target: Target, cells: dict[str, dict[int, Errors]]) -> tuple[list[str], list[float]]:
    """Write the table of a target, and return our ratios to the best baseline."""
    columns = [f"B = {b} ({b / target.num_steps:.2f})" for b in target.budgets]
    lines = [f"## {target.name}", "", *head(("rmse",), columns)]
    lines += [
        row(name, *(mean_cell(rows[b]) for b in target.budgets)) for name, rows in cells.items()
    ]
    baselines = [name for name in cells if name not in (OURS, CALIBRATED)]
    best = {b: min(baselines, key=lambda name: cells[name][b].mean()) for b in target.budgets}
    ratios = [float(cells[OURS][b].mean() / cells[best[b]][b].mean()) for b in target.budgets]
    pairs = [paired_ratio(cells[OURS][b], cells[best[b]][b]) for b in target.budgets]
    lines += [
        row("best without calibration", *(best[b] for b in target.budgets)),
        row(f"**{OURS} / best**, of means", *(f"**{ratio:.2f}**" for ratio in ratios)),
        row("the same, paired", *(interval(pair) for pair in pairs)),
        "",
        f"Geometric mean of the ratios: **{geometric(ratios):.2f}**; worst: {max(ratios):.2f}.",
        "",
    ]
    return lines, ratios


def geometric(values: Sequence[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def main() -> None:
    """Measure every target and write the page."""
    command = parser(__doc__, samples=16)
    command.add_argument(
        "--only", nargs="*", default=[""], help="targets with one of these in their name"
    )
    command.add_argument(
        "--skip-calibrated", action="store_true", help="leave out the row of the calibrated policy"
    )
    options = command.parse_args()
    text, means, every = [], [], []
    for target in targets(options.samples):
        if any(part in target.name for part in options.only):
            cells = Bench(target, options.out).cells(not options.skip_calibrated)
            lines, ratios = block(target, cells)
            text += lines
            means.append(row(target.name, f"{geometric(ratios):.2f}", f"{max(ratios):.2f}"))
            every += ratios
    summary = [
        *HEAD,
        *head(("target",), ["ratio to the best, geometric mean over budgets", "worst budget"]),
        *means,
        row("**all**", f"**{geometric(every):.2f}**", f"{max(every):.2f}"),
        "",
        *NOTE,
    ]
    write(options.out / "instant.md", [*summary, *text])


if __name__ == "__main__":
    main()
