"""Modular pipelines and guiders: accelerated and calibrated as other pipelines are."""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxModularPipeline
from modular_pipelines import GUIDERS, MODULAR, Modular, N, modular

from otcache_core.contracts import SampleRequest
from otcache_core.errors import ExecutionError, OtcacheError
from otcache_core.schedule import Schedule
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks.modular import loops_of
from otcache_diffusers.recording.probe import TorchProbe
from otcache_diffusers.recording.sampler import Sampler
from otcache_diffusers.testing.families import Calls

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

FULL, SOME = Schedule.full(N), Schedule(N, (0, 1, 3))
#: Each skipped step, and the computed step whose output it reuses.
REUSED = {2: 1, 4: 3, 5: 3}


def _guided(name: str) -> Modular:
    try:
        made = GUIDERS[name]()
    except ImportError as error:  # some guiders need further libraries
        pytest.skip(str(error))
    # Some guiders take states of certain dimensions only.
    if name == "frequency decoupled":
        return modular("sdxl", guider=made)
    return modular("qwen" if name == "magnitude aware" else "wan", text=True, guider=made)


def _patched(case: Modular) -> list[list[str]]:
    """Return what can be called on the instances of the parts."""
    pipe = case.pipe
    parts = [pipe, pipe.scheduler, case.denoiser, *loops_of(pipe), getattr(pipe, "guider", pipe)]
    return [sorted(key for key, v in vars(part).items() if callable(v)) for part in parts]


def _twin(case: Modular, **others: Any) -> Any:
    """Make another pipeline of the same blocks and parts, with some other ones."""
    twin = type(case.pipe)(blocks=case.pipe._blocks)
    twin.update_components(**case.pipe.components | others)
    return twin


class _ByHand:
    """Skips calls of a denoiser by its embeddings, which are the branch, and their order in a step."""

    def __init__(self, case: Modular) -> None:
        self._own, self._kept, self._seen = case.denoiser.forward, {}, []
        self._step, self._time = -1, None
        case.denoiser.forward = functools.update_wrapper(self, self._own)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        time = kwargs["timestep"] if "timestep" in kwargs else args[1]
        if self._time is None or not torch.equal(self._time, time):
            self._step, self._time, self._seen = self._step + 1, time.clone(), []
        text = kwargs["encoder_hidden_states"].sum().item()
        branch = text, self._seen.count(text)
        self._seen.append(text)
        if self._step not in SOME.computed:
            held = self._kept.get((branch, REUSED[self._step]))
            if held is not None:
                return held
        output = self._own(*args, **kwargs)
        self._kept[branch, self._step] = copy.deepcopy(output)
        return output


@pytest.mark.parametrize("name", MODULAR)
def test_a_modular_pipeline_follows_a_schedule_as_the_standard_one_does(name: str) -> None:
    case = modular(name)
    plain, before = case(), _patched(case)
    with TorchExecutor().attach(case.pipe, FULL):
        assert np.array_equal(case(), plain)
    with TorchExecutor().attach(case.pipe, SOME) as run:
        fast = case()
    assert _patched(case) == before
    assert np.array_equal(case(), plain)
    standard = case.standard
    with TorchExecutor().attach(standard.pipe, SOME) as own:
        wanted = standard(output_type="np")
    assert set(run.report.computed.values()) == set(own.report.computed.values()) == {3}
    assert set(run.report.skipped.values()) == set(own.report.skipped.values()) == {3}
    assert (run.report.runs, run.report.warnings) == (1, [])
    assert not np.array_equal(fast, plain)
    np.testing.assert_allclose(fast, wanted, atol=1e-5)


@pytest.mark.parametrize("name", GUIDERS)
def test_every_branch_of_a_guider_is_forecast_from_its_own_outputs(name: str) -> None:
    case = _guided(name)
    plain, before = case(), _patched(case)
    with TorchExecutor().attach(case.pipe, FULL) as full:
        assert np.array_equal(case(), plain)
    with TorchExecutor().attach(case.pipe, SOME) as run:
        fast = case()
    assert _patched(case) == before
    report, every = run.report, full.report.computed
    assert {b: report.computed[b] + report.skipped.get(b, 0) for b in every} == every
    assert set(every) >= {"cond", "uncond"}
    assert report.skipped["cond"] == 3
    _ByHand(case)
    np.testing.assert_allclose(fast, case(), atol=1e-6)


SHARE = {
    "adaptive projected": r"AdaptiveProjectedGuidance share .* is not linear in their outputs \(rel",
    "zero star": r"ClassifierFreeZeroStarGuidance share .* is not linear in their outputs \(rel",
    "begins late": r"ClassifierFreeGuidance share .*: uncond has no output at some of the steps",
    "skips layers": r"SkipLayerGuidance share .*: cond_skip has no output at some of the steps",
}


@pytest.mark.parametrize("name", ["cfg", *SHARE])
def test_branches_share_weights_unless_guidance_is_linear_and_that_is_said(
    name: str, recwarn: pytest.WarningsRecorder
) -> None:
    case, probe = _guided(name), TorchProbe()
    call = {n: v for n, v in case.call.items() if n != "prompt"}
    request = SampleRequest(("a", "c"), (0, 1), N, call)
    evaluator = probe.evaluator(case.pipe, request, list(probe.record(case.pipe, request)))
    fitted = evaluator.evaluate([SOME], objective="latent-rmse", fit=True)
    notices = [str(w.message) for w in recwarn if "share their" in str(w.message)]
    assert len(notices) == (name in SHARE)
    assert all(re.search(SHARE[name], notice) for notice in notices)
    branches = [n for n, _ in fitted.schedules[0].branch_weights]
    assert branches == ([] if name in SHARE else ["cond", "uncond"])
    sampler = Sampler(case.pipe, request)
    full = sampler([0, 1])
    for n, own in enumerate(fitted.ran[0]):  # as the executor runs it
        with TorchExecutor().attach(case.pipe, own) as run:
            fast = sampler([0, 1])
        error = (fast - full).double().square().flatten(1).mean(1).sqrt()
        assert float(error[n]) == pytest.approx(float(fitted.errors[0, n]), rel=1e-3)
        said = [text for text in run.report.warnings if "share their forecast weights" in text]
        assert len(said) == (name in SHARE)


def test_a_calibration_is_that_of_the_standard_pipeline() -> None:
    case, probe = modular("wan"), TorchProbe()
    embeds = {n: v for n, v in case.call.items() if n.endswith("embeds")}
    call = {n: v for n, v in case.standard.call.items() if n not in embeds}
    prompts = (embeds, {n: 0.5 * v for n, v in embeds.items()})
    found = {}
    for pipe in (case.pipe, case.standard.pipe):
        own = {n: v for n, v in call.items() if pipe is not case.pipe or n != "guidance_scale"}
        request = SampleRequest(prompts, (0, 1), N, own)
        runs = list(probe.record(pipe, request))
        evaluator = probe.evaluator(pipe, request, runs)
        fitted = evaluator.evaluate([SOME], fit=True, objective="latent-rmse")
        facts = probe.provenance(pipe, request)
        found[pipe] = facts, fitted.schedules, fitted.errors, [run.states for run in runs]
        assert evaluator.replay([1]).max() < 1e-6
    (facts, schedules, errors, states), (own_facts, own_schedules, own_errors, own_states) = (
        found.values()
    )
    assert facts == own_facts
    assert (facts["guidance"], facts["resolution"]) == ("cfg 4.0", 4)
    assert schedules == own_schedules
    assert np.array_equal(errors, own_errors)
    assert np.array_equal(states, own_states)


def test_samples_of_a_modular_pipeline_go_into_one_call_and_decode_only_where_images_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = _guided("cfg")
    decoded: list[torch.Size] = []
    decode = case.pipe.vae.decode
    monkeypatch.setattr(
        case.pipe.vae, "decode", lambda z, **k: decoded.append(z.shape) or decode(z, **k)
    )
    request = SampleRequest(("a", "c"), (0, 1), N, {"height": 32, "width": 32, "num_frames": 1})
    sampler, blocks = Sampler(case.pipe, request), case.pipe._blocks
    assert sampler.decodes
    latents = sampler([0, 1])
    assert (latents.shape[0], decoded) == (2, [])
    images = sampler([0, 1], output_type="np")
    assert images.shape == (2, 1, 32, 32, 3)
    assert len(decoded) == 1
    assert case.pipe._blocks is blocks
    alone = sampler([1], output_type="np")
    np.testing.assert_allclose(alone[0], images[1], atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"num_frame": 1}, "did you mean 'num_frames'"),
        ({"guidance_scale": 3.0}, "must be one that WanModularPipeline takes"),
        ({"generator": None}, "give seeds"),
    ],
)
def test_call_arguments_are_those_of_the_blocks(call: dict[str, Any], message: str) -> None:
    case = _guided("cfg")
    with pytest.raises(OtcacheError, match=message):
        TorchProbe().prepared(case.pipe, SampleRequest(("a",), (0,), N, call))


@pytest.mark.remedy(": call its load_components() first")
def test_a_modular_pipeline_without_its_parts_is_refused_with_advice(tmp_path: Path) -> None:
    case = modular("flux")
    case.standard.pipe.save_pretrained(tmp_path)
    pipe = FluxModularPipeline(case.pipe._blocks, str(tmp_path))
    with pytest.raises(
        ExecutionError, match=r"FluxModularPipeline has none of transformer, .*: call"
    ):
        TorchExecutor().attach(pipe, SOME).__enter__()
    pipe.load_components()
    with TorchExecutor().attach(pipe, SOME):
        pipe(**case.arguments())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cfg", "cfg 4.0"),
        ("begins late", "ClassifierFreeGuidance(guidance_scale=4.0, start=0.4)"),
        ("zero star", "ClassifierFreeZeroStarGuidance(guidance_scale=4.0)"),
    ],
)
def test_guidance_is_named_by_the_guider_and_its_settings(name: str, text: str) -> None:
    case = _guided(name)
    request = SampleRequest(("a",), (0,), N, {})
    assert TorchProbe().provenance(case.pipe, request)["guidance"] == text
    case.pipe.guider.guidance_scale = 2.0  # as it is now, not as it was made
    assert "2.0" in TorchProbe().provenance(case.pipe, request)["guidance"]
    case.pipe.guider.disable()
    assert TorchProbe().provenance(case.pipe, request)["guidance"] == "none"
    case.pipe.guider.enable()
    assert "2.0" in TorchProbe().provenance(case.pipe, request)["guidance"]


def test_guiders_may_be_replaced_shared_and_left_in_any_order() -> None:
    case = _guided("cfg")
    case()
    twin = _twin(case, scheduler=copy.deepcopy(case.pipe.scheduler))
    guider, before = case.pipe.guider, _patched(case)
    first, second = TorchExecutor().attach(case.pipe, SOME), TorchExecutor().attach(twin, SOME)
    first.__enter__()
    run = second.__enter__()
    assert "prepare_models" not in vars(copy.deepcopy(guider))
    first.__exit__(None, None, None)
    twin.update_components(guider=guider.new(start=0.4))
    fast = np.asarray(twin(**case.arguments(), output="videos"))
    second.__exit__(None, None, None)
    assert run.report.computed == {"cond": 3, "uncond": 2}
    assert _patched(case) == before
    assert not any(map(callable, vars(twin.guider).values()))
    case.pipe.update_components(guider=twin.guider)
    with TorchExecutor().attach(case.pipe, SOME):
        assert np.array_equal(case(), fast)


def test_a_run_that_breaks_off_leaves_no_branch_and_no_trace() -> None:
    case = _guided("ends early")
    plain, before = case(), _patched(case)
    with TorchExecutor().attach(case.pipe, SOME):
        fast = case()
    calls = Calls([case.denoiser.blocks[1]], breaks_at=4)  # the second branch of step 1
    with TorchExecutor().attach(case.pipe, SOME) as run:
        with pytest.raises(KeyError):
            case()
        calls.remove()
        assert np.array_equal(case(), fast)
    assert run.report.runs == 1
    assert _patched(case) == before
    assert np.array_equal(case(), plain)


def test_another_modular_pipeline_on_the_same_scheduler_is_reported() -> None:
    case = _guided("cfg")
    twin = _twin(case)
    with TorchExecutor().attach(case.pipe, SOME) as run:
        case()
        assert run.report.warnings == []
        twin(**case.arguments())
    (warning,) = run.report.warnings
    assert warning.startswith("WanModularPipeline shares the denoiser and the scheduler")
