"""The conformance kit of an installed plugin, on toy problems, loops and images."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from otcache_core.contracts import Forecaster, Metric, SampleRequest
from otcache_core.errors import OtcacheError
from otcache_core.loop import Loop
from otcache_core.plugins.info import ANY
from otcache_core.schedule import Span
from otcache_core.testing import (
    BaselineConformance,
    Conformance,
    CostModelConformance,
    ExecutorConformance,
    ForecasterConformance,
    MetricConformance,
    NotApplicable,
    ProbeConformance,
    PromptMetricConformance,
    SetMetricConformance,
    SolverConformance,
    ToySampler,
    VideoMetricConformance,
    VideoWriterConformance,
    toy_loop,
)
from otcache_core.testing.toy import even_grid

Make = Callable[[], Any]
Kit = type[Conformance]
STEPS = 6
REQUEST = SampleRequest(("a cat", "a dog"), (0, 1), STEPS, batch_size=2)
METRICS: dict[str, Kit] = {
    "pairs": MetricConformance,
    "videos": VideoMetricConformance,
    "prompts": PromptMetricConformance,
    "set": SetMetricConformance,
}
NO_ANSWER = "it takes a value derived without the metric, which only a test of its package has"
NO_DECODER = "it reads the file again, which only a test of its package can"
#: Heights and widths of images to try: some metrics refuse small ones.
SIZES = (64, 192, 256)


def kit_of(kind: str, make: Make, plugin: Any) -> Kit | str:
    """Return the kit that checks a plugin, or why there is none.

    Args:
        kind: of the plugin.
        make: makes a fresh plugin.
        plugin: a fresh one, to see what it works on.
    """
    match kind:
        case "solvers":
            return _kit(SolverConformance, make_solver=lambda _: make())
        case "cost_models":
            return _kit(CostModelConformance, make_cost_model=lambda _: make())
        case "forecasters":
            return _kit(ForecasterConformance, make_forecaster=lambda _: make(), **_weights(plugin))
        case "metrics":
            return _metric_kit(plugin, make)
        case "probes" | "executors" | "baselines":
            return _target_kit(kind, plugin, make)
        case "writers":
            return _kit(
                VideoWriterConformance, make_writer=lambda _: make(), decode=_not_known(NO_DECODER)
            )
    return f"{kind} have no conformance kit here"


def _kit(base: Kit, **hooks: Any) -> Kit:
    return type(f"Checked{base.__name__}", (base,), hooks)


def _not_known(reason: str) -> Callable[..., Any]:
    def hook(*_: object) -> Any:
        raise NotApplicable(reason)

    return hook


def _weights(forecaster: Forecaster) -> dict[str, Any]:
    """Return weights of spans, for a forecaster that reads some; one that fails otherwise fails checks."""
    try:
        forecaster.coefficients(Span(0, 3), np.linspace(1.0, 0.0, STEPS + 1))
    except OtcacheError:
        return {"weights": lambda _, history: tuple(0.5 / (r + 1) for r in range(1 + history))}
    except ANY:
        return {}
    return {}


def _metric_kit(metric: Metric, make: Make) -> Kit | str:
    base = METRICS.get(metric.takes)
    if base is None:
        return f"its attribute 'takes' is {metric.takes!r}, which is none of {', '.join(METRICS)}"
    hooks: dict[str, Any] = {
        "make_metric": lambda _: make(),
        "expected_values": _not_known(NO_ANSWER),
    }
    if base is MetricConformance:
        hooks["shape"] = next((s for s in map(_shape, SIZES) if _takes(metric, s)), _shape(64))
    return _kit(base, **hooks)


def _shape(size: int) -> tuple[int, int, int]:
    return (size, size, 3)


def _takes(metric: Any, shape: tuple[int, int, int]) -> bool:
    """Return whether a metric takes images of this shape; one that fails at all of them fails checks."""
    images = np.random.default_rng(0).random((1, *shape))
    try:
        metric(images, images)
    except ANY:
        return False
    return True


def _target_kit(kind: str, plugin: Any, make: Make) -> Kit | str:
    """Return the kit of a plugin that works on a target, on a toy loop that it supports."""
    request = (REQUEST,) if kind == "baselines" else ()
    target = target_for(type(plugin))
    reason = plugin.supports(target(), *request)
    if reason:
        return f"it works on no toy loop, so that only a test of its package can: {reason}"
    hooks = {"make_target": lambda _: target(), "request": lambda _: REQUEST, "traces": _traces}
    if kind == "probes":
        finals = {"final_latents": lambda _, loop, request: _run(loop, request)}
        return _kit(ProbeConformance, make_probe=lambda _: make(), **hooks, **finals)
    if kind == "baselines":
        runs = {"run": _run_one, "break_off": _break_off, "calls": _calls}
        return _kit(BaselineConformance, make_baseline=lambda _: make(), **hooks, **runs)
    return _kit(
        ExecutorConformance,
        make_executor=lambda _: make(),
        make_target=hooks["make_target"],
        run=lambda _, loop: _run(loop, REQUEST),
        denoiser=lambda _, loop: loop.denoiser,
        calls=_calls,
        num_steps=STEPS,
    )


def _run(loop: Any, request: SampleRequest) -> Any:
    return np.asarray(loop(request.prompts, request.seeds, request.num_steps))


def _run_one(_: object, loop: Any, sample: int, num_steps: int) -> Any:
    one = slice(sample, sample + 1)
    return np.asarray(loop(REQUEST.prompts[one], REQUEST.seeds[one], num_steps))


def _break_off(_: object, loop: Any, num_steps: int) -> None:
    with suppress(InterruptedError):
        loop(REQUEST.prompts[:1], REQUEST.seeds[:1], num_steps, stop=num_steps // 2 + 1)


def _calls(_: object, loop: Any) -> int:
    return int(loop.denoiser.worked)


def _traces(_: object, loop: Any) -> Any:
    """Return what could be left behind: attributes and hooks."""
    module = loop.denoiser
    hooks = [len(value) for name, value in sorted(vars(module).items()) if name.endswith("_hooks")]
    return sorted(vars(loop)), sorted(vars(module)), hooks


def target_for(plugin: type) -> Callable[[], Loop]:
    """Return what makes toy loops for a class: of tensors where its package has imported torch.

    The facade's own baselines run by the installed executors, and ours takes tensors.
    """
    package = plugin.__module__.partition(".")[0]
    ours = package == __name__.partition(".")[0]
    if ours:
        with suppress(ImportError):
            importlib.import_module("torch")
    torch = sys.modules.get("torch")
    own = [module for name, module in sys.modules.items() if name.partition(".")[0] == package]
    if torch is not None and (ours or any(getattr(m, "torch", None) is torch for m in own)):
        return lambda: tensor_loop(torch)
    return toy_loop


def tensor_loop(torch: Any) -> Loop:
    """Return a fresh loop as :func:`~otcache_core.testing.toy` makes it, around a torch module.

    Args:
        torch: the library, which this package does not import itself.
    """
    sampler = ToySampler()

    class Denoiser(torch.nn.Module):  # type: ignore[misc]  # of a library that is not imported here
        """Computes the velocity of the toy sampler, and counts."""

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.worked = 0

        def forward(self, x: Any, s: float) -> Any:
            """Return v(x, s), shape (samples, d)."""
            self.worked += 1
            return torch.from_numpy(sampler.velocity(x.numpy(), s)).to(x.dtype)

    denoiser = Denoiser()

    def sample(
        prompts: Sequence[str], seeds: Sequence[int], num_steps: int, stop: int | None = None
    ) -> Any:
        starts = [np.random.default_rng(seed).standard_normal(sampler.dim) for seed in seeds]
        x = torch.from_numpy(np.stack(starts)).float()
        for step, (s, after) in enumerate(itertools.pairwise(even_grid(num_steps).tolist())):
            if step == stop:
                raise InterruptedError
            x = x + (after - s) * made.denoiser(x, s)
        return x

    made = Loop(sample, denoiser, lambda num_steps: even_grid(num_steps).tolist())
    return made
