"""Run the baselines of cache-dit, which patches classes; cache_dit_kit.py writes down what was seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tiny
import torch
from torch import Tensor, nn

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.errors import ExecutionError
from otcache_core.loop import Loop
from otcache_core.plugins import Registry

N = 10
MASK = [1, 1, 0, 0, 1, 0, 1, 0, 0, 1]
THRESHOLD, WARMUP = 0.35, 2
MEASURED = {"calls_per_step": 2, "first_blocks": 1}
Figures = list[Tensor]


def baseline(name: str) -> Baseline:
    return Registry().create("baselines", name)


def setting(**values: Any) -> BaselineSetting:
    return BaselineSetting("", values, N)


BY_MASK = setting(steps_computation_mask=MASK, steps_computation_policy="static")
BY_THRESHOLD = setting(residual_diff_threshold=THRESHOLD, max_warmup_steps=WARMUP)


class Watch:
    """What a tiny Flux of two blocks shows, call by call, by hooks of torch's own."""

    def __init__(self) -> None:
        self.embedded: Figures = []
        self.after_first: Figures = []
        self.at_last: Figures = []
        self.worked: list[bool] = []

    @contextmanager
    def on(self, transformer: Any) -> Iterator[None]:
        first, second = transformer.transformer_blocks[0], transformer.single_transformer_blocks[0]
        handles = [
            transformer.x_embedder.register_forward_hook(self._begin),
            first.register_forward_hook(lambda m, a, out: self.after_first.append(out[1])),
            second.proj_mlp.register_forward_pre_hook(self._work),
            transformer.norm_out.register_forward_pre_hook(lambda m, a: self.at_last.append(a[0])),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.embedded.append(output)
        self.worked.append(False)

    def _work(self, module: nn.Module, args: Any) -> None:
        self.worked[-1] = True

    def branch(self, b: int) -> tuple[list[bool], Figures, Figures]:
        """Of every second call: whether the second block worked, and what each block added."""
        calls = range(b, len(self.worked), 2)
        first = [self.after_first[c] - self.embedded[c] for c in calls]
        second = [self.at_last[c] - self.after_first[c] for c in calls]
        return [self.worked[c] for c in calls], first, second


def watched(name: str, how: BaselineSetting) -> Watch:
    case, watch = tiny.flux(cfg=True), Watch()
    with baseline(name).apply(case.pipe, how, MEASURED), watch.on(case.denoiser):
        case(steps=N)
    return watch


def reused(watch: Watch) -> float:
    """How far skipped steps are from adding what the second block added in the same branch last."""
    worst = 0.0
    for worked, _, second in map(watch.branch, (0, 1)):
        for t, now in enumerate(worked):
            k = max(i for i in range(t + 1) if worked[i])
            if not now:
                worst = max(worst, float((second[t] - second[k]).abs().max()))
    return worst


def extrapolated(watch: Watch) -> float:
    """How far they are from the line through what it added in the last two computed steps.

    cache-dit takes slopes from step 3 on only.
    """
    worst = 0.0
    for worked, _, second in map(watch.branch, (0, 1)):
        for t, now in enumerate(worked):
            *_, j, k = [-1, *(i for i in range(t + 1) if worked[i])]
            if not now:
                slope = (second[k] - second[j]) / (k - j) if k > 2 else 0.0
                line = second[k] + (t - k) * slope
                worst = max(worst, float((second[t] - line).abs().max()))
    return worst


def expected(watch: Watch, b: int) -> list[bool]:
    """When DBCache computes: the first block's residual against that of the last computed step."""
    _, first, _ = watch.branch(b)
    found, k = list[bool](), 0
    for t, now in enumerate(first):
        d = (first[k] - now).abs().mean() / first[k].abs().mean()
        found.append(t < WARMUP or bool(d >= THRESHOLD))
        k = t if found[-1] else k
    return found


def counted(cfg: bool) -> dict[str, Any]:
    case = tiny.with_prompts(tiny.flux(cfg=cfg))
    call = {name: value for name, value in case.call.items() if name != "prompt"}
    request = SampleRequest(("red", "blue"), (0, 1), N, call)
    before = case(steps=4)
    scheduler = dict(vars(case.pipe.scheduler)).keys()
    found = dict(baseline("dbcache-mask").calibrate(case.pipe, request, (4, 8)))
    same = torch.equal(case(steps=4), before) and vars(case.pipe.scheduler).keys() == scheduler
    return {**found, "same": same}


def uneven() -> str:
    """Return a pipeline whose guidance ends half-way."""
    case = tiny.with_prompts(tiny.flux())
    transformer, forward = case.denoiser, type(case.denoiser).forward

    busy: list[int] = []

    def sometimes_twice(*args: Any, **kwargs: Any) -> Any:
        if not busy and case.pipe.scheduler.step_index in (None, 1):
            busy.append(1)
            transformer(*args, **kwargs)
            busy.clear()
        return forward(transformer, *args, **kwargs)

    transformer.forward = sometimes_twice
    request = SampleRequest(("red",), (0,), N, {"height": 16, "width": 16})
    try:
        baseline("dbcache").calibrate(case.pipe, request, (4,))
    except ExecutionError as error:
        return str(error)
    return ""


def reasons() -> dict[str, str]:
    net = tiny.Velocity()
    targets = {
        "flux": tiny.flux().pipe,
        "one block": tiny.qwen().pipe,
        "unet": tiny.sdxl().pipe,
        "loop": Loop(tiny.euler_sampler(net), net),
        "module": net,
    }
    request = SampleRequest(("a",), (0,), N)
    return {name: baseline("dbcache").supports(target, request) for name, target in targets.items()}


def facts() -> str:
    """Return what was seen, as JSON."""
    mask = watched("dbcache-mask", BY_MASK)
    dynamic = watched("dbcache", BY_THRESHOLD)
    taylor = watched("dbcache-taylorseer", BY_THRESHOLD)
    nothing = watched("dbcache", setting(residual_diff_threshold=1e-9, max_warmup_steps=1))
    settings = {
        name: [
            (s.label, s.num_steps, s.computed)
            for s in baseline(name).settings(30, (5, 10, 15), {"share": 0.1})
        ]
        for name in ("dbcache", "dbcache-taylorseer", "dbcache-mask")
    }
    seen = {
        "mask": [mask.branch(b)[0] for b in (0, 1)],
        "mask reused": reused(mask),
        "dynamic": [dynamic.branch(b)[0] for b in (0, 1)],
        "dynamic expected": [expected(dynamic, b) for b in (0, 1)],
        "dynamic reused": reused(dynamic),
        "taylor": [taylor.branch(b)[0] for b in (0, 1)],
        "taylor reused": reused(taylor),
        "taylor extrapolated": extrapolated(taylor),
        "all computed": nothing.worked,
        "two calls": counted(cfg=True),
        "one call": counted(cfg=False),
        "uneven": uneven(),
        "settings": settings,
        "sources": [baseline(name).source for name in settings],
        "reasons": reasons(),
    }
    return json.dumps(seen)
