"""A ControlNet or an IP-Adapter is omitted in steps without denoiser calls, and in no other."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import pytest
import tiny
import torch
from families import Case, N
from families.stable_diffusion import sd15, xl, xl_controlnet
from repeating import repeated
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from otcache_core import ExecutionError, Schedule
from otcache_core.contracts import RunReport
from otcache_core.forecasters.extrapolation import Reuse
from otcache_diffusers.execution.cached_steps import CachedSteps
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks import drive
from otcache_diffusers.hooks.arguments import Arguments
from otcache_diffusers.hooks.auxiliary import AuxiliaryCalls
from otcache_diffusers.testing.families import noise

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
SCHEDULE = Schedule(N, (0, 1, 4))


def _nets(case: Case) -> list[nn.Module]:
    net = case.pipe.controlnet
    return list(getattr(net, "nets", [net]))


def _counted(net: nn.Module, breaks_at: int = 0) -> list[int]:
    """Grows by one element a call, seen from inside the net."""
    calls: list[int] = []

    def seen(module: nn.Module, args: Any) -> None:
        calls.append(len(calls))
        if len(calls) == breaks_at:
            raise KeyError("broken")

    net.get_submodule("controlnet_cond_embedding").register_forward_pre_hook(seen)
    return calls


def _with_net_always(case: Case) -> torch.Tensor:
    """Return the oracle's: the same schedule, and the ControlNet runs at every step."""
    policy = CachedSteps(SCHEDULE, lambda name: Reuse(), RunReport())
    with drive(case.pipe, policy):
        return case()


@pytest.mark.parametrize("nets", [1, 2])
@pytest.mark.parametrize("guess", [False, True])
def test_it_runs_at_computed_steps_only_and_nothing_else_changes(nets: int, guess: bool) -> None:
    case = xl_controlnet(nets, guess_mode=guess)
    wanted = _with_net_always(case)
    calls = [_counted(net) for net in _nets(case)]
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        assert torch.equal(case(), wanted)
    assert [len(seen) for seen in calls] == [3] * nets
    assert run.report.auxiliary == {"controlnet": (3, 3)}
    assert run.report.skipped == {"call": 3}
    assert run.report.warnings == []


def test_its_output_matters_at_computed_steps() -> None:
    """Else the tests above would show nothing."""
    one, other = xl_controlnet(), xl_controlnet(controlnet_conditioning_scale=0.0)
    assert not torch.equal(_with_net_always(one), _with_net_always(other))


@pytest.mark.parametrize("breaks_at", [0, 2])
def test_nothing_remains_on_it(breaks_at: int) -> None:
    case = xl_controlnet(2)
    net = case.pipe.controlnet
    plain = case()
    calls = _counted(_nets(case)[1], breaks_at)
    before = {k: id(v) for k, v in vars(net).items()}, str(inspect.signature(net.forward))
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        if breaks_at:
            with pytest.raises(KeyError):
                case()
        else:
            case()
    assert len(calls) == (breaks_at or 3)
    assert ({k: id(v) for k, v in vars(net).items()}, str(inspect.signature(net.forward))) == before
    assert torch.equal(case(), plain)


def test_a_broken_run_leaves_nothing_to_the_next() -> None:
    case = xl_controlnet()
    wanted = _with_net_always(case)
    _counted(_nets(case)[0], breaks_at=3)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        with pytest.raises(KeyError):
            case()
        assert torch.equal(case(), wanted)
    assert run.report.auxiliary == {"controlnet": (2 + 3, 2 + 3)}


def test_runs_of_other_sizes_and_batches_go_back_to_back() -> None:
    case = xl_controlnet()
    sizes = [{}, {"height": 32}, {"num_images_per_prompt": 2}, {}]
    plain = dict(case.call)
    wanted = []
    for change in sizes:
        case.call = plain | change
        wanted.append(_with_net_always(case))
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        for change, result in zip(sizes, wanted, strict=True):
            case.call = plain | change
            assert torch.equal(case(), result)
    assert run.report.auxiliary == {"controlnet": (12, 12)}


def _ends_guidance(at: int) -> Any:
    def callback(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        if step == at:
            pipe._guidance_scale = 1.0
            return {name: value.chunk(2)[-1] for name, value in given.items()}
        return {}

    return callback


@pytest.mark.parametrize("guess", [False, True])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_guidance_that_ends_during_a_run_finds_the_true_output(at: int, guess: bool) -> None:
    """In guess mode the ControlNet's batch stays, so only the denoiser notices."""
    inputs = ["prompt_embeds", "add_text_embeds", "add_time_ids"] + ["image"] * (not guess)
    case = xl_controlnet(
        guess_mode=guess,
        callback_on_step_end=_ends_guidance(at),
        callback_on_step_end_tensor_inputs=inputs,
    )
    case.pipe._callback_tensor_inputs = [*case.pipe._callback_tensor_inputs, *inputs]
    wanted = _with_net_always(case)
    calls = _counted(_nets(case)[0])
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        assert torch.equal(case(), wanted)
    computed, skipped = run.report.auxiliary["controlnet"]
    assert computed == len(calls) >= sum(run.report.computed.values())
    assert computed + skipped == N


def test_one_that_another_pipeline_uses_keeps_running() -> None:
    case, other = xl_controlnet(), xl_controlnet()
    other.pipe.controlnet = case.pipe.controlnet
    calls = _counted(case.pipe.controlnet)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        case()
    assert len(calls) == N
    assert run.report.auxiliary == {}
    assert run.report.warnings == [
        "controlnet still runs on skipped steps, so the speedup is below N/B: "
        "StableDiffusionXLControlNetPipeline uses it too."
    ]


def test_a_pipeline_that_shares_the_denoiser_too_does_not_count() -> None:
    case = xl_controlnet()
    other = type(case.pipe)(**case.pipe.components)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        case()
    assert run.report.auxiliary == {"controlnet": (3, 3)}
    del other


def test_pipelines_without_one_report_none() -> None:
    case = xl()
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        case()
    assert run.report.auxiliary == {}


# -- IP-Adapter: an image as a prompt ------------------------------------------------------------


def _ip_adapter(scale: float = 1.0) -> Case:
    """Stable Diffusion 1.5 with random weights of an IP-Adapter and a tiny encoder of images."""
    case = sd15()
    unet, width = case.pipe.unet, 32
    torch.manual_seed(1)
    layers = {}
    for at, name in enumerate(n for n in unet.attn_processors if "attn2" in n):
        out = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        layers |= {f"{2 * at + 1}.to_{x}_ip.weight": torch.randn(out, width) for x in "kv"}
    projection = {
        "proj.weight": torch.randn(4 * width, 16),
        "proj.bias": torch.randn(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": layers}])
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=16,
    )
    case.pipe.image_encoder = CLIPVisionModelWithProjection(config).eval()
    case.pipe.set_ip_adapter_scale(scale)
    case.call |= {"ip_adapter_image": noise(1, 3, 16, 16)}
    return case


def _layers(case: Case, kind: str) -> list[nn.Module]:
    return [m for name, m in case.pipe.unet.named_modules() if name.endswith(kind)]


def test_everything_computed_with_an_ip_adapter_is_bit_identical() -> None:
    case = _ip_adapter()
    plain = case()
    with TorchExecutor().attach(case.pipe, Schedule.full(N)) as run:
        assert torch.equal(case(), plain)
    assert (run.report.computed, run.report.warnings) == ({"call": N}, [])
    assert torch.equal(case(), plain)
    assert not torch.equal(plain, _ip_adapter(scale=0.0)())


def test_an_ip_adapter_is_skipped_with_the_step() -> None:
    """Its layers are the denoiser's own; its image is encoded once a run, before the first step."""
    case = _ip_adapter()
    plainly = tiny.Case(case.pipe, case.call, case.branches)
    wanted = repeated(plainly, SCHEDULE, num_inference_steps=case.num_inference_steps)
    calls: Counter[str] = Counter()
    parts = {"encoder": [case.pipe.image_encoder], "layers": _layers(case, "to_k_ip.0")}
    for name, modules in parts.items():
        for module in modules:
            module.register_forward_pre_hook(lambda m, args, name=name: calls.update([name]))
    plain = case()
    whole = dict(calls)
    calls.clear()
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        assert torch.equal(case(), wanted)
    assert not torch.equal(wanted, plain)
    assert whole["layers"] == len(parts["layers"]) * N
    assert calls == {"encoder": whole["encoder"], "layers": len(parts["layers"]) * 3}
    assert (run.report.computed, run.report.skipped) == ({"call": 3}, {"call": 3})
    assert (run.report.auxiliary, run.report.warnings) == ({}, [])


# -- the parts ----------------------------------------------------------------------------------


def _asked(calls: AuxiliaryCalls, rows: int = 2, idle: bool = True) -> Any:
    given = Arguments((torch.ones(rows, 3),), {})
    return calls.call("net", given, lambda: ([torch.ones(rows, 4)], torch.ones(rows)), lambda: idle)


def test_the_placeholder_of_an_output_takes_no_memory_and_has_its_structure() -> None:
    calls = AuxiliaryCalls({})
    (real,), last = _asked(calls)
    (blank,), other = _asked(calls)
    assert (blank.shape, other.shape) == (real.shape, last.shape)
    assert blank.untyped_storage().nbytes() == real.element_size()
    assert not blank.any()


def test_another_shape_is_computed() -> None:
    totals: dict[str, tuple[int, int]] = {}
    calls = AuxiliaryCalls(totals)
    _asked(calls)
    assert _asked(calls, rows=3)[1].sum() == 3
    assert calls.close(0, shortened=False) == ["net"]
    assert totals == {"net": (2, 0)}


def test_a_denoiser_that_is_called_after_all_gets_the_true_output() -> None:
    totals: dict[str, tuple[int, int]] = {}
    calls = AuxiliaryCalls(totals)
    _asked(calls)
    calls.close(0, shortened=False)
    samples, last = _asked(calls)
    arguments = Arguments((), {"residuals": samples, "middle": last, "mask": None})
    calls.supply(arguments, 1)
    assert arguments.kwargs["residuals"][0].all()
    assert arguments.kwargs["middle"].all()
    assert calls.close(1, shortened=False) == []
    assert totals == {"net": (2, 0)}


@pytest.mark.remedy("cannot be supplied: keep guidance and batch size as they are during a run")
def test_what_was_made_of_a_placeholder_is_refused() -> None:
    calls = AuxiliaryCalls({})
    _asked(calls)
    calls.close(0, shortened=False)
    samples, last = _asked(calls)
    arguments = Arguments((), {"residuals": [2 * samples[0]], "middle": last})
    with pytest.raises(
        ExecutionError, match=r"step 3: the denoiser must be computed.*net was omitted"
    ):
        calls.supply(arguments, 3)
    totals: dict[str, tuple[int, int]] = {}
    steady = AuxiliaryCalls(totals)
    for step in range(2):  # if nothing changes no denoiser is computed in a step that skips
        _asked(steady)
        steady.close(step, shortened=False)
    assert totals == {"net": (1, 1)}
