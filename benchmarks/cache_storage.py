"""Outputs kept in fewer bits: ``python benchmarks/cache_storage.py OUT [--video]``.

The demo pipeline (N = 30) under one policy of a small calibration: RMSE of held-out pictures against
the full run with outputs kept as they are (float32), in bf16, in fp16, and, tried and not offered, in 8 bits.
Whole outputs and block stacks. OUT keeps the calibrations; OUT/cache-storage.md is the table, about five
minutes on one core for pictures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

import otcache
from otcache.calibration.recipe import Recipe
from otcache.pipelines import find_demo
from otcache.report.statistics import mean_interval, paired_difference, paired_ratio
from otcache.running import choose
from otcache_core import OtcacheError
from otcache_core.contracts import CacheStorage, SampleRequest, metric_values
from otcache_core.plugins import Registry
from otcache_core.policy import Policy
from otcache_diffusers.execution.block_executor import block_stacks
from otcache_diffusers.execution.cached_steps import CachedSteps
from otcache_diffusers.execution.executor import Level, TorchExecutor, whole_outputs
from otcache_diffusers.hooks import StepHook

N, BUDGETS, SEED, BATCH = 30, (6, 10, 15), 1000, 4
RECIPE = Recipe(cost_samples=2, anchor_trials=12, climb_trials=8, batch_size=BATCH)
CALIBRATION_PROMPTS = 4
GUIDANCE = {"image": "with", "video": "without"}
LEVELS: dict[str, Level] = {"whole outputs": whole_outputs, "block stacks": block_stacks}
STORAGES = {"float32": None, "bf16": CacheStorage("bf16"), "fp16": CacheStorage("fp16")}
EIGHT_BITS, GROUP = "8 bits, not offered", 64


def eight_bits(x: torch.Tensor) -> torch.Tensor:
    r"""x rounded to multiples of s = max \|x\| / 127, over each 64 numbers that lie side by side."""
    padded = torch.nn.functional.pad(x.flatten(), (0, -x.numel() % GROUP)).view(-1, GROUP)
    s = padded.abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny) / 127
    return ((padded / s).round() * s).flatten()[: x.numel()].view(x.shape)


class InEightBits:
    """A policy that caches what is left of outputs in eight bits."""

    def __init__(self, cache: CachedSteps) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def after(self, step: int, branch: str, output: Any) -> None:
        """Keep the rounded output."""
        rounded = pytree.tree_map_only(torch.Tensor, eight_bits, output)
        self._cache.after(step, branch, rounded)


def in_eight_bits(level: Level) -> Level:
    """The level over such a policy."""

    def made(target: Any, cache: CachedSteps) -> StepHook:
        rounding: Any = InEightBits(cache)
        return level(target, rounding)

    return made


@dataclass(frozen=True)
class Cell:
    """Of one way to keep outputs at one budget.

    Attributes:
        rmse: one a prompt.
        held: bytes at peak, of one batch.
    """

    rmse: NDArray[np.float64]
    held: float


class Runs:
    """Held-out pictures or clips of one demo.

    Args:
        name: of the demo.
        out: where its calibration is kept.
        samples: held-out prompts.
    """

    def __init__(self, name: str, out: Path, samples: int) -> None:
        registry = Registry()
        demo = find_demo(f"demo:{name}", registry)
        if demo is None:
            raise OtcacheError(f"demo:{name} is not installed: pip install 'otcache[video]'")
        self._pipe, self._call = demo.load(), demo.call
        self._probe = choose(registry, "probes", self._pipe)
        self._rmse = registry.create("metrics", "rmse")
        self._held = [text for text, _ in demo.prompts["heldout"]][:samples]
        self.policy = self._policy([text for text, _ in demo.prompts["calibration"]], out / name)
        self._full = self._sample()

    def cell(self, budget: int, attach: Callable[[Any, otcache.Schedule], Any]) -> Cell:
        """What comes out under an executor."""
        with attach(self._pipe, self.policy.schedule(budget)) as run:
            made = self._sample()
        assert not run.report.warnings, run.report.warnings
        return Cell(metric_values(self._rmse, made, self._full), run.report.peak_cached_bytes)

    def _policy(self, prompts: list[str], folder: Path) -> Policy:
        calibration = otcache.calibrate(
            self._pipe,
            prompts[:CALIBRATION_PROMPTS],
            N,
            recipe=RECIPE,
            directory=folder,
            progress=False,
            **self._call,
        )
        return otcache.plan(calibration)

    def _sample(self) -> NDArray[np.float64]:
        parts = [self._held[at : at + BATCH] for at in range(0, len(self._held), BATCH)]
        return np.concatenate([self._part(part) for part in parts]).astype(np.float64)

    def _part(self, prompts: list[str]) -> Any:
        request = SampleRequest(tuple(prompts), (SEED,) * len(prompts), N, self._call, BATCH)
        return self._probe.sample(self._pipe, request)


def ways(level: Level) -> dict[str, Callable[[Any, otcache.Schedule], Any]]:
    """How outputs are kept, by name."""

    def kept(storage: CacheStorage | None) -> Callable[[Any, otcache.Schedule], Any]:
        executor = TorchExecutor(level=level)
        return lambda pipe, schedule: executor.attach(pipe, schedule, storage=storage)

    found = {name: kept(storage) for name, storage in STORAGES.items()}
    return {**found, EIGHT_BITS: TorchExecutor(level=in_eight_bits(level)).attach}


def table(runs: Runs) -> list[str]:
    """One line a level, budget and way."""
    head = [
        "level",
        "B",
        "kept in",
        "RMSE",
        "difference to float32",
        "ratio to float32",
        "KiB held",
    ]
    lines = [f"| {' | '.join(head)} |", "|---|--:|---|---|---|---|--:|"]
    for level, of_target in LEVELS.items():
        for budget in BUDGETS:
            cells = {name: runs.cell(budget, attach) for name, attach in ways(of_target).items()}
            base = cells["float32"]
            lines += [_line(level, budget, name, cell, base) for name, cell in cells.items()]
            print(*lines[-len(cells) :], sep="\n", flush=True)
    return [*lines, ""]


def _line(level: str, budget: int, name: str, cell: Cell, base: Cell) -> str:
    mean = mean_interval(cell.rmse)
    held = base.held * (1 + 4 / GROUP) / 4 if name == EIGHT_BITS else cell.held
    words = [level, str(budget), name, f"{mean.mean:.5f} [{mean.low:.5f}, {mean.high:.5f}]"]
    if cell is base:
        words += ["", ""]
    else:
        d, r = paired_difference(cell.rmse, base.rmse), paired_ratio(cell.rmse, base.rmse)
        words.append(f"{d.mean:+.6f} [{d.low:+.6f}, {d.high:+.6f}]")
        words.append(f"{r.mean:.3f} [{r.low:.3f}, {r.high:.3f}]")
    return f"| {' | '.join([*words, f'{held / 1024:.1f}'])} |"


def preamble(samples: int, demos: list[str]) -> list[str]:
    """What a reader must know."""
    return [
        "# Outputs kept in fewer bits, or on the host",
        "",
        f"Made by `nox -s bench -- cache_storage OUT{' --video' if 'video' in demos else ''}`: a demo "
        f"pipeline in float32, N = {N}, one policy of a small calibration "
        f"({CALIBRATION_PROMPTS} prompts), {samples} held-out prompts.",
        "RMSE of decoded pictures in [0, 1] against the full run, mean over prompts; in brackets 95 %",
        "bootstrap intervals over prompts, those of differences and ratios paired. *KiB held* is the peak",
        f"of cached outputs of {BATCH} pictures or clips at once.",
        "",
        "```python",
        'with otcache.accelerate(pipe, policy, 10, storage=otcache.CacheStorage("bf16")) as run:',
        "    picture = pipe(prompt).images[0]",
        'with otcache.accelerate(pipe, policy, 10, storage=otcache.CacheStorage(device="cpu")) as run:',
        "    picture = pipe(prompt).images[0]",
        "```",
        "",
    ]


#: What stands in the document and no program can tell.
ADVICE = """\
## What to choose

- **Leave it** unless memory is short: whole outputs are as large as the latent, a few MB for a clip of
  720p. Block stacks (`executor="torch-blocks"`) hold hidden states, which are some hundred times larger.
- **A model in bf16 or fp16** returns 16 bits already: `bf16` and `fp16` change nothing there, since only
  wider tensors are cast. The host is what saves memory.
- **A model in float32**: `fp16` and `bf16` take half the bytes. fp16 has the finer digits (2^-11 against
  2^-8) and the smaller range: an output beyond 65504 is told in the report, and bf16 is the answer to
  it.
- **A velocity prediction** (`prediction_type="v_prediction"`) is kept as noise, in float32 whatever the
  model's type, and regained by a division by the share of signal, which magnifies rounding at high
  noise: on a random network (no guidance, a third to a fifth of the steps computed) bf16 moved latents
  by 0.2 to 0.9 % of their spread and fp16 by 0.03 to 0.12 %, with and without a zero terminal signal,
  where reuse itself moved them by 12 to 130 %. Choose `fp16`.
- **The host** costs no quality: what comes back is what went, bit for bit, if no type is named. A
  skipped step waits for the copies of its outputs and for nothing else; they go through pinned memory,
  on the stream of the pipeline, and the program does not wait. Torch hands out pinned memory in powers
  of two. Outputs that are on the CPU already stay as they are.
- **Eight bits** (a scale for every 64 numbers) is not offered: where a third of the steps or more is
  computed, skipping itself errs so little that eight bits show in the result.
- **What the calibration is too small for**: four prompts price storage, not quality. On the clips errors of
  its rungs stop falling above B = 8, so those are left out, and B = 15 is extrapolated: its error is ten
  times that of a policy of eight prompts (docs/demo-video.md).

## What holds in every mode

A computed step returns the denoiser's very output, so a schedule that computes everything gives the
plain bits. Tensors that are narrower than asked, and integers, booleans and complex numbers, keep their
type. Forecasts are summed in float32 and cast once, so that with p bits of significand (8, 11) they are
within sum_r |A_r| 2^-p |v_r| of those from outputs kept as they are. What is packed is a copy: a sampler
that writes into the denoiser's outputs is accelerated too, where otherwise its steps are computed.
`run.report` gives `storage`, `cached_bytes` and `peak_cached_bytes` on the device, `cached_host_bytes`
and `peak_cached_host_bytes` on the host; `otcache estimate --dtype` counts bytes before there is a
pipeline.
"""


def main() -> None:
    """Measure, keep each demo's table, write all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=12, help="held-out prompts")
    parser.add_argument("--video", action="store_true", help="the video demo too")
    asked = parser.parse_args()
    demos = ["image", "video"] if asked.video else ["image"]
    lines = preamble(asked.samples, demos)
    for name in demos:
        kept = asked.out / f"{name}-{asked.samples}.json"
        if not kept.exists():
            rows = table(Runs(name, asked.out, asked.samples))
            kept.write_text(json.dumps(rows), encoding="utf-8")
        lines += [
            f"## The {name} demo, {GUIDANCE[name]} guidance",
            "",
            *json.loads(kept.read_text(encoding="utf-8")),
        ]
    (asked.out / "cache-storage.md").write_text("\n".join([*lines, ADVICE]), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
