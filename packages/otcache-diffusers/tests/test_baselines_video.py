"""Baselines on a video pipeline, Wan: the kit, what is really skipped, and reasons of those that cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from wan_kit import LAYERS, N, WanLaws, added, ladder, pipeline, request, run, sampled, tails

from otcache_core.plugins import Registry


class TestFirstBlockCache(WanLaws):
    name = "first-block-cache"


class TestTaylorSeer(WanLaws):
    name = "taylorseer"


class TestSeaCache(WanLaws):
    name = "sea-cache"


class TestUniPC(WanLaws):
    name = "fewer-steps-unipc"


@pytest.mark.parametrize("setting", [0, 1])
def test_mag_cache_computes_the_steps_it_says_and_adds_what_each_branch_added(setting: int) -> None:
    branches, said, _ = run("mag-cache", setting)
    assert said.computed is not None
    for calls in branches:
        computed = [k for k, call in enumerate(calls) if call.worked]
        assert tuple(computed) == said.computed
        assert {tuple(calls[k].worked) for k in computed} == {tuple(range(LAYERS))}
        for k in set(range(N)) - set(computed):
            last = max(n for n in computed if n < k)
            torch.testing.assert_close(added(calls[k]), added(calls[last]), atol=1e-5, rtol=1e-5)
    first, second = branches
    assert not torch.allclose(added(first[0]), added(second[0]))


def test_first_block_cache_runs_the_first_block_and_adds_what_the_others_added() -> None:
    rungs = len(ladder("first-block-cache", pipeline())[1])
    branches, _, plain = run("first-block-cache", rungs - 1)
    for calls in branches:
        known = tails(calls, plain)
        for k, call in enumerate(calls):
            if call.worked == [0]:
                torch.testing.assert_close(known[k], known[k - 1], atol=1e-5, rtol=1e-5)
            else:
                assert call.worked == list(range(LAYERS))
        assert [0] in [call.worked for call in calls]


@pytest.mark.parametrize("setting", [0, 1])
def test_taylorseer_computes_attention_and_feed_forward_at_the_steps_it_says(setting: int) -> None:
    branches, said, _ = run("taylorseer", setting)
    for calls in branches:
        computed = tuple(k for k, call in enumerate(calls) if call.worked)
        assert computed == said.computed
        for k, call in enumerate(calls):
            assert call.worked == (list(range(LAYERS)) if k in computed else [])


def test_baselines_that_cannot_run_on_wan_say_why() -> None:
    pipe, registry = pipeline(), Registry()
    reasons = {
        name: registry.create("baselines", name).supports(pipe, request())
        for name in ("pab", "faster-cache", "teacache")
    }
    assert "keeps one cache for both branches" in reasons["pab"]
    assert "guides by two calls" in reasons["faster-cache"]
    assert "has no block whose norm1 is given the timestep" in reasons["teacache"]


@pytest.mark.parametrize("name", ["first-block-cache", "mag-cache", "taylorseer", "sea-cache"])
def test_caches_of_one_transformer_refuse_two(name: str) -> None:
    assert "two transformers" in Registry().create("baselines", name).supports(
        pipeline(True), request()
    )


def test_fewer_steps_run_on_two_transformers() -> None:
    pipe = pipeline(two=True)
    baseline = Registry().create("baselines", "fewer-steps-own")
    assert baseline.supports(pipe, request()) == ""
    (setting,) = baseline.settings(N, (4,), {})
    with baseline.apply(pipe, setting, {}):
        made = sampled(pipe, 0, setting.num_steps)
    np.testing.assert_array_equal(made, sampled(pipe, 0, 4))
