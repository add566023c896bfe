"""The executor's conformance tests on every family of video pipelines."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from video_families import FAMILIES, cosmos, hunyuan, wan

from otcache_core import Schedule
from otcache_core.errors import OtcacheNotice
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks import drive
from otcache_diffusers.recording.recorder import Recorder
from otcache_diffusers.testing import Family, FamilyLaws, Outputs, Runs, same_tensors

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class TestVideoFamilies(FamilyLaws):
    title = "Video"

    @pytest.fixture(scope="class", params=FAMILIES, ids=lambda family: family.name)
    def family(self, request: pytest.FixtureRequest) -> Family:
        made: Family = request.param
        return made

    def test_recording_changes_nothing_and_keeps_what_the_sampler_saw(
        self, runs: Runs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case, plain = runs.case, runs.plain
        seen = _watch(case.pipe.scheduler, monkeypatch)
        recorder = Recorder()
        with drive(case.pipe, recorder):
            assert torch.equal(case(), plain)
        assert recorder.run is not None
        assert (recorder.completed, recorder.warnings) == (1, [])
        (run,) = recorder.trajectories(["video"], recorder.run.grid)
        assert run.calls == dict.fromkeys(case.branches, case.steps)
        assert len(seen) == run.num_steps == case.steps
        assert len(run.states) == case.steps + 1
        np.testing.assert_array_equal(run.states[-1], seen[-1][2])
        for step, (state, output, _) in enumerate(seen):
            np.testing.assert_array_equal(run.states[step], state)
            if not case.reuses_noise:  # a velocity prediction is kept as noise
                np.testing.assert_array_equal(run.outputs[step], output)
            assert run.outputs[step].shape == output.shape


def _watch(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, ...]]:
    """x_t, v_t and x_{t+1} of each step of a scheduler, flattened copies."""
    original, seen = type(scheduler).step, []
    parameters = inspect.signature(original)

    @functools.wraps(original)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(self, *args, **kwargs).arguments
        before = [given[name].clone() for name in ("sample", "model_output")]
        made = original(self, *args, **kwargs)
        following = made[0] if isinstance(made, tuple) else made.prev_sample
        if self is scheduler:  # LTX 2 has a copy for sound
            seen.append(tuple(x.float().flatten().numpy().copy() for x in (*before, following)))
        return made

    monkeypatch.setattr(type(scheduler), "step", step)
    return seen


@pytest.mark.parametrize("forcing", [{}, {"ar_step": 2, "causal_block_size": 1}])
def test_diffusion_forcing_is_computed_in_full_and_says_so(forcing: dict[str, int]) -> None:
    case = wan.diffusion_forcing()
    case.call |= forcing
    plain = case()
    with (
        pytest.warns(OtcacheNotice, match="never made a step"),
        TorchExecutor().attach(case.pipe, Schedule(case.steps, (0, 1, 4))) as run,
    ):
        assert torch.equal(case(), plain)
    assert run.report.skipped == {}
    assert any("never made a step" in text for text in run.report.warnings)


def test_two_scheduler_steps_at_a_time_are_computed_in_full_and_said() -> None:
    case = cosmos.first()
    plain = case()
    with (
        pytest.warns(OtcacheNotice, match="several scheduler steps at one timestep"),
        TorchExecutor().attach(case.pipe, Schedule(case.steps, (0, 1, 4))) as run,
    ):
        assert torch.equal(case(), plain)
    assert run.report.skipped == {}


@pytest.mark.parametrize("build", [wan.text, wan.experts, hunyuan.newer])
def test_a_branch_of_a_video_can_have_steps_of_its_own(build: Any) -> None:
    case = build()
    outputs, (guided, plain) = Outputs(case), case.branches
    schedule = Schedule(case.steps, (0, 1, 3, 4), branches=((plain, (0, 3)),))
    with TorchExecutor().attach(case.pipe, schedule) as run:
        case()
    assert run.report.computed == {guided: 4, plain: 2}
    assert run.report.warnings == []
    (_, cond), (_, uncond) = outputs.at(1)
    (_, before) = outputs.at(0)[1]
    assert same_tensors(uncond, before)
    assert not same_tensors(cond, outputs.at(0)[0][1])
