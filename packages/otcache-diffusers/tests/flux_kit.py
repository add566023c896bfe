"""The conformance tests of a baseline on a tiny Flux, under true guidance or without guidance."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import tiny

from otcache_core.contracts import Baseline, SampleRequest
from otcache_core.plugins import Registry
from otcache_core.testing import BaselineConformance

N = 6
SIZE: dict[str, Any] = {"height": 16, "width": 16}
GUIDED = SIZE | {"negative_prompt": "b", "true_cfg_scale": 3.0}


class FluxLaws(BaselineConformance):
    """Give the baseline's name."""

    name: ClassVar[str]
    guided = True
    budgets = (3, 5)

    def make_baseline(self) -> Baseline:
        return Registry().create("baselines", self.name)

    def make_target(self) -> Any:
        return tiny.with_prompts(tiny.flux(cfg=self.guided)).pipe

    def request(self) -> SampleRequest:
        return SampleRequest(("red", "blue"), (0, 1), N, GUIDED if self.guided else SIZE)

    def run(self, target: Any, sample: int, num_steps: int) -> Any:
        return np.asarray(self._call(target, sample, num_steps))

    def traces(self, target: Any) -> Any:
        modules = [(name, sorted(vars(m))) for name, m in target.transformer.named_modules()]
        registry = vars(target.transformer).get("_diffusers_hook")
        kind = type(target)
        scheduler = (type(target.scheduler), sorted(vars(target.scheduler)))
        hooks = list(getattr(registry, "hooks", {}))
        return modules, hooks, scheduler, sorted(vars(kind)), id(kind.__call__)

    def break_off(self, target: Any, num_steps: int) -> None:
        def stop(pipe: Any, step: int, t: Any, kwargs: Any) -> Any:
            if step == num_steps // 2:
                raise InterruptedError
            return kwargs

        with pytest.raises(InterruptedError):
            self._call(target, 0, num_steps, callback_on_step_end=stop)

    def _call(self, target: Any, sample: int, num_steps: int, **more: Any) -> Any:
        ask = self.request()
        case = tiny.Case(target, dict(ask.call), ())
        return case(num_steps, ask.seeds[sample], prompt=ask.prompts[sample], **more)
