"""How much a demo does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from otcache.calibration.recipe import Recipe


@dataclass(frozen=True)
class DemoSettings:
    """How much the demo does.

    Args:
        pipeline: which demo, as the command line names it.
        num_steps: N.
        budgets: B of the table's groups.
        calibration_prompts: prompts the policy is made from.
        heldout_prompts: prompts of the table, none of them seen in calibration.
        seeds: seeds of every held-out prompt; calibration uses others.
        recipe: of the calibration.
        lemica_prompts: calibration prompts from which the LeMiCa rule's costs are measured; each
            takes about N^2/6 full runs.
        samplers: baselines that run fewer steps of another sampler.
        metrics: of the table; none for all that are usual for what the pipeline makes.
        call: arguments of the pipeline call that are other than the demo's.
    """

    pipeline: str = "demo"
    num_steps: int = 30
    budgets: tuple[int, ...] = (5, 6, 8, 10, 15)
    calibration_prompts: int = 8
    heldout_prompts: int = 16
    seeds: tuple[int, ...] = (1000, 1001)
    recipe: Recipe = field(default_factory=lambda: Recipe(batch_size=16))
    lemica_prompts: int = 2
    samplers: tuple[str, ...] = ("fewer-steps-unipc",)
    metrics: tuple[str, ...] = ("rmse", "psnr", "ssim", "lpips")
    call: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def chosen(cls, *, video: bool, quick: bool) -> DemoSettings:
        """As the command line says."""
        if video:
            return cls.quick_video() if quick else cls.video()
        return cls.quick() if quick else cls()

    @classmethod
    def quick(cls) -> DemoSettings:
        """A minute's version: fewer steps, prompts, budgets and trials; its figures prove nothing."""
        recipe = Recipe(cost_samples=2, anchor_trials=6, climb_trials=2, batch_size=16)
        return cls(
            num_steps=20,
            budgets=(4, 8),
            calibration_prompts=2,
            heldout_prompts=4,
            seeds=(1000,),
            recipe=recipe,
            lemica_prompts=1,
        )

    @classmethod
    def video(cls) -> DemoSettings:
        """Clips: six to eight minutes on two cores; pricing LeMiCa's spans takes a third of them."""
        return cls(
            pipeline="demo:video",
            budgets=(5, 6, 10, 15),
            heldout_prompts=16,
            seeds=(1000,),
            recipe=Recipe(batch_size=16),
            samplers=("fewer-steps-adams-bashforth", "fewer-steps-unipc"),
            metrics=(),
        )

    @classmethod
    def quick_video(cls) -> DemoSettings:
        """Clips in two minutes; the figures prove nothing."""
        return cls(
            pipeline="demo:video",
            num_steps=12,
            budgets=(3, 6),
            calibration_prompts=2,
            heldout_prompts=4,
            seeds=(1000,),
            recipe=Recipe(cost_samples=2, anchor_trials=6, climb_trials=2, batch_size=8),
            lemica_prompts=1,
            samplers=("fewer-steps-adams-bashforth", "fewer-steps-unipc"),
            metrics=(),
        )
