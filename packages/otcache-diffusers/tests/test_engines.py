"""Pipelines whose denoiser is an object that runs an engine, and no torch module."""

from __future__ import annotations

import copy
import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from engines import SCHEDULER, ArrayEngine, ArrayPipeline, Engine, PassingPipeline, engine_of, xl

from otcache_core import ExecutionError, Schedule
from otcache_core.contracts import SampleRequest
from otcache_diffusers.execution.block_executor import BlockExecutor
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks import unsupported
from otcache_diffusers.recording.facts import fingerprint_of, provenance_of
from otcache_diffusers.recording.probe import TorchProbe

N = 6
SCHEDULE = Schedule(N, (0, 1, 4), "linear")
FULL = Schedule(N, tuple(range(N)))
REQUEST = SampleRequest(({"prompt_embeds": tiny.noise(1, 12, 64)},) * 2, (3, 4), N)


def _run(case: tiny.Case, schedule: Schedule, steps: int = N) -> tuple[torch.Tensor, Any]:
    with TorchExecutor().attach(case.pipe, schedule) as run:
        return case(steps), run.report


@pytest.mark.parametrize("over", [False, True], ids=["its own buffer", "over the state"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_runs_are_those_of_the_module_that_computes_the_same(prediction: str, over: bool) -> None:
    case, other = xl(prediction), xl(prediction)
    engine = engine_of(other, over)
    full = case(N)
    assert torch.equal(other(N), full)
    for schedule in (SCHEDULE, FULL, Schedule(N, (0, 2, 3))):
        engine.session.runs = 0
        made, report = _run(other, schedule)
        assert torch.equal(made, _run(case, schedule)[0])
        assert engine.session.runs == schedule.budget == report.computed["call"]
    assert torch.equal(made, full) is False


def test_an_output_over_the_state_leaves_the_state_without_guidance_too() -> None:
    # Then the sampler's own latent is the argument: what the engine writes would be its next state.
    case, other = xl(), xl()
    engine_of(other, over=True)
    plain = {"guidance_scale": 1.0}
    with TorchExecutor().attach(other.pipe, FULL):
        assert torch.equal(other(N, **plain), case(N, **plain))


@pytest.mark.parametrize("fails_at", [-1, 3])
def test_nothing_remains_on_the_object(fails_at: int) -> None:
    case = xl()
    engine = engine_of(case)
    case(N)
    engine.session.runs, engine.session.fails_at = 0, fails_at
    known, config = dict(vars(engine)), dict(case.pipe.config)
    try:
        with TorchExecutor().attach(case.pipe, FULL):
            assert isinstance(engine, Engine)
            assert engine.__class__ is Engine
            assert case.pipe.components["unet"] is engine
            assert vars(engine) == known
            case(N)
    except RuntimeError:
        assert fails_at == 3
    assert type(engine) is Engine
    assert (vars(engine), dict(case.pipe.config)) == (known, config)


class Plain:
    """Can be pickled."""

    def __init__(self) -> None:
        self.config, self.weights = {"a": 1}, [1.0]

    def __call__(self, sample: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        return (sample * 0.1,)


class Copied(Plain):
    """Makes its copies itself."""

    def __deepcopy__(self, memo: Any) -> Any:
        return type(self)()


@pytest.mark.parametrize("kind", [Plain, Copied])
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_made_meanwhile_are_of_its_class(kind: type, way: Any) -> None:
    case = xl()
    case.pipe.unet = denoiser = kind()
    with TorchExecutor().attach(case.pipe, FULL):
        made = way(denoiser)
    assert type(made) is kind
    assert vars(made) == vars(denoiser)


def test_two_pipelines_share_an_engine() -> None:
    case, twin, module = xl(), xl(), xl()
    twin.pipe.unet = engine_of(case)
    full, other = module(N), Schedule(N, (0, 2, 3, 5))
    wanted = [_run(module, SCHEDULE)[0], _run(module, other)[0]]
    with TorchExecutor().attach(case.pipe, SCHEDULE) as one:
        with TorchExecutor().attach(twin.pipe, other) as two:
            assert [torch.equal(a(N), b) for a, b in zip((case, twin), wanted, strict=True)] == [
                True
            ] * 2
        assert torch.equal(case(N), wanted[0])
    assert (one.report.skipped, two.report.skipped) == ({"call": 6}, {"call": 2})
    assert torch.equal(twin(N), full)


class Adapter:
    """Stands before an engine while the pipeline is called, as that of OpenVINO's Z-Image does."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner

    def __call__(self, sample: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        return self._inner(sample, timestep, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_inner"], name)


class AdaptingPipeline(PassingPipeline):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inner, self.unet = self.unet, Adapter(self.unet)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self.unet = inner


def test_an_object_that_takes_the_denoiser_s_place_during_a_call() -> None:
    case, module = xl(), xl()
    engine = engine_of(case)
    case.pipe.__class__ = AdaptingPipeline
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        assert torch.equal(case(N), _run(module, SCHEDULE)[0])
        assert torch.equal(case(N), _run(module, SCHEDULE)[0])
    assert (engine.session.runs, run.report.skipped) == (6, {"call": 6})
    assert type(engine) is Engine


def test_branches_have_the_names_that_the_pipeline_gives() -> None:
    case, module = tiny.flux(cfg=True), tiny.flux(cfg=True)
    engine_of(case)
    schedule = Schedule(N, (0, 2, 4), branches=(("uncond", (0, 4)),))
    made, report = _run(case, schedule)
    assert torch.equal(made, _run(module, schedule)[0])
    assert report.computed == {"cond": 3, "uncond": 2}


def test_numpy_arrays_in_and_out() -> None:
    torch.manual_seed(0)
    net = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=16,
    )
    engine = ArrayEngine(net)
    pipe = ArrayPipeline(engine, DDIMScheduler(**SCHEDULER))
    pipe.set_progress_bar_config(disable=True)
    full = pipe(N)
    with TorchExecutor().attach(pipe, FULL):
        np.testing.assert_array_equal(pipe(N), full)
    engine.model.runs = 0
    with TorchExecutor().attach(pipe, Schedule(N, (0, 1, 4))) as run:
        made = pipe(N)
    assert (engine.model.runs, run.report.skipped, run.report.warnings) == (3, {"call": 3}, [])
    np.testing.assert_array_equal(made, _reused(pipe, {0: 0, 1: 1, 2: 1, 3: 1, 4: 4, 5: 4}))


def _reused(pipe: Any, sources: dict[int, int]) -> Any:
    """Sample by hand, with the outputs of other steps."""
    scheduler, x = pipe.scheduler, tiny.noise(1, 4, 8, 8, seed=0)
    scheduler.set_timesteps(N)
    outputs: dict[int, torch.Tensor] = {}
    for i, t in enumerate(scheduler.timesteps):
        if sources[i] == i:
            given = {"sample": x.numpy(), "timestep": np.array([t], np.int64)}
            made = pipe.unet(**given, encoder_hidden_states=tiny.noise(1, 5, 16).numpy())
            outputs[i] = torch.from_numpy(made[0].copy())
        x = scheduler.step(outputs[sources[i]], t, x).prev_sample
    return x.numpy()


# -- calibrated ---------------------------------------------------------------------------------


def test_trajectories_are_those_of_the_module() -> None:
    case, module = xl(), xl()
    engine_of(case)
    call = {k: v for k, v in case.call.items() if k not in ("prompt_embeds",)}
    request = SampleRequest(REQUEST.prompts, REQUEST.seeds, N, call)
    for made, wanted in zip(
        TorchProbe().record(case.pipe, request),
        TorchProbe().record(module.pipe, request),
        strict=True,
    ):
        np.testing.assert_array_equal(made.states, wanted.states)
        np.testing.assert_array_equal(made.outputs, wanted.outputs)


def test_provenance_is_read_off_the_object() -> None:
    case, module = xl(), xl()
    engine_of(case)
    known, wanted = (provenance_of(c.pipe, N, c.call) for c in (case, module))
    assert known.pop("model_class") == "Engine"
    wanted.pop("model_class")
    assert known == wanted


def test_the_fingerprint_knows_the_files_of_the_engine(tmp_path: Path) -> None:
    case = xl()
    engine: Any = engine_of(case)
    engine.path = tmp_path / "model.onnx"
    found = []
    for text in ("weights", "weights", "other weights"):
        engine.path.write_text(text)
        found.append(fingerprint_of(case.pipe))
    (tmp_path / "model.onnx_data").write_text("more")
    found.append(fingerprint_of(case.pipe))
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_a_call_that_passes_its_arguments_on_has_those_of_its_base() -> None:
    case, module = xl(), xl()
    engine_of(case)
    case.pipe.__class__ = PassingPipeline
    known, wanted = (provenance_of(c.pipe, N, {"height": 16, "width": 16}) for c in (case, module))
    assert known["guidance"] == wanted["guidance"] == "cfg 5.0"
    text = SampleRequest(("a dot",), (0,), N)
    assert TorchProbe().prepared(case.pipe, text) == TorchProbe().prepared(module.pipe, text)


# -- refused ------------------------------------------------------------------------------------


class Called:
    """Calls a function, as the message advises."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


@pytest.mark.remedy("write a class whose __call__ calls it", value=True)
def test_a_function_is_refused() -> None:
    case = xl()
    for denoiser in (lambda *args: args, functools.partial(print)):
        case.pipe.unet = denoiser
        assert "write a class whose __call__ calls it" in unsupported(case.pipe)
        case.pipe.unet = Called(denoiser)
        assert unsupported(case.pipe) == ""


def test_a_class_that_cannot_be_extended_is_refused() -> None:
    class Closed:
        def __init_subclass__(cls) -> None:
            raise TypeError("closed")

        def __call__(self) -> None: ...

    case = xl()
    case.pipe.unet = Closed()
    with pytest.raises(ExecutionError, match="Closed cannot be attached to: closed"):
        TorchExecutor().attach(case.pipe, FULL).__enter__()


def test_blocks_are_those_of_modules() -> None:
    case = xl()
    engine_of(case)
    assert "Engine" in BlockExecutor().supports(case.pipe)


def test_a_pipeline_is_no_denoiser() -> None:
    case = xl()
    case.pipe.unet = None
    case.pipe.prior = xl().pipe
    assert isinstance(case.pipe.prior, StableDiffusionXLPipeline)
    assert "has none of" in unsupported(case.pipe)
