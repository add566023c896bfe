"""One policy in pipelines, a loop, numpy and ONNX Runtime: the same steps, latents equal within rounding."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_flux
import torch
from diffusers import FluxModularPipeline
from numpy.typing import NDArray

import otcache
from otcache_core import Playback, PlaybackTable, Policy, Provenance, Schedule

ROOT = Path(__file__).parents[1]
N = tiny_flux.N
GRID = tuple((1 - np.arange(N + 1) / N).tolist())
BUDGETS = (2, 3, 4, N)
Array = NDArray[np.float32]
Denoiser = Callable[[Array, float], Array]


def _policy() -> Policy:
    """Make a policy of fitted weights, and of linear forecasts at its larger budget."""
    few = Schedule(N, (0, 4)).with_weights([(0.1,), (0.2, -0.3)])
    provenance = Provenance(N, prediction_type="flow", grid=GRID)
    return Policy(few, Schedule(N, (0, 1, 4, 6), "linear"), provenance)


POLICY = _policy()


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_flux.make_flux()


@pytest.fixture(scope="module")
def inputs(pipe: Any) -> dict[str, torch.Tensor]:
    """Provide what the pipeline gives its transformer in the first call of a run."""
    seen: dict[str, torch.Tensor] = {}

    def note(_: Any, given: Sequence[Any], named: dict[str, Any]) -> None:
        seen.update(
            {k: v for k, v in named.items() if isinstance(v, torch.Tensor) and k not in seen}
        )

    with pipe.transformer.register_forward_pre_hook(note, with_kwargs=True):
        tiny_flux.sample(pipe)
    return seen


@contextmanager
def _steps(pipe: Any) -> Iterator[list[int]]:
    """Note the step of every call in which the transformer really computes, by its time."""
    made: list[int] = []

    def note(_: Any, given: Sequence[torch.Tensor]) -> None:
        made.append(round(N * (1 - float(given[0][0]) / 1000)))

    with pipe.transformer.time_text_embed.register_forward_pre_hook(note):
        yield made


def _denoiser(pipe: Any, inputs: dict[str, torch.Tensor]) -> Denoiser:
    """Return the transformer as a function of numpy arrays."""
    text = {k: v for k, v in inputs.items() if k not in ("hidden_states", "timestep")}

    def call(x: Array, level: float) -> Array:
        time, state = torch.tensor([level], dtype=torch.float32), torch.from_numpy(x)
        with torch.no_grad():
            v = pipe.transformer(hidden_states=state, timestep=time, **text, return_dict=False)[0]
        made: Array = v.numpy()
        return made

    return call


def _follow(denoise: Denoiser, noise: Array, table: PlaybackTable) -> tuple[Array, list[int]]:
    """Sample with Euler on numpy arrays, by the table; return latent and computed steps."""
    playback, x, made = Playback(table), noise, []
    playback.begin()
    for step in range(N):
        output = playback.forecast("", step, x)
        if output is None:
            output = denoise(x, table.grid[step])
            made.append(step)
            playback.keep("", step, output, x)
        x = x + np.float32(table.grid[step + 1] - table.grid[step]) * output
    return x, made


def _loop(pipe: Any, inputs: dict[str, torch.Tensor]) -> otcache.Loop:
    """Return a torch loop around the pipeline's transformer."""

    def sample(prompts: Sequence[str], seeds: Sequence[int], num_steps: int) -> torch.Tensor:
        x = inputs["hidden_states"]
        for i in range(num_steps):
            given = {**inputs, "hidden_states": x, "timestep": torch.tensor([GRID[i]])}
            x = x + (GRID[i + 1] - GRID[i]) * pipe.transformer(**given, return_dict=False)[0]
        return x

    return otcache.loop(sample, denoiser=pipe.transformer, grid=list(GRID), calls_per_step=1)


@pytest.fixture(scope="module")
def wanted(pipe: Any) -> dict[int, Array]:
    """Provide the pipeline's own latent at each budget, whose steps are the schedule's."""
    latents = {}
    for budget in BUDGETS:
        schedule = POLICY.schedule(budget)
        with _steps(pipe) as made, otcache.accelerate(pipe, schedule):
            latents[budget] = tiny_flux.sample(pipe).numpy()
        assert tuple(made) == schedule.computed
    return latents


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_loop_of_one_s_own(
    pipe: Any, inputs: dict[str, torch.Tensor], wanted: dict[int, Array], budget: int
) -> None:
    loop, schedule = _loop(pipe, inputs), POLICY.schedule(budget)
    with _steps(pipe) as made, otcache.accelerate(loop, schedule), torch.no_grad():
        latent = loop(["any"], [0], N)
    assert tuple(made) == schedule.computed
    np.testing.assert_allclose(latent.numpy(), wanted[budget], atol=1e-5)


@pytest.fixture(scope="module")
def modular(pipe: Any) -> Any:
    """Provide a ModularPipeline of the pipeline's parts, which takes embeddings."""
    blocks = FluxModularPipeline()._blocks
    blocks.sub_blocks.pop("text_encoder")
    made = FluxModularPipeline(blocks=blocks)
    parts = {name: pipe.components.get(name) for name in made.components}
    made.update_components(**{name: part for name, part in parts.items() if part is not None})
    return tiny_flux.quiet(made)


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_modular_pipeline(pipe: Any, modular: Any, wanted: dict[int, Array], budget: int) -> None:
    schedule = POLICY.schedule(budget)
    with _steps(pipe) as made, otcache.accelerate(modular, schedule), torch.no_grad():
        latent = modular(
            prompt_embeds=tiny_flux.noise(1, 4, 8),
            pooled_prompt_embeds=tiny_flux.noise(1, 8),
            generator=torch.Generator().manual_seed(0),
            height=16,
            width=16,
            num_inference_steps=N,
            output_type="latent",
            output="latents",
        )
    assert tuple(made) == schedule.computed
    packed = torch.from_numpy(wanted[budget])
    unpacked = pipe._unpack_latents(packed, 16, 16, pipe.vae_scale_factor)
    np.testing.assert_allclose(latent.numpy(), unpacked.numpy(), atol=1e-5)


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_numpy_follower(
    pipe: Any, inputs: dict[str, torch.Tensor], wanted: dict[int, Array], budget: int
) -> None:
    denoise, noise = _denoiser(pipe, inputs), inputs["hidden_states"].numpy()
    with _steps(pipe) as really:
        latent, made = _follow(denoise, noise, POLICY.export(budget))
    assert really == made
    assert tuple(made) == POLICY.schedule(budget).computed
    np.testing.assert_allclose(latent, wanted[budget], atol=1e-5)


@pytest.fixture(scope="module")
def network(
    pipe: Any, inputs: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Provide an ONNX Runtime session of the transformer, as examples/playback_export.py exports it."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    names = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")
    path = tmp_path_factory.mktemp("onnx") / "denoiser.onnx"
    example = _example("playback_export")
    module = example.Denoiser(pipe.transformer, inputs["img_ids"], inputs["txt_ids"])
    example.export(module, {name: inputs[name] for name in names}, "prediction", path)
    return _example("playback_onnx").session(path)


@pytest.mark.parametrize("budget", BUDGETS)
def test_an_onnx_session(
    network: Any, inputs: dict[str, torch.Tensor], wanted: dict[int, Array], budget: int
) -> None:
    text = {name: inputs[name].numpy() for name in ("encoder_hidden_states", "pooled_projections")}
    call = _example("playback_onnx").denoiser(network)
    noise = inputs["hidden_states"].numpy()
    latent, made = _follow(lambda x, s: call(x, s, text), noise, POLICY.export(budget))
    assert tuple(made) == POLICY.schedule(budget).computed
    np.testing.assert_allclose(latent, wanted[budget], atol=1e-5)


def _example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
