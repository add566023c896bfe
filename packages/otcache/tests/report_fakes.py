"""Invented results and images for the tests of the report."""

from __future__ import annotations

import math

import numpy as np

from otcache.report.images import Images
from otcache.report.results import Cell, Missing, Results

METHODS = {
    "uniform": 1.6, "fewer steps": 1.5, "LeMiCa rule": 1.35, "Adams-Bashforth": 1.0, "otcache": 0.6
}  # fmt: skip
THINGS = (
    "a red fox in the snow", "<script>alert('x')</script> & \"quotes\"", "a blue digit 7 on $5 grass",
    "two green apples beside a small yellow house at night with a very long description of stars",
    "the flag of Norway", "a smiling face",
)  # fmt: skip
N = 30
Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


def fake_results(budgets: tuple[int, ...] = (5, 6, 8, 10, 15), seeds: int = 2) -> Results:
    """Five methods with errors that fall like a power of the budget."""
    labels = tuple(
        (thing, 1000 + s, f"tag {i % 3}") for i, thing in enumerate(THINGS) for s in range(seeds)
    )
    rng = np.random.default_rng(0)
    hardness = rng.lognormal(0, 0.4, len(labels))
    cells = []
    for budget in budgets:
        for method, scale in METHODS.items():
            rmse = 0.5 * scale * budget ** (-1.2 - (method == "otcache") * 0.4) * hardness
            rmse = rmse * rng.lognormal(0, 0.1, len(labels))
            cells.append(_cell(method, budget, rmse))
    return Results(
        title="otcache on the demo pipeline",
        num_steps=N,
        labels=labels,
        cells=tuple(cells),
        provenance={
            "model_class": "FluxTransformer2DModel",
            "config_hash": "3f1c9a0d" * 4,
            "grid": tuple(1 - i / N for i in range(N + 1)),
            "versions": {"otcache": "0.1.0", "torch": "2.12.0"},
        },
        command="otcache demo --out otcache-demo",
        stage_nfe={
            "record": 240,
            "span costs": 8990,
            "anchor search": 4200,
            "fit": 352,
            "refine": 2640,
        },
    )


#: Baseline to its error beside otcache's, how its evaluations stand off the budget, and whether its
#: schedule is known beforehand.
BASELINES = {
    "otcache": (0.6, 1.0, True), "uniform": (1.6, 1.0, True), "lemica-rule": (1.3, 1.0, True),
    "meancache-rule": (1.2, 1.0, True), "additive-path": (1.35, 1.0, True),
    "budcache": (0.8, 1.0, True), "published-table": (1.25, 1.0, True),
    "fewer-steps-own": (1.5, 1.0, False), "fewer-steps-euler": (1.5, 1.0, False),
    "fewer-steps-adams-bashforth": (0.95, 1.0, False), "fewer-steps-dpmpp": (0.9, 1.0, False),
    "fewer-steps-unipc": (0.85, 1.0, False), "fewer-steps-heun": (1.9, 1.0, False),
    "first-block-cache": (1.45, 1.12, False), "teacache": (1.4, 0.93, False),
    "mag-cache": (1.2, 1.05, False), "taylorseer": (1.1, 1.07, True),
    "pyramid-attention": (3.0, 1.2, False), "faster-cache": (2.6, 1.15, False),
    "cache-dit-dbcache": (1.3, 1.1, False), "cache-dit-taylorseer": (1.05, 1.1, False),
}  # fmt: skip
METRICS = {
    "rmse": lambda e: e, "psnr": lambda e: -20 * np.log10(e), "ssim": lambda e: np.exp(-4 * e),
    "ms-ssim": lambda e: np.exp(-3 * e), "lpips": lambda e: 0.8 * e / (1 + e),
    "haarpsi": lambda e: 1 / (1 + 5 * e), "latent-rmse": lambda e: 6 * e,
    "ode-rmse": lambda e: np.hypot(e, 0.02), "legible": lambda e: (e < 0.12).astype(float),
}  # fmt: skip


def compared_results(
    budgets: tuple[int, ...] = (5, 6, 8, 10, 15), prompts: int = 16, methods: int = len(BASELINES)
) -> Results:
    """As ``otcache compare`` gives: many methods, gaps, adaptive costs, and a tag that suffers."""
    tags = ("shape", "pair", "glyph", "emoji,small")
    labels = tuple(
        (f"{THINGS[i % len(THINGS)]}, number {i}", 1000, tags[i % 4]) for i in range(prompts)
    )
    rng = np.random.default_rng(2)
    hardness = rng.lognormal(0, 0.25, prompts)
    hardness[2::4] *= 2.2
    cells, names = [], list(BASELINES)[:methods]
    for name in names:
        for budget in budgets:
            if not (name in ("pyramid-attention", "faster-cache") and budget < 10):
                cells.append(_compared_cell(name, budget, hardness, rng))
    missing = [Missing("lora-cache", None, "needs <cuda> & 24 GB: none here")]
    missing += [
        Missing(name, b, "the nearest setting, skip=2, takes 12.5 evaluations")
        for name in names[17:19]
        for b in budgets
        if b < 10
    ]
    return Results(
        title="shapes, letters and emoji: a trained FluxPipeline in miniature",
        num_steps=N,
        labels=labels,
        cells=tuple(cells),
        provenance={"pipeline": "demo", "cores": 2, "versions": {"torch": "2.13.0"}},
        command="otcache compare demo --budgets 5,6,8,10,15 --out compared",
        sources={name: f"invented project {i}, rule of {name}" for i, name in enumerate(names)},
        calibration_nfe={name: 240 * (i % 4) for i, name in enumerate(names)},
        missing=tuple(missing),
        full={"frechet": 14.2},
    )


def _compared_cell(name: str, budget: int, hardness: Vector, rng: np.random.Generator) -> Cell:
    scale, off, known = BASELINES[name]
    slope = -1.6 if name == "otcache" else -1.25
    noise = rng.lognormal(0, 0.08, len(hardness))
    errors = 0.5 * scale * (budget * off) ** slope * hardness * noise
    nfe = budget if off == 1.0 else round(budget * off, 3)
    seconds = 0.011 * nfe + 0.02 + 0.02 * (1 - known)
    return Cell(
        method=name,
        budget=budget,
        nfe=nfe,
        ideal_speedup=N / nfe,
        measured_speedup=0.36 / seconds,
        speedup_spread=0.1,
        schedule=tuple(int(k * N / budget) for k in range(budget)) if known else None,
        metrics={key: tuple(map(float, of(errors))) for key, of in METRICS.items()},
        setting="" if off == 1.0 else f"threshold={0.5 / budget:.3f}",
        totals={"frechet": float(14 + 40 * errors.mean())},
        seconds=seconds,
        seconds_spread=0.002,
        flops=nfe * 4.1e9,
        peak_bytes=int(60e6 + 1e6 * len(name)),
    )


def fake_images(results: Results, size: int = 64) -> Images:
    """Smooth images, with noise of the stated error added for each method."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:size, 0:size] / size
    waves = rng.uniform(2, 9, (len(results.labels), 3, 2, 1, 1))
    full = 0.5 + 0.3 * np.sin(waves[:, :, 0] * x + waves[:, :, 1] * y).transpose(0, 2, 3, 1)
    images = {("full run", results.num_steps): full}
    for cell in results.cells:
        error = np.array(cell.metrics["rmse"])[:, None, None, None]
        noisy = full + error * rng.normal(0, 1, full.shape)
        images[cell.method, cell.budget] = np.clip(noisy, 0, 1)
    return images


def fake_videos(
    results: Results, size: int = 32, frames: int = 9
) -> dict[tuple[str, int], np.ndarray]:
    """Return a square that moves over a gradient; methods lag behind it, noisy by the stated error."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:size, 0:size] / size
    ground = 0.25 + 0.5 * np.stack([x, y, 1 - x * y], axis=-1)
    colours = rng.uniform(0, 1, (len(results.labels), 3))

    def video(colour: Vector, lag: float) -> np.ndarray:
        made = np.repeat(ground[None], frames, axis=0)
        for frame in range(frames):
            left = round((0.05 + 0.6 * max(0.0, frame - lag) / max(1, frames - 1)) * size)
            made[frame, size // 3 : 2 * size // 3, left : left + size // 4] = colour
        return made

    videos = {("full run", results.num_steps): np.stack([video(colour, 0) for colour in colours])}
    for cell in results.cells:
        errors = np.array(cell.metrics["rmse"])
        made = np.stack([video(c, 8 * e) for c, e in zip(colours, errors, strict=True)])
        noise = errors[:, None, None, None, None] * rng.normal(0, 0.5, made.shape)
        videos[cell.method, cell.budget] = np.clip(made + noise, 0, 1)
    return videos


def _cell(method: str, budget: int, rmse: Vector) -> Cell:
    step = N / budget
    shift = 0.7 if method == "otcache" else 1.0
    steps = sorted({math.floor((k / budget) ** (1 / shift) * budget * step) for k in range(budget)})
    return Cell(
        method=method,
        budget=budget,
        nfe=budget,
        ideal_speedup=N / budget,
        measured_speedup=0.95 * N / budget,
        speedup_spread=0.12,
        schedule=None if method == "fewer steps" else tuple(steps),
        metrics={
            "rmse": tuple(map(float, rmse)),
            "psnr": tuple(map(float, -20 * np.log10(rmse))),
            "ssim": tuple(map(float, 1 - rmse)),
            "lpips": tuple(map(float, 0.4 * rmse)),
        },
    )
