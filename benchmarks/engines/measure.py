"""Run an engine's pipelines, accelerated and calibrated: ``python -m engines.measure ENGINE OUT``.

OUT/ENGINE.json has the figures of docs/engines.md, and what it has is not measured again; about fifteen
minutes on one core.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import otcache
from engines.exports import CASES, Case, exported, sources
from otcache_core import Schedule
from otcache_core.transport import uniform_steps
from otcache_diffusers import demo

LIBRARIES = {
    "onnxruntime": ("optimum-onnx", "onnxruntime", "diffusers"),
    "openvino": ("optimum-intel", "openvino", "diffusers"),
}
CALIBRATION = [text for text, _ in demo.prompts()["calibration"]][:4]
HELD_OUT = [text for text, _ in demo.prompts()["heldout"]][:4]
#: N divided by it is the budget.
DIVISOR = 3
#: Runs of each kind that are timed, in turns.
TIMED = 5


class Runs:
    """Runs of one case.

    Args:
        pipe: its pipeline.
        case: what is called.

    Attributes:
        denoiser: the pipeline's.
        calls: of the engine, counted at the denoiser's ``forward``.
    """

    def __init__(self, pipe: Any, case: Case) -> None:
        self.pipe, self.case, self.calls = pipe, case, 0
        self.denoiser = pipe.transformer if case.kind == "FluxPipeline" else pipe.unet

    def sample(self, schedule: Schedule | None = None, prompts: list[str] = HELD_OUT) -> Tensor:
        """Return the final latents of prompts, one call each, and count what the engine computes."""
        context: AbstractContextManager[Any] = nullcontext()
        if schedule is not None:
            context = otcache.accelerate(self.pipe, schedule, strict=True)
        with self._counted(), context:
            return torch.cat([self.latents(prompt, n) for n, prompt in enumerate(prompts)])

    def latents(self, prompt: str, seed: int) -> Tensor:
        """Return the final latents of one prompt."""
        call = {
            "num_inference_steps": self.case.steps,
            "generator": torch.Generator().manual_seed(1000 + seed),
            "output_type": "latent",
            "return_dict": False,
        }
        with torch.no_grad():
            made: Tensor = self.pipe(prompt, **self.case.call, **call)[0]
            return made

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.calls, forward = 0, self.denoiser.forward

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return forward(*args, **kwargs)

        self.denoiser.forward = counting
        try:
            yield
        finally:
            del self.denoiser.forward


def measured(pipe: Any, case: Case) -> dict[str, Any]:
    """Return the figures of one row; an error is one, too."""
    runs = Runs(pipe, case)
    row: dict[str, Any] = {
        "kind": case.kind,
        "pipeline": type(pipe).__name__,
        "denoiser": type(runs.denoiser).__name__,
    }
    row |= {"note": case.note, "steps": case.steps, "failed": ""}
    known = set(vars(runs.denoiser))
    try:
        row |= _figures(runs)
    except Exception as error:  # a row of its own: the other cases are measured all the same
        row["failed"] = f"{type(error).__name__}: {error}"
    added = set(vars(runs.denoiser)) - known - {"_diffusers_hook"}  # diffusers' own
    row["left"] = sorted(added) + [type(runs.denoiser).__name__] * (
        row["denoiser"] != type(runs.denoiser).__name__
    )
    return row


def _figures(runs: Runs) -> dict[str, Any]:
    n = runs.case.steps
    budget = n // DIVISOR
    full = runs.sample()
    calls = runs.calls
    same = torch.equal(runs.sample(Schedule(n, tuple(range(n)))), full)
    begun = time.perf_counter()
    calibration = otcache.calibrate(runs.pipe, CALIBRATION, n, progress=False, **runs.case.call)
    took = time.perf_counter() - begun
    planned = otcache.plan(calibration).schedule(budget=budget)
    errors = {"otcache": _rmse(runs.sample(planned), full)}
    computed = runs.calls
    reuse = Schedule(n, uniform_steps(n, budget))
    errors["uniform reuse"] = _rmse(runs.sample(reuse), full)
    return {
        "budget": budget,
        "same": same,
        "calls": [computed, calls],
        "errors": errors,
        "calibration": round(took, 1),
        "seconds": _seconds(runs, planned),
    }


def _rmse(made: Tensor, full: Tensor) -> float:
    """Return the geometric mean over samples of the RMSE."""
    each = (made - full).double().flatten(1).square().mean(1).sqrt()
    return float(each.clamp(min=1e-9).log().mean().exp())


def _seconds(runs: Runs, schedule: Schedule) -> list[float]:
    """Return the median seconds of a full run and of one on a schedule, timed in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMED):
        for values, context in zip(
            times, (nullcontext(), otcache.accelerate(runs.pipe, schedule)), strict=True
        ):
            with context:
                begun = time.perf_counter()
                runs.latents(HELD_OUT[0], 0)
                values.append(time.perf_counter() - begun)
    return [round(statistics.median(values), 3) for values in times]


def main(engine: str, out: Path) -> None:
    """Measure the cases of an engine that its file does not have yet."""
    file, saved = out / f"{engine}.json", sources(out / engine)
    versions = {name: version(name) for name in LIBRARIES[engine]}
    result: dict[str, Any] = {"engine": engine, "versions": versions, "rows": []}
    result |= {"samples": len(HELD_OUT), "timed": TIMED, "cores": os.cpu_count()}
    if file.is_file():
        result["rows"] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    known = {(row["kind"], row["note"]) for row in result["rows"]}
    for case in CASES:
        if (case.kind, case.note) in known or (case.binding and engine != "onnxruntime"):
            continue
        pipe = exported(engine, saved[case.source], out / engine / f"{case.source}-exported", case)
        result["rows"].append(measured(pipe, case))
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
