"""The demo pipeline's sampling as a plain loop over batches, for the experiments of ideas.py.

A stream is what one forecast is made of: a guidance branch, or the difference of the two. The sampler
sees v = sum_b gamma_b o_b over the streams, each with computed steps of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from otcache_diffusers import demo

N = 30
SCALE = float(demo.CALL["true_cfg_scale"])
MEMORY, RIDGE = 3, 1e-3
Steps = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Computed steps of the conditional branch and, among them or not, of the unconditional one.

    Args:
        cond: steps at which o_c is computed.
        other: steps at which o_u is computed.
        difference: forecast o_c and o_c - o_u (``other`` is then among ``cond``) instead of o_c and o_u.
    """

    cond: Steps
    other: Steps
    difference: bool = False

    @classmethod
    def common(cls, steps: Sequence[int]) -> Plan:
        """Both branches at the same steps."""
        return cls(tuple(steps), tuple(steps))

    @property
    def evaluations(self) -> int:
        """Calls of the transformer a sample."""
        return len(self.cond) + len(self.other)

    @property
    def gammas(self) -> tuple[float, float]:
        """Factors of the two streams in v."""
        return (1.0, SCALE - 1.0) if self.difference else (SCALE, 1.0 - SCALE)

    @property
    def segments(self) -> list[tuple[int, int]]:
        """(k, j): something is computed at k, and nothing more before j."""
        events = sorted({*self.cond, *self.other})
        return list(zip(events, [*events[1:], N], strict=True))

    def prefix(self, step: int) -> tuple[Any, ...]:
        """All that the state at this step depends on."""
        cond, other = ([k for k in s if k < step] for s in (self.cond, self.other))
        return tuple(cond), tuple(other), self.difference, step


class Loop:
    """The transformer of the demo pipeline, its grid and its decoder."""

    def __init__(self) -> None:
        self.pipe = demo.load()
        self.height, self.width = demo.CALL["height"], demo.CALL["width"]
        tokens = (self.height // self.pipe.vae_scale_factor // 2) ** 2
        c = self.pipe.scheduler.config
        shift = (c.base_image_seq_len, c.max_image_seq_len, c.base_shift, c.max_shift)
        self.pipe.scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1 / N, N), mu=calculate_shift(tokens, *shift)
        )
        self.timesteps = self.pipe.scheduler.timesteps / 1000
        self.grid = self.pipe.scheduler.sigmas.double().numpy()

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings, pooled embeddings and text ids."""
        length = demo.CALL["max_sequence_length"]
        with torch.no_grad():
            return self.pipe.encode_prompt(list(prompts), None, max_sequence_length=length)

    def noise(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """x_0 of each seed, packed, and the ids of the picture's tokens."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        channels = self.pipe.transformer.config.in_channels // 4
        shape = (len(seeds), channels, self.height, self.width)
        return self.pipe.prepare_latents(*shape, torch.float32, "cpu", generators)

    def decode(self, x: Tensor) -> Any:
        """Pictures in [0, 1]."""
        vae = self.pipe.vae
        z = self.pipe._unpack_latents(
            x.float(), self.height, self.width, self.pipe.vae_scale_factor
        )
        with torch.no_grad():
            shown = vae.decode(z / vae.config.scaling_factor + vae.config.shift_factor).sample
        return self.pipe.image_processor.postprocess(shown, output_type="np")


@dataclass
class Samples:
    """Prompts with seeds, their full runs, and whatever was computed for them before.

    Args:
        loop: the pipeline.
        prompts, seeds: one a sample.
        keep: a file for the full runs.
    """

    loop: Loop
    prompts: list[str]
    seeds: list[int]
    keep: Path
    memo: dict[Any, Tensor] = field(default_factory=dict)
    rows: int = 0

    def __post_init__(self) -> None:
        self.inputs = [self.loop.encode([""] * len(self.prompts)), self.loop.encode(self.prompts)]
        self.x0, self.ids = self.loop.noise(self.seeds)

    @property
    def groups(self) -> list[int]:
        """Number of each sample's prompt."""
        return [self.prompts.index(p) for p in self.prompts]

    def branch(self, cond: bool, x: Tensor, step: int) -> Tensor:
        """o_c or o_u at a state, float64, shape (samples, tokens, channels)."""
        embeds, pooled, text = self.inputs[cond]
        self.rows += len(x)
        with torch.no_grad():
            out = self.loop.pipe.transformer(
                hidden_states=x.float(),
                timestep=self.loop.timesteps[step].expand(len(x)),
                pooled_projections=pooled,
                encoder_hidden_states=embeds,
                txt_ids=text,
                img_ids=self.ids,
                return_dict=False,
            )[0]
        return out.double()

    @cached_property
    def full(self) -> tuple[Tensor, Tensor, Tensor]:
        """x_0 .. x_N, o_c and o_u of every step of the full run, step first."""
        if not self.keep.exists():
            x, grid = self.x0.double(), self.loop.grid
            states, outputs = [x], []
            for i in range(N):
                both = [self.branch(cond, x, i) for cond in (True, False)]
                v = SCALE * both[0] + (1 - SCALE) * both[1]
                x = x + (grid[i + 1] - grid[i]) * v
                states.append(x)
                outputs.append(torch.stack(both))
            torch.save((torch.stack(states), *torch.stack(outputs, 1)), self.keep)
        return tuple(torch.load(self.keep))

    @cached_property
    def pictures(self) -> Any:
        """Decoded results of the full runs."""
        return self.loop.decode(self.full[0][N])

    def errors(self, x: Tensor) -> dict[str, Any]:
        """RMSE of each sample against the full run, of latents and of decoded pictures."""
        latent = (x - self.full[0][N]).flatten(1).square().mean(1).sqrt().numpy()
        shown = np.square(self.loop.decode(x).astype(np.float64) - self.pictures)
        return {"latent": latent, "decoded": np.sqrt(shown.mean((1, 2, 3)))}


@dataclass
class Run:
    """What an accelerated run ended in.

    Attributes:
        x: x_N.
        weights: of each segment, stream after stream, from all samples.
        alone: the same for each sample, from all others; shape (samples, weights).
        outputs: step and output of what each stream computed, newest first.
    """

    x: Tensor
    weights: list[Any]
    alone: list[Any]
    outputs: list[list[tuple[int, Tensor]]]


@dataclass(frozen=True)
class Adapt:
    """Weights that are linear in features of the input: each c becomes c + sum_q C_q phi_q.

    Args:
        features: phi, shape (samples, features).
        first: the segment from which on.
        ridge: of the C, relative as the other.
    """

    features: Any
    first: int
    ridge: float

    def __call__(self, columns: Tensor, prior: Any, m: int) -> tuple[Tensor, Any, Any]:
        """Columns, prior and ridge of segment m, the products with the features among them."""
        ridge = np.full(len(prior), RIDGE)
        if m < self.first:
            return columns, prior, ridge
        phi = torch.as_tensor(self.features).T[:, :, None, None, None]
        more = [columns * factor for factor in phi]
        added = len(prior) * len(more)
        ridge = np.append(ridge, np.full(added, self.ridge))
        return torch.cat([columns, *more], 1), np.append(prior, np.zeros(added)), ridge


def run(
    samples: Samples,
    plan: Plan,
    weights: list[Any] | None = None,
    *,
    strength: Sequence[float] = (),
    adapt: Adapt | None = None,
    own_from: int = N,
) -> Run:
    """Follow a plan; without weights, fit them on the way and run each sample with the others' weights.

    Args:
        samples: to run.
        plan: what is computed.
        weights: as an earlier run gave them, for all samples or for each.
        strength: factors of all weights of each segment; 1 by default.
        adapt: makes weights depend on the input.
        own_from: the segment from which on each sample runs with weights fitted to itself alone.
    """
    s, x = samples.loop.grid, samples.x0.double()
    past: list[list[tuple[int, Tensor]]] = [[], []]
    kept: list[Any] = []
    own: list[Any] = []
    strength = strength or [1.0] * len(plan.segments)
    for m, (k, j) in enumerate(plan.segments):
        fitted = None if weights is None else [np.round(w, 9).tobytes() for w in weights[:m]]
        way = (str(fitted), *strength[:m], m > own_from)
        if adapt is not None and m > adapt.first:
            way = (*way, adapt.ridge, adapt.features.tobytes())
        _compute(samples, plan, (plan.prefix(k), *way), k, x, past)
        fixed, columns, prior = _terms(plan, past, s, k, j)
        ridge = np.full(len(prior), RIDGE)
        if adapt is not None:
            columns, prior, ridge = adapt(columns, prior, m)
        if weights is None or m >= own_from:
            wanted = (samples.full[0][j] - x - fixed).flatten(1)
            pooled, alone = solve(columns.flatten(2), wanted, prior, ridge, own=m >= own_from)
        else:
            pooled, alone = weights[m], np.broadcast_to(weights[m], columns.shape[:2])
        kept.append(pooled)
        own.append(alone)
        c = torch.as_tensor(strength[m] * alone)
        x = x + fixed + torch.einsum("nr,nr...->n...", c, columns)
    return Run(x, kept, own, past)


def _compute(samples: Samples, plan: Plan, key: Any, k: int, x: Tensor, past: Any) -> None:
    """Put what is computed at k in front of the streams' past outputs."""

    def output(cond: bool) -> Tensor:
        if (key, cond) not in samples.memo:
            samples.memo[key, cond] = samples.branch(cond, x, k).float()
        return samples.memo[key, cond].double()

    if k in plan.cond:
        past[0].insert(0, (k, output(True)))
    if k in plan.other:
        o = output(False)
        past[1].insert(0, (k, past[0][0][1] - o if plan.difference else o))


def _terms(plan: Plan, past: Any, s: Any, k: int, j: int) -> tuple[Tensor, Tensor, Any]:
    """Of x_j - x_k under reuse: the sum; what each weight adds, (samples, weights, ...); priors."""
    fixed: Any = 0.0
    columns, prior = [], []
    for gamma, outputs in zip(plan.gammas, past, strict=True):
        (at, newest), *older = outputs[:MEMORY]
        first = k + 1 if at == k else k  # the first step at which this stream is forecast
        length = s[j] - s[first]
        fixed = fixed + gamma * (s[j] - s[k]) * newest
        for r, basis in enumerate([newest, *(newest - v for _, v in older)]):
            columns.append(gamma * length * basis)
            ahead = sum((s[t + 1] - s[t]) * (s[t] - s[at]) for t in range(first, j))
            slope = r == 1 and length
            prior.append(ahead / (length * (s[at] - s[older[0][0]])) if slope else 0.0)
    return fixed, torch.stack(columns, 1), np.array(prior)


def solve(
    columns: Tensor, wanted: Tensor, prior: Any, ridge: Any, *, own: bool = False
) -> tuple[Any, Any]:
    """Ridge least squares towards a prior: weights of all samples, and of all but each one.

    Args:
        columns: shape (samples, weights, elements).
        wanted: shape (samples, elements).
        prior, ridge: shape (weights,).
        own: give each sample the weights of itself alone instead of the others'.
    """
    normal = (columns @ columns.mT).numpy()
    toward = (columns @ wanted[:, :, None])[:, :, 0].numpy() - normal @ prior

    def one(a: Any, b: Any) -> Any:
        damped = a + np.diag(ridge * np.diagonal(a) + np.finfo(float).tiny)
        return prior + np.linalg.lstsq(damped, b, rcond=None)[0]

    pooled = one(normal.sum(0), toward.sum(0))
    pairs = zip(normal, toward, strict=True)
    if own:
        return pooled, np.stack([one(a, b) for a, b in pairs])
    alone = [one(normal.sum(0) - a, toward.sum(0) - b) for a, b in pairs]
    return pooled, np.stack(alone)
