"""Tests of the executor on tiny, randomly initialized versions of diffusers pipelines.

Each :class:`Family` (a pipeline class) builds a :class:`Case`, from the components at the end of this file;
:class:`FamilyLaws` runs the same tests on each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from otcache_core.schedule import Schedule
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks import tensors
from otcache_diffusers.hooks.arguments import Arguments

#: Number of sampler steps of each run.
N = 6


@dataclass
class Case:
    """A tiny pipeline, the arguments of its call, and the branches that otcache should find in it.

    Attributes:
        pipe: has random weights, and no text encoder if the pipeline takes embeddings.
        call: keyword arguments of its call, without ``generator`` and ``num_inference_steps``.
        branches: in the order of their calls within a step; one name if guidance runs as one batch.
        denoiser: name of the denoiser's attribute on the pipeline.
        num_inference_steps: argument of the call for which the sampler makes ``steps`` steps.
        output_type: value that skips decoding; None if the pipeline takes no ``output_type``.
        steps: number of sampler steps of the run.
        notes: warnings that the report is expected to hold.
        layer: name of an inner layer that runs once per forward; by default the first ``nn.Linear``.
        others: attributes of further denoisers (``transformer_2``); each step calls one of them all.
    """

    pipe: Any
    call: dict[str, Any]
    branches: tuple[str, ...]
    denoiser: str = "transformer"
    num_inference_steps: int = N
    output_type: str | None = "latent"
    steps: int = N
    layer: str = ""
    notes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.pipe.set_progress_bar_config(disable=True)
        for module in self.modules:
            module.eval()

    @property
    def module(self) -> nn.Module:
        """The denoiser, or the first of several."""
        return self.modules[0]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All denoisers."""
        return tuple(getattr(self.pipe, name) for name in (self.denoiser, *self.others))

    @property
    def reuses_noise(self) -> bool:
        """Whether a skipped step reuses the predicted noise (epsilon) instead of the model output."""
        is_v = self.pipe.scheduler.config.get("prediction_type") == "v_prediction"
        return is_v and not self.notes

    @property
    def inner(self) -> tuple[nn.Module, ...]:
        """A layer inside each denoiser, not patched by otcache: it runs when the denoiser computes."""
        if self.layer:
            return tuple(module.get_submodule(self.layer) for module in self.modules)
        linear = (
            (m for m in module.modules() if isinstance(m, nn.Linear)) for module in self.modules
        )
        return tuple(map(next, linear))

    def __call__(self) -> torch.Tensor:
        """Run the pipeline once, always with the same seed."""
        generator = torch.Generator().manual_seed(0)
        call = {"generator": generator, "num_inference_steps": self.num_inference_steps}
        if self.output_type is not None:
            call["output_type"] = self.output_type
        with torch.no_grad():
            return torch.as_tensor(self.pipe(**self.call, **call)[0])


@dataclass(frozen=True)
class Family:
    """One row of docs/coverage.md.

    Attributes:
        name: its common name.
        pipeline: class name in diffusers.
        build: makes a case; the same one every time.
        requires: an argument that the pipeline's call must have, since its branches come from it; "" if
            none.
    """

    name: str
    pipeline: str
    build: Callable[[], Case]
    requires: str = ""

    @property
    def reason(self) -> str:
        """Why the installed diffusers cannot build this family; "" if it can."""
        kind = getattr(diffusers, self.pipeline, None)
        if kind is None:
            return f"diffusers {diffusers.__version__} has no {self.pipeline}"
        if self.requires and self.requires not in inspect.signature(kind.__call__).parameters:
            return f"{self.pipeline} of diffusers {diffusers.__version__} takes no {self.requires}"
        return ""


#: Computed steps of the accelerated runs.
COMPUTED = (0, 1, 4)
#: Each skipped step, and the computed step whose output it reuses.
REUSED = {2: 1, 3: 1, 5: 4}


def same_tensors(made: Any, own: Any) -> bool:
    """Return whether two outputs hold identical tensor objects; their containers may differ."""
    pairs = zip(tensors(made), tensors(own), strict=True)
    return all(a is b for a, b in pairs)


class Calls:
    """Count the calls of layers, and optionally raise at one of them.

    Args:
        layers: one layer of each denoiser.
        breaks_at: the call that raises KeyError, counted from 1 over all layers; None for none.
    """

    def __init__(self, layers: Sequence[nn.Module], breaks_at: int | None = None) -> None:
        self._breaks_at = breaks_at
        self.each = [0] * len(layers)
        self._handles = [
            layer.register_forward_pre_hook(partial(self._seen, n))
            for n, layer in enumerate(layers)
        ]

    @property
    def made(self) -> int:
        """Number of calls of all layers together."""
        return sum(self.each)

    def remove(self) -> None:
        """Stop counting."""
        for handle in self._handles:
            handle.remove()

    def _seen(self, n: int, module: nn.Module, args: Any) -> None:
        self.each[n] += 1
        if self.made == self._breaks_at:
            raise KeyError("broken")


class Outputs:
    """Record the denoisers' arguments and outputs as the pipeline sees them, at skipped steps too."""

    def __init__(self, case: Case) -> None:
        self.seen: list[tuple[Arguments, Any]] = []
        self._width = len(case.branches)
        self._handles = [
            module.register_forward_hook(self._see, with_kwargs=True) for module in case.modules
        ]

    def at(self, step: int) -> list[tuple[Arguments, Any]]:
        """Return the arguments and outputs of one step, in the order of its branches."""
        return self.seen[step * self._width : (step + 1) * self._width]

    def remove(self) -> None:
        """Stop recording."""
        for handle in self._handles:
            handle.remove()

    def _see(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.seen.append((Arguments(args, kwargs), output))


class Runs:
    """A family's pipeline and the runs that its tests share, each made at first use.

    Args:
        family: builds the pipeline.
    """

    def __init__(self, family: Family) -> None:
        self._family = family

    @cached_property
    def case(self) -> Case:
        """The pipeline and its call."""
        return self._family.build()

    @cached_property
    def plain(self) -> torch.Tensor:
        """The result without otcache; also checks that inner layers run once per denoiser call."""
        calls = Calls(self.case.inner)
        result = self.case()
        calls.remove()
        assert calls.made == self.case.steps * len(self.case.branches)
        return result

    @cached_property
    def accelerated(self) -> Accelerated:
        """The run that computes the three steps of ``COMPUTED``."""
        return Accelerated(self.case)


class Accelerated:
    """One run that computes three steps, and what was recorded of it.

    Args:
        case: the pipeline.

    Attributes:
        result: what the pipeline returned.
        report: the executor's report.
        calls: counts of the inner layers' calls.
        outputs: the denoisers' arguments and outputs as the pipeline saw them.
        states: attributes and signatures (see :func:`_state`) before, during and after the context.
    """

    def __init__(self, case: Case) -> None:
        self.calls, self.outputs = Calls(case.inner), Outputs(case)
        before = _state(case)
        with TorchExecutor().attach(case.pipe, Schedule(case.steps, COMPUTED)) as run:
            during = _state(case)
            self.result = case()
        self.states = before, during, _state(case)
        self.report = run.report
        self.calls.remove()
        self.outputs.remove()


def _epsilon(case: Case, step: int, arguments: Arguments, output: Any) -> torch.Tensor:
    """Convert a v-prediction to epsilon, sqrt(a) v + sqrt(1 - a) x, with a = alphas_cumprod.

    Only the channels that v and x share are converted: an input may hold further ones, such as the latents
    of a conditioning image, after those of x.
    """
    v, x = tensors(output)[0], arguments.state
    assert x is not None
    a = _alpha_cumprod(case.pipe.scheduler, step, arguments.timestep)
    noise = v.clone()
    shared = tuple(slice(min(sizes)) for sizes in zip(v.shape, x.shape, strict=True))
    noise[shared] = a.sqrt() * v[shared] + (1 - a).sqrt() * x[shared]
    return noise


def _alpha_cumprod(scheduler: Any, step: int, timestep: Any) -> torch.Tensor:
    """Return a = alphas_cumprod at a step; 1 / (1 + sigma^2) for a scheduler with continuous timesteps."""
    if scheduler.config.get("timestep_type") == "continuous":
        return torch.as_tensor(1 / (1 + scheduler.sigmas[step] ** 2))
    return torch.as_tensor(scheduler.alphas_cumprod[int(torch.as_tensor(timestep).flatten()[0])])


def _state(case: Case) -> tuple[Any, ...]:
    """Return what must be restored: the denoisers' attributes, signatures, and names of attributes."""
    scheduler = case.pipe.scheduler
    own = [{name: id(value) for name, value in vars(m).items()} for m in case.modules]
    methods = (*(module.forward for module in case.modules), scheduler.step)
    signatures = [str(inspect.signature(method)) for method in methods]
    return own, signatures, sorted(vars(scheduler)), sorted(vars(case.pipe))


class FamilyLaws:
    """Tests of identity, calls, restoration and isolation, which docs/coverage.md (tools/coverage.py) lists.

    A subclass defines a fixture ``family`` that is parametrized with the families::

        class TestFamilies(FamilyLaws):
            title = "Video"

            @pytest.fixture(scope="class", params=FAMILIES, ids=lambda family: family.name)
            def family(self, request):
                return request.param

    Attributes:
        title: title of the table in docs/coverage.md.
    """

    title: ClassVar[str] = ""

    @pytest.fixture(scope="class", autouse=True)
    def _described(self, record_testsuite_property: Any) -> None:
        record_testsuite_property("diffusers", diffusers.__version__)
        record_testsuite_property("title", self.title)

    @pytest.fixture(scope="class")
    def _runs(self, family: Family) -> Runs:
        return Runs(family)

    @pytest.fixture
    def runs(self, family: Family, _runs: Runs, record_property: Any) -> Runs:
        """Return the family's runs and record its properties; skip if diffusers lacks the pipeline."""
        record_property("family", family.name)
        record_property("pipeline", family.pipeline)
        if family.reason:
            pytest.skip(family.reason)
        made = _runs.case
        assert type(made.pipe).__name__ == family.pipeline
        record_property("denoiser", type(made.module).__name__)
        record_property("scheduler", type(made.pipe.scheduler).__name__)
        record_property("branches", ", ".join(made.branches))
        return _runs

    def test_identity_everything_computed_is_bit_identical(self, runs: Runs) -> None:
        case = runs.case
        assert torch.isfinite(runs.plain).all()
        with TorchExecutor().attach(case.pipe, Schedule.full(case.steps)) as run:
            assert torch.equal(case(), runs.plain)
        assert run.report.computed == dict.fromkeys(case.branches, case.steps)
        assert run.report.skipped == {}
        assert run.report.warnings == list(case.notes)

    def test_calls_are_exactly_the_planned_ones(self, runs: Runs) -> None:
        case, run = runs.case, runs.accelerated
        assert torch.isfinite(run.result).all()
        assert run.calls.made == 3 * len(case.branches)
        assert run.report.computed == dict.fromkeys(case.branches, 3)
        assert run.report.skipped == dict.fromkeys(case.branches, case.steps - 3)
        assert run.report.warnings == list(case.notes)
        assert run.report.runs == 1

    def test_restoration_after_a_run(self, runs: Runs) -> None:
        plain = runs.plain
        before, during, after = runs.accelerated.states
        assert during[1] == before[1]
        assert after == before
        assert not torch.equal(runs.accelerated.result, plain)
        assert torch.equal(runs.case(), plain)

    def test_restoration_after_an_exception(self, runs: Runs) -> None:
        case, plain = runs.case, runs.plain
        before = _state(case)
        calls = Calls(case.inner, breaks_at=len(case.branches) + 1)
        with (
            pytest.raises(KeyError),
            TorchExecutor().attach(case.pipe, Schedule(case.steps, COMPUTED)) as run,
        ):
            case()
        calls.remove()
        assert run.report.computed == dict.fromkeys(case.branches, 1)
        assert run.report.cached_bytes == 0
        assert _state(case) == before
        assert torch.equal(case(), plain)

    def test_isolation_a_skipped_output_is_its_own_branch_s(self, runs: Runs) -> None:
        case, outputs = runs.case, runs.accelerated.outputs
        assert len(outputs.seen) == case.steps * len(case.branches)
        for skipped, computed in REUSED.items():
            for given, own in zip(outputs.at(skipped), outputs.at(computed), strict=True):
                if case.reuses_noise:
                    noises = _epsilon(case, skipped, *given), _epsilon(case, computed, *own)
                    assert torch.allclose(*noises, atol=1e-4)
                else:
                    assert same_tensors(given[1], own[1])
        values = [tensors(output)[0] for _, output in outputs.at(1)]
        for n, value in enumerate(values):
            assert not any(torch.equal(value, other) for other in values[:n])


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    """Return standard normal numbers from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ones(*shape: int) -> torch.Tensor:
    """Return an attention mask that masks nothing."""
    return torch.ones(*shape, dtype=torch.long)


def random_image(size: int = 16) -> torch.Tensor:
    """Return an image, shape (1, 3, size, size), in [0, 1]."""
    return noise(1, 3, size, size, seed=2).sigmoid()


def mask(size: int = 16) -> torch.Tensor:
    """Return an inpainting mask of the left half, shape (1, 1, size, size)."""
    half = torch.zeros(1, 1, size, size)
    half[..., : size // 2] = 1.0
    return half


def signed(**embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return embeddings, and minus them as the ``negative_...`` arguments."""
    return embeddings | {f"negative_{name}": -value for name, value in embeddings.items()}


def both(**masks: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return masks, and the same ones as the ``negative_...`` arguments."""
    return masks | {f"negative_{name}": value for name, value in masks.items()}


def absent(*names: str) -> dict[str, None]:
    """Return None for each named component, so that the pipeline is built without it."""
    return dict.fromkeys(names)


def vae(channels: int = 4, levels: int = 1, **config: Any) -> AutoencoderKL:
    """Build an autoencoder that downsamples by 2^(levels - 1)."""
    torch.manual_seed(0)
    return AutoencoderKL(  # type: ignore[no-untyped-call]  # of diffusers
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(4,) * levels,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=1,
        sample_size=32,
        **{"shift_factor": 0.06, "scaling_factor": 1.5} | config,
    )
