"""Caches of diffusers as baselines: the checks, and what each really does on real pipelines."""

from __future__ import annotations

import copy
import functools
import itertools
from typing import Any

import diffusers.hooks
import numpy as np
import pytest
import tiny
import torch
from diffusers import FlowMatchHeunDiscreteScheduler, FluxPipeline
from diffusers.hooks import HookRegistry, ModelHook
from flux_kit import GUIDED, SIZE, FluxLaws
from torch import nn

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.errors import OtcacheError
from otcache_core.plugins import Registry
from otcache_diffusers.baselines import diffusers_caches
from otcache_diffusers.baselines.attention_caches import differing_intervals
from otcache_diffusers.baselines.diffusers_caches import (
    cache_enabled,
    contexts_of,
)
from otcache_diffusers.baselines.mag_cache import MagCacheRule, magnitude_ratios
from otcache_diffusers.baselines.threshold_caches import FirstBlockCache, flux_latents
from otcache_diffusers.demo import CALL, load

N = 8
SKIPPING = ("first-block-cache", "mag-cache", "taylorseer", "sea-cache")
ATTENTION = ("pab", "faster-cache")


@functools.cache
def registry() -> Registry:
    return Registry()


def baseline_of(name: str) -> Baseline:
    return registry().create("baselines", name)


def request(guided: bool = True) -> SampleRequest:
    return SampleRequest(("a", "c"), (0, 1), N, GUIDED if guided else SIZE, 1)


def sampled(pipe: Any, ask: SampleRequest, sample: int, steps: int = N, **more: Any) -> Any:
    case = tiny.Case(pipe, dict(ask.call), ())
    made = case(steps, ask.seeds[sample], prompt=ask.prompts[sample], **more)
    return made.numpy()


class TestFirstBlockCache(FluxLaws):
    name = "first-block-cache"


class TestMagCache(FluxLaws):
    name = "mag-cache"


class TestTaylorSeer(FluxLaws):
    name = "taylorseer"


class TestSeaCache(FluxLaws):
    name = "sea-cache"


class TestPyramidAttention(FluxLaws):
    name = "pab"
    guided = False


class TestFasterCache(FluxLaws):
    name = "faster-cache"
    guided = False


# -- what is really skipped -----------------------------------------------------------------------


@pytest.fixture
def pipe() -> Any:
    """Guided by two calls per step."""
    return tiny.with_prompts(tiny.flux(cfg=True)).pipe


@pytest.fixture
def unguided() -> Any:
    return tiny.with_prompts(tiny.flux()).pipe


def steps_worked(pipe: Any, ask: SampleRequest) -> list[list[int]]:
    """Of each branch, the steps at which the last attention works, seen inside it."""
    branches = len(contexts_of(pipe, ask))
    at, calls = [-1], list[int]()
    attention = pipe.transformer.single_transformer_blocks[-1].attn
    handles = (
        pipe.transformer.register_forward_pre_hook(lambda *call: at.append(at[-1] + 1)),
        attention.to_q.register_forward_pre_hook(lambda *call: calls.append(at[-1])),
    )
    sampled(pipe, ask, 0)
    for handle in handles:
        handle.remove()
    return [[n // branches for n in calls if n % branches == b] for b in range(branches)]


@pytest.mark.parametrize("name", ["mag-cache", "taylorseer"])
def test_the_steps_computed_are_those_said_beforehand(pipe: Any, name: str) -> None:
    baseline, budgets = baseline_of(name), (2, 3, 4, 5, N)
    measured = baseline.calibrate(pipe, request(), budgets)
    for budget, setting in zip(budgets, baseline.settings(N, budgets, measured), strict=True):
        assert setting.computed is not None
        with baseline.apply(pipe, setting, measured):
            assert steps_worked(pipe, request()) == [list(setting.computed)] * 2
        assert abs(len(setting.computed) - budget) <= 1


@pytest.mark.parametrize(("name", "least"), [("first-block-cache", [0]), ("sea-cache", [0, N - 1])])
def test_thresholds_reach_from_everything_to_almost_nothing(
    pipe: Any, name: str, least: list[int]
) -> None:
    baseline = baseline_of(name)
    for threshold, steps in ((0.0, list(range(N))), (1e9, least)):
        with baseline.apply(pipe, BaselineSetting("", {"threshold": threshold}, N), {}):
            assert steps_worked(pipe, request()) == [steps] * 2


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_reused_inside_the_range_only(unguided: Any, name: str) -> None:
    """Timesteps of eight steps are 1000, 875, .. 125."""
    baseline, ask = baseline_of(name), request(guided=False)
    for low, high, steps in ((-1, 990, [0, 2, 4, 6]), (-1, 600, [0, 1, 2, 3, 4, 6])):
        values = {"interval": 2, "low": low, "high": high}
        with baseline.apply(unguided, BaselineSetting("", values, N), {}):
            assert steps_worked(unguided, ask) == [steps]


# -- branches -------------------------------------------------------------------------------------


def guided_calls(pipe: Any) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """Arguments and output of each transformer call of a guided run, the branches in turn."""
    calls: list[tuple[dict[str, Any], torch.Tensor]] = []
    handle = pipe.transformer.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((kwargs, output[0])), with_kwargs=True
    )
    sampled(pipe, request(), 0)
    handle.remove()
    return calls


def alone(pipe: Any, calls: list[tuple[dict[str, Any], torch.Tensor]]) -> list[torch.Tensor]:
    """Return the same calls of one branch, with the caches to itself."""
    HookRegistry.check_if_exists_or_initialize(pipe.transformer).reset_stateful_hooks()
    made = []
    for step, (arguments, _) in enumerate(calls):
        pipe._current_timestep = pipe.scheduler.timesteps[step]
        sigma = float(pipe.scheduler.sigmas[step])
        where = {"step_index": step, "sigma": sigma, "num_inference_steps": N}
        with torch.no_grad(), pipe.transformer.cache_context("alone", **where):
            made.append(pipe.transformer(**arguments)[0])
    return made


def mixes_branches(pipe: Any, baseline: Baseline, setting: BaselineSetting) -> bool:
    """Whether a branch of a guided run gets something else than it would get alone."""
    measured = baseline.calibrate(pipe, request(), (3,))
    with baseline.apply(pipe, setting, measured):
        calls = guided_calls(pipe)
        branches = [calls[0::2], calls[1::2]]
        found = [(alone(pipe, branch), [output for _, output in branch]) for branch in branches]
    return any(not torch.equal(a, b) for pair in found for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("name", SKIPPING)
def test_branches_of_guidance_are_kept_apart(pipe: Any, name: str) -> None:
    baseline = baseline_of(name)
    measured = baseline.calibrate(pipe, request(), (3,))
    for setting in baseline.settings(N, (3,), measured)[-3:]:
        assert not mixes_branches(pipe, baseline, setting)


@pytest.mark.parametrize("name", ATTENTION)
def test_diffusers_mixes_branches_where_the_reason_says_so(pipe: Any, name: str) -> None:
    """If this fails, diffusers has learnt to keep them apart, and the reason can go."""
    baseline = baseline_of(name)
    assert "for both" in baseline.supports(pipe, request())
    setting = BaselineSetting("", {"interval": 2, "low": -1, "high": 990}, N)
    assert mixes_branches(pipe, baseline, setting)


# -- calibration of MagCache ----------------------------------------------------------------------


def test_magnitude_ratios_are_those_of_what_the_blocks_add(pipe: Any, capsys: Any) -> None:
    """gamma_t = mean over tokens of |r_t| / |r_{t-1}|, from a plain run."""
    first, last = (
        pipe.transformer.transformer_blocks[0],
        pipe.transformer.single_transformer_blocks[0],
    )
    inputs, outputs = list[torch.Tensor](), list[torch.Tensor]()
    handles = (
        first.register_forward_pre_hook(
            lambda module, args, kwargs: inputs.append(kwargs["hidden_states"]), with_kwargs=True
        ),
        last.register_forward_hook(lambda module, args, output: outputs.append(output[1])),
    )
    expected = []
    for sample in range(2):
        inputs.clear(), outputs.clear()
        sampled(pipe, request(), sample)
        added = [(b - a).norm(dim=-1) for a, b in zip(inputs, outputs, strict=True)][0::2]
        ratios = [float((b / a).mean()) for a, b in itertools.pairwise(added)]
        expected.append([1.0, *ratios])
    for handle in handles:
        handle.remove()
    measured = baseline_of("mag-cache").calibrate(pipe, request(), (3,))
    np.testing.assert_allclose(measured["ratios"], np.mean(expected, axis=0), rtol=1e-5)
    assert list(measured["branches"]) == ["cond", "uncond"]
    assert measured["branches"]["uncond"] != measured["ratios"] == measured["branches"]["cond"]
    assert measured["nfe"] == 2 * N
    assert capsys.readouterr().out == ""


def test_magnitude_ratios_of_a_batch_are_those_of_its_samples(pipe: Any) -> None:
    few, ask = request(), SampleRequest(("a", "c", "d"), (0, 1, 2), N, GUIDED, 1)
    assert few.batch_size == 1
    batched = magnitude_ratios(pipe, SampleRequest(ask.prompts, ask.seeds, N, GUIDED, 2))
    for name, ratios in magnitude_ratios(pipe, ask).items():
        np.testing.assert_allclose(batched[name], ratios, rtol=1e-5)


@pytest.mark.parametrize("name", ["mag-cache", "taylorseer"])
def test_a_sampler_of_several_calls_a_step_is_refused(name: str) -> None:
    case = tiny.with_prompts(tiny.flux(scheduler=FlowMatchHeunDiscreteScheduler()))
    reason = baseline_of(name).supports(case.pipe, request(guided=False))
    assert reason == "it counts one call per step, and FlowMatchHeunDiscreteScheduler makes several"


def test_another_number_of_steps_than_asked_for_is_an_error(pipe: Any) -> None:
    def stops(pipe: Any, step: int, t: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 4
        return inputs

    own = SampleRequest(("a",), (0,), N, GUIDED | {"callback_on_step_end": stops}, 1)
    with pytest.raises(OtcacheError, match=f"MagCache saw 5 steps of 'cond' in a run of {N}"):
        magnitude_ratios(pipe, own)


@pytest.mark.parametrize(
    ("rule", "computed"),
    [
        (MagCacheRule(1e9, 100, 1), (0,)),
        (MagCacheRule(1e9, 100, 3), (0, 1, 2)),
        (MagCacheRule(1e9, 2, 1), (0, 3, 6)),
        (MagCacheRule(0.0, 100, 1), tuple(range(8))),
        # halved at each step: errors add up to 0.5, 1.25, 2.125
        (MagCacheRule(0.6, 100, 1), (0, 2, 4, 6)),
        (MagCacheRule(1.3, 100, 2), (0, 1, 4, 7)),
    ],
)
def test_the_rule_of_mag_cache(rule: MagCacheRule, computed: tuple[int, ...]) -> None:
    assert rule.computed([1.0] + [0.5] * 7) == computed


# -- settings -------------------------------------------------------------------------------------

#: Magnitude ratios of the demo model on 30 steps, rounded.
RATIOS = [1.0, 0.99, 0.96, 0.96, 0.96, 0.97, *[0.98] * 9, *[0.97] * 4, *[0.965] * 3]
RATIOS += [0.953, 0.948, 0.945, 0.932, 0.922, 0.906, 0.884, 0.86]


@pytest.mark.parametrize("name", ["mag-cache", "taylorseer"])
def test_every_budget_of_a_comparison_is_met(name: str) -> None:
    budgets = (5, 6, 8, 10, 15)
    settings = baseline_of(name).settings(30, budgets, {"ratios": RATIOS})
    assert [len(s.computed or ()) for s in settings] == list(budgets)


def test_differing_intervals_are_all_and_the_shortest() -> None:
    for n in (1, 2, 8, 30):
        by_count: dict[int, int] = {}
        for k in range(2, n + 1):
            by_count.setdefault(len(range(0, n, k)), k)
        assert differing_intervals(n) == sorted(by_count.values())


def test_thresholds_have_equal_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FirstBlockCache, "thresholds", (0.1, 1.6, 5))
    ladder = FirstBlockCache().settings(N, (), {})
    assert [s.values["threshold"] for s in ladder] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert ladder[0] == BaselineSetting("threshold=0.1", {"threshold": 0.1}, N)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_taylor_factors_are_kept_in_the_pipelines_type(pipe: Any, dtype: torch.dtype) -> None:
    pipe.to(dtype)
    baseline = baseline_of("taylorseer")
    with baseline.apply(pipe, baseline.settings(N, (3,), {})[0], {}):
        assert pipe.transformer._cache_config.taylor_factors_dtype == dtype


# -- SeaCache on Flux -----------------------------------------------------------------------------


def test_packed_latents_are_unpacked() -> None:
    latents = tiny.noise(2, 3, 4, 6)
    packed = FluxPipeline._pack_latents(latents, 2, 3, 4, 6)
    ids = FluxPipeline._prepare_latent_image_ids(2, 2, 3, torch.device("cpu"), torch.float32)
    unpacked = flux_latents(nn.Identity(), (), {"hidden_states": packed, "img_ids": ids})
    assert torch.equal(torch.stack(unpacked), latents.unsqueeze(2))


def test_alone_diffusers_computes_everything_on_flux(pipe: Any) -> None:
    plain = sampled(pipe, request(), 0)
    with cache_enabled(pipe, diffusers.hooks.SeaCacheConfig(threshold=1e9)):
        np.testing.assert_array_equal(sampled(pipe, request(), 0), plain)


# -- reasons --------------------------------------------------------------------------------------


@pytest.mark.remedy("{} has no {}: install a later one", value=True)
def test_reasons_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = request()
    wanted = {
        "first-block-cache": "QwenImageTransformer2DModel has one block, and the rule needs two",
        "sea-cache": "QwenImageTransformer2DModel has one block, and the rule needs two",
        "taylorseer": "",
        "pab": "keeps one cache for both branches",
        "faster-cache": "QwenImagePipeline guides by two calls",
    }
    for name, part in wanted.items():
        assert part in baseline_of(name).supports(tiny.qwen().pipe, ask)
        assert baseline_of(name).supports(tiny.sdxl().pipe, ask) == (
            "StableDiffusionXLPipeline has no transformer to enable the cache on"
        )
        assert "needs a DiffusionPipeline, got Linear" in baseline_of(name).supports(
            nn.Linear(1, 1), ask
        )
    with monkeypatch.context() as old:
        old.setattr(diffusers_caches, "cache_config", lambda name: None)
        assert baseline_of("sea-cache").supports(tiny.flux().pipe, ask) == (
            f"{diffusers_caches.DIFFUSERS} has no SeaCacheConfig: install a later one"
        )
    assert baseline_of("sea-cache").supports(tiny.flux().pipe, ask) == ""


def test_a_second_transformer_and_unknown_blocks_are_reasons(pipe: Any) -> None:
    strange = copy.deepcopy(pipe)
    strange.transformer.single_transformer_blocks[0] = nn.Identity()
    reason = baseline_of("first-block-cache").supports(strange, request())
    assert reason == f"{diffusers_caches.DIFFUSERS} does not know how to skip a Identity"
    pipe.transformer_2 = copy.deepcopy(pipe.transformer)
    assert "has two transformers" in baseline_of("mag-cache").supports(pipe, request())


def test_contexts_are_read_off_the_pipeline(pipe: Any) -> None:
    def contexts(target: Any, **call: Any) -> tuple[str, ...]:
        return contexts_of(target, SampleRequest(("a",), (0,), N, call))

    assert contexts(pipe) == ("cond",)
    assert contexts(pipe, true_cfg_scale=3.0) == ("cond",)
    assert contexts(pipe, negative_prompt="", true_cfg_scale=1.0) == ("cond",)
    assert contexts(pipe, negative_prompt="", true_cfg_scale=3.0) == ("cond", "uncond")
    assert contexts(tiny.qwen().pipe, negative_prompt="") == ("cond", "uncond")
    assert contexts(tiny.sdxl().pipe, guidance_scale=5.0) == ()


# -- leaving no trace -----------------------------------------------------------------------------


class Passing(ModelHook):
    """Somebody else's."""


def test_hooks_of_somebody_else_stay(pipe: Any) -> None:
    block = pipe.transformer.transformer_blocks[0]
    HookRegistry.check_if_exists_or_initialize(block).register_hook(Passing(), "theirs")
    before, plain = dict(vars(block)), sampled(pipe, request(), 0)
    baseline = baseline_of("first-block-cache")
    with baseline.apply(pipe, BaselineSetting("", {"threshold": 1e9}, N), {}):
        assert len(block._diffusers_hook.hooks) == 2
        assert not np.array_equal(sampled(pipe, request(), 0), plain)
    assert list(block._diffusers_hook.hooks) == ["theirs"]
    assert dict(vars(block)) == before
    np.testing.assert_array_equal(sampled(pipe, request(), 0), plain)


def test_nothing_remains_of_a_cache_that_fails_to_come_up() -> None:
    """Check a model whose first block diffusers hooks before it finds that there is no last one."""
    qwen = tiny.qwen().pipe
    before = [sorted(vars(module)) for module in qwen.transformer.modules()]
    config = diffusers.hooks.FirstBlockCacheConfig(threshold=0.1)
    with pytest.raises(IndexError), cache_enabled(qwen, config):
        pass
    assert [sorted(vars(module)) for module in qwen.transformer.modules()] == before
    assert not qwen.transformer.is_cache_enabled


# -- the demo model -------------------------------------------------------------------------------


def test_more_evaluations_bring_the_demo_nearer_to_its_full_run() -> None:
    """The one trained pipeline; the others have random weights."""
    pipe, baseline = load(), baseline_of("mag-cache")
    ask = SampleRequest(("a red circle on a blue background",), (0,), 30, CALL, 1)
    assert baseline.supports(pipe, ask) == ""
    full = sampled(pipe, ask, 0, 30)
    measured = baseline.calibrate(pipe, ask, (5, 15))
    errors = []
    for setting in baseline.settings(30, (5, 15), measured):
        with baseline.apply(pipe, setting, measured):
            errors.append(float(np.sqrt(((sampled(pipe, ask, 0, 30) - full) ** 2).mean())))
    assert 0 < 4 * errors[1] < errors[0] < 0.2
