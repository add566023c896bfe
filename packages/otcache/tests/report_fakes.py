"""Invented results and pictures for the tests of the report."""

from __future__ import annotations

import math

import numpy as np

from otcache.report.pictures import Pictures
from otcache.results import Cell, Results

METHODS = {
    "uniform": 1.6, "fewer steps": 1.5, "LeMiCa rule": 1.35, "Adams-Bashforth": 1.0, "otcache": 0.6
}  # fmt: skip
THINGS = (
    "a red fox in the snow", "<script>alert('x')</script> & \"quotes\"", "a blue digit 7 on $5 grass",
    "two green apples beside a small yellow house at night with a very long description of stars",
    "the flag of Norway", "a smiling face",
)  # fmt: skip
N = 30


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
        ledger={
            "record": 240,
            "span costs": 8990,
            "anchor search": 4200,
            "fit": 352,
            "refine": 2640,
        },
    )


def fake_pictures(results: Results, size: int = 64) -> Pictures:
    """Smooth pictures, with noise of the stated error added for each method."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:size, 0:size] / size
    waves = rng.uniform(2, 9, (len(results.labels), 3, 2, 1, 1))
    full = 0.5 + 0.3 * np.sin(waves[:, :, 0] * x + waves[:, :, 1] * y).transpose(0, 2, 3, 1)
    pictures = {("full", results.num_steps): full}
    for cell in results.cells:
        error = np.array(cell.metrics["rmse"])[:, None, None, None]
        noisy = full + error * rng.normal(0, 1, full.shape)
        pictures[cell.method, cell.budget] = np.clip(noisy, 0, 1)
    return pictures


def _cell(method: str, budget: int, rmse: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Cell:
    step = N / budget
    shift = 0.7 if method == "otcache" else 1.0
    steps = sorted({math.floor((k / budget) ** (1 / shift) * budget * step) for k in range(budget)})
    return Cell(
        method=method,
        budget=budget,
        nfe=budget,
        ideal_speedup=N / budget,
        measured_speedup=0.95 * N / budget,
        schedule=None if method == "fewer steps" else tuple(steps),
        metrics={
            "rmse": tuple(map(float, rmse)),
            "psnr": tuple(map(float, -20 * np.log10(rmse))),
            "ssim": tuple(map(float, 1 - rmse)),
            "lpips": tuple(map(float, 0.4 * rmse)),
        },
    )
