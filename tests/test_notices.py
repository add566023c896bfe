"""A calibration, and a context, give each notice once, at the user's line, and print nothing else."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import toy
from toy import STEPS, make_loop

import otcache
from otcache_core import OtcacheError, Provenance, Schedule

SCHEDULE = Schedule(STEPS, (0, 1, 4, 8))


@contextmanager
def _heard(capfd: Any, caplog: Any) -> Iterator[list[warnings.WarningMessage]]:
    """Collect what is said; fail on what is printed or logged besides."""
    with warnings.catch_warnings(record=True) as heard, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        yield heard
    texts = [str(warning.message) for warning in heard]
    assert len(texts) == len(set(texts))
    assert {warning.category for warning in heard} <= {otcache.OtcacheNotice}
    # The sampler is the user's, too.
    assert {warning.filename for warning in heard} <= {__file__, toy.__file__}
    assert [r.getMessage() for r in caplog.records if r.name.startswith("otcache")] == []
    assert capfd.readouterr() == ("", "")


def _calibrate(loop: otcache.Loop) -> None:
    recipe = otcache.Recipe(ladder=(4, 6), anchor_trials=2, climb_trials=2)
    otcache.calibrate(loop, ["a"], STEPS, seeds=range(2), recipe=recipe, progress=False)


def _unseeded() -> None:
    """Noise that no seed fixes: refused, and the reason is the error's."""
    seeded, random = make_loop(), torch.Generator().manual_seed(0)

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        return seeded(prompts, seeds, num_steps) + torch.randn(8, generator=random)

    with pytest.raises(OtcacheError):
        _calibrate(otcache.loop(sample, denoiser=seeded.denoiser, grid=seeded.grid))


@pytest.mark.parametrize(
    ("act", "most"),
    [
        (lambda: _calibrate(make_loop()), 0),
        (lambda: _calibrate(make_loop(two_step=True)), 0),
        (lambda: _calibrate(make_loop(noise=0.05)), 0),
        (lambda: _calibrate(make_loop(limit=0.5)), 1),
        (_unseeded, 1),
    ],
    ids=["plain", "two-step", "noisy", "clipping", "unseeded"],
)
def test_a_calibration_says_each_thing_once(
    act: Callable[[], None], most: int, capfd: Any, caplog: Any
) -> None:
    with _heard(capfd, caplog) as heard:
        act()
    assert len(heard) <= most


def test_a_context_says_once_that_its_runs_are_computed_in_full(capfd: Any, caplog: Any) -> None:
    loop = make_loop()
    with _heard(capfd, caplog) as heard, otcache.accelerate(loop, Schedule(STEPS + 1, (0,))):
        for _ in range(3):
            loop(["a"], [0], STEPS)
    assert ["it is computed in full" in str(warning.message) for warning in heard] == [True]


def test_a_context_says_once_that_a_policy_is_mapped(capfd: Any, caplog: Any) -> None:
    loop = make_loop()
    other = tuple((1 - i / STEPS) ** 3 for i in range(STEPS + 1))
    policy = otcache.Policy(SCHEDULE, SCHEDULE, Provenance(num_steps=STEPS, grid=other))
    with _heard(capfd, caplog) as heard, otcache.accelerate(loop, policy, 4):
        for _ in range(3):
            loop(["a"], [0], STEPS)
    assert ["the schedule is mapped" in str(warning.message) for warning in heard] == [True]


def test_a_context_without_a_run_says_so_at_its_own_line(capfd: Any, caplog: Any) -> None:
    with _heard(capfd, caplog) as heard, otcache.accelerate(make_loop(), SCHEDULE):
        pass
    assert ["made no run while it was accelerated" in str(w.message) for w in heard] == [True]
