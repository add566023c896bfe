"""What the baselines of cache-dit have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.errors import ExecutionError, expected
from otcache_diffusers.baselines.dbcache.attached import attached
from otcache_diffusers.baselines.dbcache.counting import calls_per_step
from otcache_diffusers.baselines.dbcache.library import first_blocks, installed, library, unfit


class CacheDiT(Baseline):
    """A cache of cache-dit on the blocks its own adapter names for the pipeline.

    At every step the first F blocks are computed, at skipped ones nothing after them but what follows the
    blocks: the residual of the others is reused. ``enable_separate_cfg`` is set as the pipeline calls its
    denoiser, which a calibration run counts: by default cache-dit takes Flux for one call a step, and
    under true guidance compares each branch with the other.

    References:
        https://github.com/vipshop/cache-dit
    """

    @abstractmethod
    def calibrator(self, library: Any) -> Any:
        """A ``CalibratorConfig`` of cache-dit, or None."""

    def supports(self, target: Any, request: SampleRequest) -> str:
        return unfit(target)

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        """One full run.

        Returns:
            ``calls_per_step``; ``first_blocks``, F; ``nfe``; and what :meth:`more` adds.
        """
        calls = calls_per_step(target, request)
        known = {"calls_per_step": calls, "first_blocks": first_blocks(target)}
        known["nfe"] = request.num_steps
        return {**known, **self.more(target, request, known)}

    def more(
        self, target: Any, request: SampleRequest, known: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """What else a baseline calibrates, given what all of them do."""
        return {}

    @contextmanager
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> Iterator[None]:
        if "calls_per_step" not in measured:
            raise ExecutionError(
                expected("measured", sorted(measured), "what calibrate() returned")
            )
        module = library()
        config = module.DBCacheConfig(
            Fn_compute_blocks=measured["first_blocks"],
            Bn_compute_blocks=0,
            enable_separate_cfg=measured["calls_per_step"] == 2,
            **setting.values,
        )
        with attached(target, config, self.calibrator(module)):
            yield


def source_of(rule: str) -> str:
    """The library, its version and what it calls the rule."""
    return f"cache-dit {installed() or '(not installed)'}, {rule}"
