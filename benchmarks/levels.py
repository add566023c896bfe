"""Whole outputs or block stacks: ``python benchmarks/levels.py OUT``.

The demo pipeline (guided, N = 30) with the same schedules at both levels of caching: held-out RMSE of
decoded images against the full run, reusing and extrapolating, on evenly spaced steps and on steps that
are dense at the start. Beside it what a skipped step still costs and what is held, on the demo and, on the
meta device, on published models at full size. OUT/levels.md has the tables of
docs/levels.md; about four minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import torch
from demo_runs import DemoRuns, call_of, head, interval, parser, row, write
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from otcache.report.statistics import paired_ratio
from otcache_core import Schedule
from otcache_core.models import Canvas
from otcache_core.transport import uniform_steps
from otcache_diffusers import demo
from otcache_diffusers.architectures import published
from otcache_diffusers.architectures.blueprint import Blueprint
from otcache_diffusers.architectures.models import (
    flux_blueprint,
    qwen_image_blueprint,
    sd3_blueprint,
)
from otcache_diffusers.execution.block_stacks import block_lists
from otcache_diffusers.hooks import tensors

LEVELS = {"whole outputs": None, "block stacks": "torch-blocks"}
N, BUDGETS = 30, (5, 8, 10, 15)
HELD_OUT = 8
PUBLISHED = (
    ("FLUX.1-dev", flux_blueprint(), published.FLUX_1_DEV),
    ("Qwen-Image", qwen_image_blueprint(), published.QWEN_IMAGE),
    ("Stable Diffusion 3.5 large", sd3_blueprint(), published.SD3_5_LARGE),
)


def early(n: int, budget: int) -> tuple[int, ...]:
    """Dense at the start: k_m = floor(N (m / B)^1.5), moved apart where two coincide."""
    steps: list[int] = []
    for m in range(budget):
        steps.append(max(int(n * (m / budget) ** 1.5), steps[-1] + 1 if steps else 0))
    return tuple(steps)


STEPS: dict[str, Callable[[int, int], tuple[int, ...]]] = {"even": uniform_steps, "early": early}


def quality() -> list[str]:
    """Measure one line per method and level, and their paired ratio."""
    runs = DemoRuns(counts=(0, HELD_OUT))
    lines = []
    for steps, place in STEPS.items():
        for forecaster in ("reuse", "linear"):
            schedules = [Schedule(N, place(N, b), forecaster) for b in BUDGETS]
            rows = {
                name: [runs.errors(schedule, executor=executor) for schedule in schedules]
                for name, executor in LEVELS.items()
            }
            label = f"{steps}, {forecaster}"
            for name, found in rows.items():
                lines.append(row(label, name, *(f"{e.mean():.5f}" for e in found)))
            whole, blocks = rows.values()
            ratios = [paired_ratio(b, w) for b, w in zip(blocks, whole, strict=True)]
            lines.append(row(label, "**blocks / whole**", *map(interval, ratios)))
            print("\n".join(lines[-3:]), flush=True)
    return lines


class Costs:
    """FLOPs outside the blocks, and what is held a branch and remembered step, of one denoiser.

    Args:
        denoiser: called inside of ``with costs.counter:``.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self._root = type(denoiser).__name__
        self._lists = block_lists(denoiser)
        self.counter = FlopCounterMode(display=False)
        self._held: dict[str, int] = {}
        self._whole = 0
        denoiser.register_forward_hook(self._left)
        for name, blocks in self._lists.items():
            blocks[-1].register_forward_hook(lambda *call, name=name: self._came(name, call[-1]))

    def _came(self, name: str, output: Any) -> None:
        self._held[name] = sum(leaf.numel() for leaf in tensors(output))

    def _left(self, module: nn.Module, args: Any, output: Any) -> None:
        self._whole = sum(leaf.numel() for leaf in tensors(output))

    @property
    def outside(self) -> float:
        """Share of the denoiser's FLOPs that are not in its blocks."""
        counts: Mapping[str, Mapping[Any, int]] = self.counter.get_flop_counts()
        total = sum(counts[self._root].values())
        inside = sum(
            sum(counts.get(f"{self._root}.{name}.{n}", {}).values())
            for name, blocks in self._lists.items()
            for n in range(len(blocks))
        )
        return 1 - inside / total

    def line(self, name: str, itemsize: int) -> str:
        """One row of the table."""
        whole, blocks = (
            numbers * itemsize / 2**20 for numbers in (self._whole, sum(self._held.values()))
        )
        return row(name, f"{self.outside:.2%}", f"{whole:.2f} MiB", f"{blocks:.1f} MiB")


def demo_cost() -> str:
    """Of a step of the demo, one prompt."""
    pipe = demo.load()
    costs = Costs(pipe.transformer)
    call = call_of(guided=True) | {"num_inference_steps": 1, "output_type": "latent"}
    with torch.no_grad(), costs.counter:
        pipe("a red circle", **call)
    return costs.line("the demo, 64 x 64, float32", 4)


def published_cost(name: str, blueprint: Blueprint, configs: Mapping[str, Any]) -> str:
    """Of one call of a published model on the meta device."""
    latent = blueprint.compression(configs["vae"])(Canvas(1024, 1024), blueprint.cell)
    with torch.device("meta"), torch.no_grad():
        denoiser = getattr(diffusers, blueprint.denoiser).from_config(configs["denoiser"]).eval()
        arguments = blueprint.arguments(configs["denoiser"], latent)
        costs = Costs(denoiser)
        with costs.counter:
            denoiser(**arguments, return_dict=False)
    return costs.line(f"{name}, 1024 x 1024, bfloat16", 2)


def main() -> None:
    """Measure and write the table."""
    out = parser(__doc__).parse_args().out
    costs = [demo_cost(), *(published_cost(*model) for model in PUBLISHED)]
    columns = ("FLOPs outside the blocks", "held, whole output", "held, block stacks")
    text = [
        *head(("steps, forecast", "level"), [f"B = {b}" for b in BUDGETS]),
        *quality(),
        "",
        *head(("model",), columns),
        *costs,
    ]
    write(out / "levels.md", text)


if __name__ == "__main__":
    main()
