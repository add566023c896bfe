"""The baselines that take fewer steps, one a sampler."""

from __future__ import annotations

from typing import final

from otcache_diffusers.baselines.fewer_steps.adams_bashforth import AdamsBashforth
from otcache_diffusers.baselines.fewer_steps.baseline import FewerSteps
from otcache_diffusers.baselines.fewer_steps.borrowed import DPMPP, EULER, HEUN, UNIPC
from otcache_diffusers.baselines.fewer_steps.own import Own
from otcache_diffusers.baselines.fewer_steps.sampler import FewStepSampler

#: By the last part of the baseline's name.
SAMPLERS: dict[str, FewStepSampler] = {
    "own": Own(),
    "euler": EULER,
    "adams-bashforth": AdamsBashforth(),
    "dpmpp": DPMPP,
    "unipc": UNIPC,
    "heun": HEUN,
}


@final
class FewerStepsOwn(FewerSteps):
    """The pipeline's own sampler, or the user's own loop, on B steps."""

    @property
    def sampler(self) -> FewStepSampler:
        return SAMPLERS["own"]


@final
class FewerStepsEuler(FewerSteps):
    """Euler on B steps."""

    @property
    def sampler(self) -> FewStepSampler:
        return SAMPLERS["euler"]


@final
class FewerStepsAdamsBashforth(FewerSteps):
    """Two-step Adams-Bashforth on B steps."""

    @property
    def sampler(self) -> FewStepSampler:
        return SAMPLERS["adams-bashforth"]


@final
class FewerStepsDPMPP(FewerSteps):
    """DPM-Solver++(2M) on B steps."""

    @property
    def sampler(self) -> FewStepSampler:
        return SAMPLERS["dpmpp"]


@final
class FewerStepsUniPC(FewerSteps):
    """UniPC of order 2 on B steps."""

    @property
    def sampler(self) -> FewStepSampler:
        return SAMPLERS["unipc"]


@final
class FewerStepsHeun(FewerSteps):
    """Heun's method with B evaluations."""

    @property
    def sampler(self) -> FewStepSampler:
        return SAMPLERS["heun"]
