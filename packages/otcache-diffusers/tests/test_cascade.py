"""The stages of a cascade run one after the other, each by a schedule of its own."""

from __future__ import annotations

import pytest
import torch
from families import Case, N, cascades

from otcache_core import Schedule
from otcache_diffusers.execution.executor import TorchExecutor

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
FIRST, SECOND = Schedule(N, (0, 1, 4)), Schedule(N, (0, 3))


def _stages() -> tuple[Case, Case]:
    return cascades.base(), cascades.super_resolution()


def _cascade(first: Case, second: Case) -> torch.Tensor:
    second.call = {**second.call, "image": first()}
    return second()


def test_each_stage_follows_its_own_schedule() -> None:
    first, second = _stages()
    with (
        TorchExecutor().attach(first.pipe, FIRST) as one,
        TorchExecutor().attach(second.pipe, SECOND) as two,
    ):
        together = _cascade(first, second)
    assert (one.report.computed, one.report.skipped) == ({"call": 3}, {"call": 3})
    assert (two.report.computed, two.report.skipped) == ({"call": 2}, {"call": 4})
    assert one.report.warnings == two.report.warnings == []
    with TorchExecutor().attach(first.pipe, FIRST):
        image = first()
    second.call = {**second.call, "image": image}
    with TorchExecutor().attach(second.pipe, SECOND):
        assert torch.equal(second(), together)


def test_accelerating_one_stage_leaves_the_other_as_it_is() -> None:
    first, second = _stages()
    plain = first()
    with TorchExecutor().attach(second.pipe, SECOND) as run:
        assert torch.equal(first(), plain)
        _cascade(first, second)
    assert run.report.runs == 1
    assert run.report.skipped == {"call": 4}


def test_the_noising_scheduler_of_the_second_stage_is_no_clock() -> None:
    _, second = _stages()
    noising = second.pipe.image_noising_scheduler
    before = dict(vars(noising))
    with TorchExecutor().attach(second.pipe, SECOND):
        second()
        assert vars(noising).keys() == before.keys()
