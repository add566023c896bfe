"""A miniature Wan pipeline that takes prompts, what its blocks do, and the kit of baselines on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import tiny
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
from diffusers.models import WanTransformer3DModel

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.plugins import Registry
from otcache_core.testing.baselines import BaselineConformance

N, LAYERS = 8, 3
LAW_STEPS = 6
CALL: dict[str, Any] = {"height": 16, "width": 16, "num_frames": 5, "guidance_scale": 3.0}


def transformer(seed: int = 0) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=LAYERS,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    ).eval()


def pipeline(two: bool = False) -> Any:
    """Guided by two calls per step; each text has embeddings of its own."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    pipe: Any = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=transformer(),
        transformer_2=transformer(1) if two else None,
        boundary_ratio=0.9 if two else None,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.encode_prompt = _encode
    return pipe


def _encode(prompt: Any = None, negative_prompt: Any = None, **given: Any) -> Any:
    def embed(texts: list[str]) -> torch.Tensor:
        return torch.cat([tiny.noise(1, 12, 32, seed=1 + sum(map(ord, text))) for text in texts])

    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    return embed(texts), embed([negative_prompt or ""] * len(texts))


def request(steps: int = N) -> SampleRequest:
    return SampleRequest(("a", "c"), (0, 1), steps, CALL, 1)


def sampled(pipe: Any, sample: int, steps: int = N, **more: Any) -> Any:
    ask = request()
    case = tiny.Case(pipe, dict(CALL), ())
    return case(steps, ask.seeds[sample], prompt=ask.prompts[sample], **more).numpy()


@dataclass
class Seen:
    """What one call of the transformer showed, in the order of the calls: cond, uncond, cond, ...

    Attributes:
        given: of the first block: its arguments.
        entered: the hidden states before the blocks, and after them.
        worked: blocks whose feed-forward ran.
    """

    given: tuple[Any, Any] = ((), {})
    entered: list[torch.Tensor] = field(default_factory=list)
    worked: list[int] = field(default_factory=list)


@contextmanager
def watched(pipe: Any) -> Iterator[list[Seen]]:
    net, calls = pipe.transformer, list[Seen]()

    def first(block: Any, args: Any, kwargs: Any) -> None:
        calls[-1].given = (args, kwargs)
        calls[-1].entered.append(args[0].clone())

    def work(n: int) -> Any:
        return lambda *call: calls[-1].worked.append(n)

    handles = [
        net.register_forward_pre_hook(lambda *call: calls.append(Seen())),
        net.blocks[0].register_forward_pre_hook(first, with_kwargs=True),
        net.norm_out.register_forward_pre_hook(lambda m, args: calls[-1].entered.append(args[0])),
        *(
            block.ffn.net[-1].register_forward_pre_hook(work(n))
            for n, block in enumerate(net.blocks)
        ),
    ]
    yield calls
    for handle in handles:
        handle.remove()


def ladder(name: str, pipe: Any) -> tuple[Baseline, list[BaselineSetting], dict[str, Any]]:
    baseline = Registry().create("baselines", name)
    measured = dict(baseline.calibrate(pipe, request(), (3, 4)))
    return baseline, list(baseline.settings(N, (3, 4), measured)), measured


def run(name: str, setting: int) -> tuple[list[list[Seen]], BaselineSetting, torch.nn.Module]:
    """Return calls of each branch under a setting of a baseline's, and a first block that nothing is on."""
    pipe = pipeline()
    plain = copy.deepcopy(pipe.transformer.blocks[0])
    baseline, settings, measured = ladder(name, pipe)
    with baseline.apply(pipe, settings[setting], measured), watched(pipe) as calls:
        sampled(pipe, 0)
    assert len(calls) == 2 * N
    return [calls[0::2], calls[1::2]], settings[setting], plain


def added(call: Seen) -> torch.Tensor:
    before, after = call.entered
    return after - before


def tails(calls: list[Seen], plain: torch.nn.Module) -> list[torch.Tensor]:
    """Return what all blocks but the first added in each call; ``plain`` is the first one."""
    with torch.no_grad():
        return [call.entered[1] - plain(*call.given[0], **call.given[1]) for call in calls]


class WanLaws(BaselineConformance):
    """The checks on that pipeline."""

    name: str
    budgets = (3, 4)

    def make_baseline(self) -> Baseline:
        return Registry().create("baselines", self.name)

    def make_target(self) -> Any:
        return pipeline()

    def request(self) -> SampleRequest:
        return request(LAW_STEPS)

    def run(self, target: Any, sample: int, num_steps: int) -> Any:
        return sampled(target, sample, num_steps)

    def traces(self, target: Any) -> Any:
        modules = [sorted(vars(module)) for module in target.transformer.modules()]
        registry = vars(target.transformer).get("_diffusers_hook")
        called = id(type(target).__call__)
        return modules, list(getattr(registry, "hooks", {})), sorted(vars(target.scheduler)), called

    def break_off(self, target: Any, num_steps: int) -> None:
        def stop(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
            if step == num_steps // 2:
                raise InterruptedError
            return kwargs

        with pytest.raises(InterruptedError):
            sampled(target, 0, num_steps, callback_on_step_end=stop)
