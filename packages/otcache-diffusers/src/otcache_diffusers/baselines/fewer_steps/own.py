"""The sampler a pipeline has already."""

from __future__ import annotations

from typing import Any, final

from otcache_diffusers.baselines.fewer_steps.sampler import FewStepSampler
from otcache_diffusers.compat import DIFFUSERS


@final
class Own(FewStepSampler):
    """The pipeline as it is, or the user's own loop, called with fewer steps."""

    @property
    def source(self) -> str:
        return f"{DIFFUSERS}, the pipeline's own sampler"

    def why_not(self, own: Any) -> str:
        return ""

    def scheduler(self, own: Any) -> Any:
        return own
