"""Samples with arguments of their own, and calls whose arguments clash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import KandinskyV22Img2ImgPipeline
from families import flux, stable_diffusion
from families.diffusion_transformers import dit
from families.priors import kandinsky2

from otcache_core import Schedule, Trajectory
from otcache_core.contracts import Evaluator, SampleRequest
from otcache_core.errors import OtcacheError
from otcache_core.loop import Loop
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.recording.probe import TorchProbe
from otcache_diffusers.recording.rows import fold_rows
from otcache_diffusers.requests import prepared
from otcache_diffusers.testing.families import Case

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
PROBE = TorchProbe()


def _image(seed: int, size: int = 16) -> torch.Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def _kandinsky() -> Case:
    base = kandinsky2()
    pipe = KandinskyV22Img2ImgPipeline(
        unet=base.pipe.unet, scheduler=base.pipe.scheduler, movq=base.pipe.movq
    )
    call = {**base.call, "image": _image(0, 8), "strength": 0.5}
    return Case(pipe, call, ("call",), "unet", 12)


def _first_part() -> Case:
    """SDXL's base, which leaves the rest to a refiner."""
    case = stable_diffusion.xl()
    case.call["denoising_end"], case.num_inference_steps = 0.6, 10
    return case


def _of_samples(case: Case, vary: str) -> SampleRequest:
    """Two samples that differ in one argument; embeddings and images are each sample's own."""
    own = {n: v for n, v in case.call.items() if "embeds" in n or n.endswith("image")}
    call = {n: v for n, v in case.call.items() if n not in own}
    values = [own[vary], own[vary].flip(-1) * 0.5]
    samples = tuple({**own, vary: value} for value in values)
    return SampleRequest(samples, (3, 5), case.num_inference_steps, call, 8)


def _measured(pipe: Any, request: SampleRequest) -> tuple[list[Trajectory], Evaluator]:
    runs = list(PROBE.record(pipe, request))
    return runs, PROBE.evaluator(pipe, request, runs)


def _made(pipe: Any, request: SampleRequest, n: int) -> torch.Tensor:
    """One sample, as a user calls the pipeline."""
    noise = torch.Generator().manual_seed(request.seeds[n])
    own = request.prompts[n]
    assert isinstance(own, Mapping)
    with torch.no_grad():
        made = pipe(
            **request.call,
            **own,
            num_inference_steps=request.num_steps,
            generator=noise,
            output_type="latent",
            return_dict=False,
        )
    return torch.as_tensor(made[0])


CASES: dict[str, tuple[Callable[[], Case], str, int]] = {
    "image to image": (flux.img2img, "image", 6),
    "ControlNet": (stable_diffusion.xl_controlnet, "image", 6),
    "no begin_index": (_kandinsky, "image_embeds", 6),
    "denoising_end": (_first_part, "prompt_embeds", 6),
}


@pytest.mark.parametrize("name", CASES)
def test_samples_with_arguments_of_their_own_are_measured_as_they_are_run(name: str) -> None:
    """The error of a schedule on each sample is that of the user's own call of the pipeline."""
    build, vary, steps = CASES[name]
    case = build()
    request = _of_samples(case, vary)
    runs, evaluator = _measured(case.pipe, request)
    assert [run.num_steps for run in runs] == [steps] * 2
    assert not np.array_equal(runs[0].states[-1], runs[1].states[-1])
    assert evaluator.largest_batch == 1
    assert evaluator.replay([1]).item() < 1e-5
    schedule = Schedule(steps, (0, 1, 4))
    errors = evaluator.evaluate([schedule], objective="latent-rmse").errors[0]
    full = _made(case.pipe, request, 1)
    with TorchExecutor().attach(case.pipe, schedule) as run:
        fast = _made(case.pipe, request, 1)
    assert (run.report.runs, run.report.warnings) == (1, [])
    assert errors[1] == pytest.approx((fast - full).square().mean().sqrt().item(), rel=1e-3)
    assert errors[0] != errors[1]


def test_inpainting_that_puts_the_image_back_after_every_step_is_replayed() -> None:
    case = flux.inpaint()
    request = _of_samples(case, "image")
    _, evaluator = _measured(case.pipe, request)
    assert max(evaluator.replay([n]).item() for n in range(2)) < 1e-6
    schedule = Schedule(6, (0, 1, 4))
    drift = evaluator.drift([Schedule.full(6), schedule]).errors
    assert not drift[0].any()
    assert (drift[1, :, :3] == 0).all()
    assert (drift[1, :, 3:] > 0).all()


def test_class_labels_share_a_call_whose_state_has_both_branches() -> None:
    """DiT's sampler keeps both branches of guidance: 2 n rows of n samples, chunk after chunk."""
    case = dit()
    case.pipe.scheduler.register_to_config(clip_sample=False)
    labels = tuple({"class_labels": n} for n in (1, 2, 3))
    together = SampleRequest(labels, (0, 1, 2), 6, {"guidance_scale": 4.0}, 3)
    runs, evaluator = _measured(case.pipe, together)
    assert evaluator.largest_batch == 3
    assert float(evaluator.replay([2, 0, 1]).max()) < 1e-5
    schedule = Schedule(6, (0, 1, 4))
    errors = evaluator.evaluate([schedule], objective="latent-rmse", fit=True).errors[0]
    for n in range(3):
        one = replace(together, prompts=labels[n : n + 1], seeds=(n,))
        (alone,), single = _measured(case.pipe, one)
        np.testing.assert_allclose(alone.states, runs[n].states, rtol=1e-4, atol=1e-4)
        reused = single.evaluate([schedule], objective="latent-rmse").errors[0, 0]
        assert 0 < errors[n] < reused


@pytest.mark.parametrize(("chunks", "samples"), [(1, 3), (2, 3), (3, 2)])
def test_folded_rows_belong_to_one_sample(chunks: int, samples: int) -> None:
    state = torch.arange(chunks * samples * 2.0).reshape(chunks * samples, 2)
    (folded,) = fold_rows(samples, state)
    for n in range(samples):
        assert torch.equal(folded[n].reshape(chunks, 2), state[n::samples])


# -- what is taken, and what is refused by name ---------------------------------------------------

PROMPTED = {"height": 16, "width": 16}
REFUSED: dict[str, tuple[Any, str]] = {
    "num_images_per_prompt": (2, "must be 1 while measuring, got 2.*seeds="),
    "generator": (None, "otcache's own: give seeds"),
    "output_type": ("np", "otcache's own: images are decoded"),
    "return_dict": (True, "otcache's own: leave it out"),
    "num_inference_steps": (4, "otcache's own: give the number of steps"),
    "prompt": ("a", "otcache's own: prompts are those"),
    "prompt_embeds": (torch.zeros(1, 12, 32), "beside prompts: leave one of the two out"),
    "latents": (torch.zeros(1, 64, 4), "leave them out, noise comes from seeds"),
    "negative_prompt": (["a", "b", "c"], "must be one text, or 2, one per prompt, got '3 texts'"),
    "sigmas": ([1.0, 0.5], "give num_inference_steps=2, or leave sigmas out"),
    "heigth": (16, "did you mean 'height'"),
    "strength": (0.5, "must be one that FluxPipeline takes"),
    "negative_prompt_embeds": (torch.zeros(2, 12, 32), "rows of negative_prompt_embeds must be 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_clash_are_refused_by_name_before_anything_runs(name: str) -> None:
    case = tiny.with_prompts(tiny.flux())
    value, message = REFUSED[name]
    request = SampleRequest(("a", "b"), (0, 1), 6, {**PROMPTED, name: value})
    case.pipe.encode_prompt = None  # nothing of the pipeline is called
    with pytest.raises(OtcacheError, match=f"{name}.*{message}|{message}"):
        PROBE.prepared(case.pipe, request)


@pytest.mark.parametrize("texts", [("x", "y"), np.array(["x", "y"])])
def test_negative_prompts_go_with_their_prompts(texts: Any) -> None:
    case = tiny.with_prompts(tiny.flux(cfg=True))
    call = {**PROMPTED, "true_cfg_scale": 3.0, "negative_prompt": texts}
    request = PROBE.prepared(case.pipe, SampleRequest(("a", "b"), (0, 1), 6, call))
    assert request.batch_size > 1
    assert request == PROBE.prepared(case.pipe, request)
    both = [run.states for run in PROBE.record(case.pipe, request)]
    for n, text in enumerate("xy"):
        one = SampleRequest(("ab"[n],), (n,), 6, {**call, "negative_prompt": text})
        (alone,) = PROBE.record(case.pipe, one)
        np.testing.assert_allclose(alone.states, both[n], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0, -0.1, 1.1, "0.5", True, float("nan")])
def test_a_strength_is_a_share(value: Any) -> None:
    case = flux.img2img()
    request = _of_samples(case, "image")
    with pytest.raises(OtcacheError, match="strength must be a number above 0 and at most 1"):
        PROBE.prepared(case.pipe, replace(request, call={"strength": value}))
    for taken in (np.array(0.5), np.float32(0.5), torch.tensor(0.5)):
        PROBE.prepared(case.pipe, replace(request, call={"strength": taken}))


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_images_of_a_prompt_are_one_in_numbers_of_any_kind(kind: Any) -> None:
    case = tiny.with_prompts(tiny.flux())
    for given in (1, [1, 2]):
        call = {**PROMPTED, "num_images_per_prompt": kind(given)}
        with nullcontext() if given == 1 else pytest.raises(OtcacheError, match="must be 1 while"):
            PROBE.prepared(case.pipe, SampleRequest(("a",), (0,), 6, call))


def test_an_image_for_all_or_for_each_and_nothing_between() -> None:
    case = flux.img2img()
    request = _of_samples(case, "image")
    pair = torch.cat([_image(0), _image(1)])
    for call, sample in (({"image": pair}, {}), ({}, {"image": pair})):
        own = {n: v for n, v in dict(request.prompts[0]).items() if n != "image"}
        with pytest.raises(OtcacheError, match=r"rows of image must be 1, got 2.*give each sample"):
            PROBE.prepared(case.pipe, SampleRequest(({**own, **sample},), (0,), 10, call))
    with pytest.raises(OtcacheError, match="image is given for all samples and by each"):
        PROBE.prepared(case.pipe, replace(request, call={"image": _image(0)}))


@pytest.mark.parametrize("kind", ["uint8 array", "PIL", "float array"])
def test_images_are_taken_as_the_pipeline_takes_them(kind: str) -> None:
    from PIL import Image

    pixels = (_image(0)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    image = {"uint8 array": pixels, "PIL": Image.fromarray(pixels), "float array": pixels / 255.0}
    case = flux.img2img()
    request = _of_samples(case, "image")
    own = {**dict(request.prompts[0]), "image": image[kind]}
    (run,) = PROBE.record(case.pipe, replace(request, prompts=(own,), seeds=(0,)))
    assert run.num_steps == 6


def test_what_a_pipeline_needs_is_requested_and_what_it_refuses_is_quoted() -> None:
    with pytest.raises(OtcacheError, match=r'takes no prompt: give .*\[\{"class_labels"'):
        PROBE.prepared(dit().pipe, SampleRequest(("a",), (0,), 6))
    with pytest.raises(OtcacheError, match="DiTPipeline needs class_labels: give each sample"):
        PROBE.prepared(dit().pipe, SampleRequest(({"guidance_scale": 1.0},), (0,), 6))
    own = ({"prompt": 1},)
    with pytest.raises(OtcacheError, match="FluxPipeline does not take these arguments"):
        list(PROBE.record(tiny.flux().pipe, SampleRequest(own, (0,), 6, PROMPTED)))


def test_a_list_of_images_that_a_pipeline_refuses_may_be_one_a_prompt() -> None:
    from PIL import Image

    case = flux.img2img()
    image = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    request = replace(_of_samples(case, "image"), seeds=(3,))
    own = {n: v for n, v in dict(request.prompts[0]).items() if n != "image"}
    call = {**request.call, "image": [image, image]}
    with pytest.raises(
        OtcacheError, match="All 2 of image go to every sample: give each sample its"
    ):
        list(PROBE.record(case.pipe, replace(request, prompts=(own,), call=call)))
    one = replace(request, prompts=({**own, "image": image},))
    assert len(list(PROBE.record(case.pipe, one))) == 1


@pytest.mark.remedy(
    "the sampler's state has no elements: give a height and width of at least one latent"
)
def test_a_size_below_one_latent_is_named() -> None:
    case = tiny.with_prompts(tiny.flux())
    request = SampleRequest(("a",), (0,), 4, {"height": 1, "width": 16})
    with pytest.raises(OtcacheError, match="give a height and width of at least one latent pixel"):
        list(PROBE.record(case.pipe, request))
    assert len(list(PROBE.record(case.pipe, replace(request, call=PROMPTED)))) == 1


# -- loops ------------------------------------------------------------------------------------------


def _loop(sample_fn: Callable[..., Any]) -> Loop:
    return Loop(sample_fn, tiny.Velocity())


@pytest.mark.parametrize(
    ("sample_fn", "call", "message"),
    [
        (
            lambda p, s, n: p,
            {"scale": 1},
            "call argument must be one that sample_fn takes, got 'scale'",
        ),
        (lambda p, s, n, scale=1: p, {"scal": 1}, "did you mean 'scale'"),
        (lambda p, s, n, *, scale: p, {}, "'scale'"),
        (lambda p, s: p, {}, r"sample_fn\(prompts, seeds, num_steps"),
        (
            lambda p, s, n, **more: p,
            {"negative_prompt": ["a", "b"]},
            "negative_prompt is one per prompt",
        ),
    ],
)
def test_what_sample_fn_does_not_take_is_refused_by_name(
    sample_fn: Callable[..., Any], call: dict[str, Any], message: str
) -> None:
    with pytest.raises(OtcacheError, match=message):
        prepared(_loop(sample_fn), SampleRequest(("a", "b"), (0, 1), 4, call))


@pytest.mark.parametrize(
    "sample_fn",
    [lambda p, s, n, scale=1: p, lambda *args, **call: args, lambda p, s, n, *, scale: p],
)
def test_what_sample_fn_takes_is_taken(sample_fn: Callable[..., Any]) -> None:
    request = SampleRequest(("a",), (0,), 4, {"scale": 2})
    assert prepared(_loop(sample_fn), request) is request


def test_a_loop_gets_mappings_as_they_are() -> None:
    net, seen = tiny.Velocity(), []
    plain = tiny.euler_sampler(net)

    def sample(samples: Any, seeds: list[int], num_steps: int) -> torch.Tensor:
        seen.extend(samples)
        return plain(["" for _ in samples], seeds, num_steps)

    given = ({"label": 1, "image": torch.ones(2, 2)}, {"label": 2, "image": torch.zeros(2, 2)})
    runs = list(PROBE.record(Loop(sample, net), SampleRequest(given, (0, 1), 4)))
    assert len(runs) == 2
    assert all(a is b for a, b in zip(seen, given, strict=True))
