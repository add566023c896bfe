"""Image-to-image is calibrated, planned and run at the strength that it is used with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FluxImg2ImgPipeline
from tiny_flux import make_flux, noise, quiet

import otcache
from otcache.calibration import record as recording
from otcache.media import run_once
from otcache_core.errors import OtcacheNotice

ASKED, MADE = 15, 9  # at the pipeline's own strength of 0.6
SIZE = {"height": 16, "width": 16}
QUICK = {"anchor_trials": 1, "climb_trials": 0, "cost_samples": 1, "ladder": (5,)}
RUNS = {"rounding_runs": 0.0, "gap_runs": 0.0, "candidate_runs": 1.0}
RECIPE = otcache.Recipe(**QUICK, **RUNS, objective="latent-rmse", fidelity="latent-rmse")


def _pipe() -> FluxImg2ImgPipeline:
    return quiet(FluxImg2ImgPipeline.from_pipe(make_flux()))


def _samples(count: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "prompt_embeds": noise(1, 4, 8, seed=n),
            "pooled_prompt_embeds": noise(1, 8, seed=n),
            "image": noise(1, 3, 16, 16, seed=n).sigmoid(),
        }
        for n in range(count)
    ]


def _call(pipe: Any, **call: Any) -> None:
    generator = torch.Generator().manual_seed(9)
    pipe(**_samples(1)[0], **SIZE, **call, generator=generator, output_type="latent")


def test_steps_count_those_that_are_made_and_requests_ask_as_the_calibration_did() -> None:
    pipe = _pipe()
    made = otcache.calibrate(pipe, _samples(1), ASKED, recipe=RECIPE, progress=False, **SIZE)
    assert made.num_steps == MADE
    assert made.provenance["inference_steps"] == ASKED
    policy = otcache.plan(made)
    with otcache.accelerate(pipe, policy, budget=5) as run:
        _call(pipe, num_inference_steps=ASKED)
    assert (run.report.computed, run.report.skipped) == ({"call": 5}, {"call": MADE - 5})
    assert run.report.planned == policy.schedule(5).computed
    assert run.report.warnings == []
    done = run_once(pipe, policy, 5, _samples(1)[0], call=SIZE, strict=True)
    assert (done.report.computed, done.report.skipped) == ({"call": 5}, {"call": MADE - 5})
    with (
        pytest.warns(OtcacheNotice, match="is mapped"),
        otcache.accelerate(pipe, policy, budget=5) as run,
    ):
        _call(pipe, num_inference_steps=ASKED, strength=1.0)
    assert (run.report.computed, run.report.skipped) == ({"call": 5}, {"call": ASKED - 5})


class Begun(BaseException):
    """Ends a calibration after its first run."""


@pytest.mark.remedy("nothing worthwhile can be skipped: raise num_inference_steps, {}, or strength")
@pytest.mark.remedy("give all samples one strength, height, width and size of image")
def test_the_steps_that_a_strength_leaves_are_known_from_the_first_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = recording.record_samples

    def recorded(job: Any) -> Any:
        record(job)
        raise Begun

    def begin(asked: int, *strengths: float) -> None:
        samples = [{**s, "strength": x} for s, x in zip(_samples(), strengths, strict=True)]
        with pytest.raises(Begun):
            otcache.calibrate(_pipe(), samples, asked, recipe=RECIPE, progress=False, **SIZE)

    monkeypatch.setattr(recording, "record_samples", recorded)
    with pytest.raises(
        otcache.OtcacheError, match=r"at least 4, got 3.*raise num_inference_steps, 6, or"
    ):
        begin(6, 0.5, 0.5)
    begin(12, 0.5, 0.5)
    begin(9, 0.7, 0.7)
    with pytest.raises(
        otcache.OtcacheError, match=r"steps of sample 1.*give all samples one strength"
    ):
        begin(12, 0.5, 0.7)
