"""What others do to the denoiser: LoRA, and offloading in whole, by layer and by group."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import tiny
import torch
from repeating import repeated

from otcache_core import Schedule
from otcache_diffusers.execution.executor import TorchExecutor

N = 6
SCHEDULE = Schedule(N, (0, 1, 4))
CPU = torch.device("cpu")


def _state(module: torch.nn.Module) -> dict[str, Any]:
    """Who is there; offloading renews its own hook and wrapper at the end of each run."""
    return {k: type(v) for k, v in vars(module).items()}


# -- LoRA ---------------------------------------------------------------------------------------


def _lora() -> dict[str, torch.Tensor]:
    """Return the weights of a LoRA for the tiny Flux, as a file of one holds them."""
    peft = pytest.importorskip("peft")
    donor = tiny.flux().pipe.transformer
    torch.manual_seed(1)
    donor.add_adapter(
        peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"])
    )
    return {f"transformer.{k}": v for k, v in peft.get_peft_model_state_dict(donor).items()}


def test_lora_is_loaded_fused_and_unloaded_inside_the_context() -> None:
    weights = _lora()
    case, other = tiny.flux(), tiny.flux()
    half = {"joint_attention_kwargs": {"scale": 0.5}}
    changes: list[tuple[Callable[[Any], Any], dict[str, Any]]] = [
        (lambda pipe: None, {}),
        (lambda pipe: pipe.load_lora_weights(dict(weights), adapter_name="a"), {}),
        (lambda pipe: None, half),
        (lambda pipe: pipe.set_adapters(["a"], [0.7]), {}),
        (lambda pipe: pipe.fuse_lora(), {}),
        (lambda pipe: pipe.unfuse_lora(), {}),
        (lambda pipe: pipe.unload_lora_weights(), {}),
    ]
    made, wanted = [], []
    for change, call in changes:
        change(other.pipe)
        wanted.append(repeated(other, SCHEDULE, **call))
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        for change, call in changes:
            change(case.pipe)
            made.append(case(N, **call))
    assert all(torch.equal(a, b) for a, b in zip(made, wanted, strict=True))
    assert not any(torch.equal(made[0], x) for x in made[1:4])
    assert run.report.skipped == {"cond": 3 * len(changes)}
    assert "forward" not in vars(case.denoiser)


@pytest.mark.parametrize("fused", [False, True], ids=["loaded", "fused"])
def test_lora_that_was_there_before_stays(fused: bool) -> None:
    case = tiny.flux()
    case.pipe.load_lora_weights(_lora(), adapter_name="a")
    if fused:
        case.pipe.fuse_lora()
    plain, wanted = case(N), repeated(case, SCHEDULE)
    before = _state(case.denoiser)
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        assert torch.equal(case(N), wanted)
    assert _state(case.denoiser) == before
    assert torch.equal(case(N), plain)


# -- offloading ---------------------------------------------------------------------------------


def _model(pipe: Any) -> None:
    pytest.importorskip("accelerate")
    pipe.enable_model_cpu_offload(device="cpu")


def _sequential(pipe: Any) -> None:
    """As enable_sequential_cpu_offload does; that one refuses to compute on the CPU."""
    accelerate = pytest.importorskip("accelerate")
    for part in (pipe.vae, pipe.transformer):
        accelerate.cpu_offload(part, CPU, offload_buffers=True)


def _by_group(pipe: Any, **how: Any) -> None:
    pytest.importorskip("accelerate")  # group offloading moves tensors by it
    old = int(diffusers.__version__.split(".")[1]) < 41
    if old and not torch.accelerator.is_available():
        pytest.skip("diffusers before 0.41 offloads no groups where there is no accelerator")
    pipe.transformer.enable_group_offload(onload_device=CPU, **how)


def _leaves(pipe: Any) -> None:
    _by_group(pipe, offload_type="leaf_level")


def _blocks(pipe: Any) -> None:
    _by_group(pipe, offload_type="block_level", num_blocks_per_group=1)


WAYS = {"model": _model, "sequential": _sequential, "leaves": _leaves, "blocks": _blocks}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", ["offloaded", "accelerated"])
def test_offloading_before_the_context_and_inside_it(way: str, first: str) -> None:
    case = tiny.flux(cfg=True)
    plain, wanted = case(N), repeated(case, SCHEDULE)
    if first == "offloaded":
        WAYS[way](case.pipe)
        case(N)
        before = _state(case.denoiser)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        if first == "accelerated":
            assert torch.equal(case(N), wanted)
            WAYS[way](case.pipe)
        assert torch.equal(case(N), wanted)
        assert torch.equal(case(N), wanted)
    runs = 2 if first == "offloaded" else 3
    assert run.report.skipped == {"cond": 3 * runs, "uncond": 3 * runs}
    assert run.report.warnings == []
    if first == "offloaded":
        assert _state(case.denoiser) == before
    assert torch.equal(case(N), plain)


def test_a_wrapper_put_around_ours_stays_and_ours_does_not() -> None:
    """A wrapper put around forward inside the context keeps our patch, which lets everything through."""
    case = tiny.flux()
    module, seen = case.denoiser, []
    plain, wanted = case(N), repeated(case, SCHEDULE)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        ours = module.forward

        @functools.wraps(ours)  # copies the attributes of ours too
        def theirs(*args: Any, **kwargs: Any) -> Any:
            seen.append(1)
            return ours(*args, **kwargs)

        module.forward = theirs
        assert torch.equal(case(N), wanted)
        assert torch.equal(case(N), wanted)
    assert run.report.skipped == {"cond": 6}
    assert len(seen) == 6
    assert vars(module)["forward"] is theirs
    assert torch.equal(case(N), plain)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        assert torch.equal(case(N), wanted)
    assert len(seen) == 6 + N + 3


def test_a_skipped_step_loads_no_weights() -> None:
    """What offloading costs is saved too: no hook of the denoiser's parts runs."""
    case = tiny.flux()
    _leaves(case.pipe)
    tiny.counted(case.denoiser)
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        case(N)
    assert tiny.calls_of(case.denoiser) == 3
