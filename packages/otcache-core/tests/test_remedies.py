"""What an error advises is done here, and the error is gone."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from otcache_core import (
    MismatchError,
    OtcacheError,
    OtcacheNotice,
    Policy,
    Provenance,
    Schedule,
)
from otcache_core.contracts import Evaluator
from otcache_core.errors import ExecutionError
from otcache_core.loop import Loop
from otcache_core.numbers import integer
from otcache_core.testing import ToyEvaluator, ToySampler

GRID = tuple(np.linspace(1.0, 0.0, 7).tolist())


def policy(**facts: Any) -> Policy:
    given = {"model_class": "Toy", "guidance": 3.5, "num_steps": 6, "grid": GRID}
    ends = Schedule(6, (0, 3)), Schedule(6, (0, 1, 3, 4))
    return Policy(*ends, Provenance.from_dict({**given, **facts}))


@pytest.mark.remedy(
    "so nothing shows that it measures what the probe recorded: implement Evaluator.repl"
)
def test_an_evaluator_of_ones_own_implements_replay() -> None:
    class Without(ToyEvaluator):
        replay = Evaluator.replay

    sampler = ToySampler(num_steps=4)
    with pytest.raises(OtcacheError, match=r"implement Evaluator\.replay"):
        Without(sampler).replay([0])
    assert ToyEvaluator(sampler).replay([0]).shape == (1,)


@pytest.mark.remedy("{}: calibrate again, or leave strict off to map it")
@pytest.mark.remedy("{} under strict: calibrate again, or leave strict off to map it")
@pytest.mark.remedy("a policy holds for the model it was measured on; calibrate again")
def test_a_policy_is_calibrated_again_or_mapped() -> None:
    with pytest.raises(MismatchError, match="leave strict off to map it"):
        policy().schedule(3, num_steps=9, strict=True)
    with pytest.warns(OtcacheNotice, match="the schedule is mapped"):
        assert policy().schedule(3, num_steps=9).num_steps == 9
    again = policy(num_steps=6)
    assert again.schedule(3, num_steps=6, strict=True).budget == 3
    with pytest.raises(MismatchError, match="under strict: calibrate again"):
        policy().check({"guidance": 7.5}, strict=True)
    assert len(policy().check({"guidance": 7.5})) == 1
    assert policy(guidance=7.5).check({"guidance": 7.5}, strict=True) == []
    with pytest.raises(MismatchError, match="measured on; calibrate again"):
        policy().check({"model_class": "Other"})
    assert policy(model_class="Other").check({"model_class": "Other"}) == []


@pytest.mark.remedy(
    "this loop is already accelerated or recorded by otcache: leave that context first"
)
def test_a_loop_is_left_before_it_is_entered_again() -> None:
    class Observer:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    loop = Loop(lambda: None, lambda x: x)
    loop.observe(Observer())
    with pytest.raises(ExecutionError, match="leave that context first"):
        loop.observe(Observer())
    loop.observe(None)
    loop.observe(Observer())


@pytest.mark.remedy("give {}.")
def test_the_integer_that_is_named_is_taken() -> None:
    with pytest.raises(OtcacheError, match=r"give 12\.$") as refused:
        integer("num_steps", np.float32(12), 1)
    named = re.search(r"give (\d+)\.$", str(refused.value))
    assert named is not None
    assert integer("num_steps", int(named[1]), 1) == 12
