"""Loaders of comparisons, their reports, prompts, models and real images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fuzzing.loaders import Loader, N, attempt, one, show, use_table
from otcache.comparison.collect import Assembly, state_rmse
from otcache.comparison.folder import SOLUTION, Assignment, Folder, Run
from otcache.comparison.job import Job, read_tagged
from otcache.comparison.metrics import Measures
from otcache.comparison.timing import Pair
from otcache.estimating import estimate, read_model_folder
from otcache.pipelines import read_samples
from otcache.report.gallery import grid_png
from otcache.report.images import Album
from otcache.report.page import render
from otcache.report.results import FULL, Cell, Missing, Results
from otcache.report.tables import csv_table, document
from otcache.report.terminal import summary_table
from otcache.schedules import names, published
from otcache_core import Info, Registry, hookimpl
from otcache_core.contracts import QualityMetric
from otcache_core.models import Architecture, CallCost, Canvas, Configs

SAMPLES = (("a red circle", 1000, "shape"), ("the digit 7", 1000, "glyph,digit"), ("$5", 1, ""))


class Rmse(QualityMetric):
    """Root mean square error of images."""

    name = "rmse"
    higher_is_better = False

    def __call__(
        self, images: NDArray[np.floating], references: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """One number per image."""
        return state_rmse(images, references)


def results() -> Results:
    """Three methods at two budgets."""
    cells = tuple(
        Cell(
            method=method,
            budget=budget,
            nfe=float(budget),
            ideal_speedup=N / budget,
            measured_speedup=0.9 * N / budget,
            speedup_spread=0.1,
            seconds=1.5,
            seconds_spread=0.1,
            schedule=None if method == "fewer steps" else tuple(range(budget)),
            metrics={"rmse": (0.1, 0.2, 0.3), "psnr": (20.0, float("inf"), 15.0)},
            totals={"frechet": 3.0},
            flops=1e9,
            peak_bytes=4096,
        )
        for budget in (2, 4)
        for method in ("otcache", "uniform", "fewer steps")
    )
    return Results(
        title="invented",
        num_steps=N,
        labels=SAMPLES,
        cells=cells,
        provenance={"model_class": "Toy", "grid": [1.0, 0.0], "versions": {"torch": "2"}},
        command="otcache compare",
        stage_nfe={"record": 20},
        sources={"uniform": "nobody"},
        calibration_nfe={"uniform": 0},
        missing=(
            Missing("never", None, "made for U-Nets"),
            Missing("uniform", 3, "no such budget"),
        ),
        full={"frechet": 2.0},
        full_metrics={"clip-score": (0.1, 0.2, 0.3)},
    )


def images(error: float) -> NDArray[np.float32]:
    """Grey, wrong by as much."""
    return np.full((len(SAMPLES), 4, 4, 3), 0.5 + error, dtype=np.float32)


def use_results(path: Path) -> None:
    """Return the tables of a report, and its page."""
    made = Results.load(path)
    document(made)
    csv_table(made)
    show(summary_table(made))
    made.save(path.with_name("again.json"))
    assert Results.load(path.with_name("again.json")).to_dict() == made.to_dict()


def use_page(path: Path) -> None:
    """Return the page, which draws everything."""
    render(Results.load(path), None)


def use_report(path: Path) -> None:
    """Images beside their results."""
    made = Results.load(path.with_name("results.json"))
    album = Album.load(path.with_name("images.safetensors"), made)
    assert album.full.dtype == np.uint8
    grid_png(made, album)


def make_report(folder: Path) -> list[Path]:
    """Return what a report is built from again."""
    made = {(FULL, N): images(0.0)}
    made |= {(cell.method, cell.budget): images(0.1) for cell in results().cells}
    results().save(folder / "results.json")
    Album.of(results(), made).save(folder / "images.safetensors")
    return [
        folder / "results.json",
        folder / "images.safetensors",
        folder / "images.safetensors",
    ]


def make_comparison(folder: Path) -> list[Path]:
    """Return the full runs, a method that ran, and one that lost a budget."""
    place = Folder(folder / "comparison")
    place.begin(
        Job(
            title="invented",
            pipeline="nowhere:at_all",
            num_steps=N,
            budgets=(2, 4),
            samples=SAMPLES,
            calibration=("a blue star",),
            call={"height": 64},
            options={"otcache": {"policy": "p"}},
        ),
        overwrite=False,
    )
    states = np.zeros((len(SAMPLES), 3), dtype=np.float32)
    pairs = (Pair(1.0, 0.3), Pair(1.1, 0.3), Pair(1.0, 0.35))
    place.of(FULL).keep_run(Run(FULL, N, None, N, 1e7, 4096), images(0.0), states)
    place.of(FULL).keep_run(Run(SOLUTION, 500, None, 500, 1e9, 4096), images(0.1), states)
    good = place.of("good")
    good.keep_assignment(Assignment("somebody 1.0", 12, ((2, "B = 2"), (4, "B = 4"))))
    for budget in (2, 4):
        run = Run(f"B = {budget}", N, tuple(range(budget)), budget, 1e6, 4096, pairs)
        good.keep_run(run, images(0.2), states + 1)
    good.keep_measured({"schedules": {"2": {"num_steps": N, "computed": [0, 5]}}, "nfe": 3})
    partly = place.of("partly")
    partly.keep_assignment(Assignment("else", 0, ((4, "knob=1"),), (Missing("partly", 2, "none"),)))
    partly.keep_failure("knob=1", "took longer than 5 s")
    return sorted((folder / "comparison").rglob("*.*"))


def use_comparison(path: Path) -> None:
    """Assemble what is finished, as a second call of ``otcache compare`` does."""
    place = Folder(next(p for p in path.parents if p.name == "comparison"))
    good = place.of("good")
    attempt(good.measured)
    measures = Measures({"rmse": Rmse()})
    made, images = Assembly(place, measures).results(["good", "partly"], {}, "again")
    document(made)
    for key in images:
        assert images[key].ndim >= 4
    attempt(lambda: place.begin(place.job, overwrite=False))


def make_published(folder: Path) -> list[Path]:
    """Return a copy of each shipped table."""
    for name in names():
        published(name).save(folder / f"{name}.json")
    return sorted(folder.glob("*.json"))


def use_prompts(path: Path) -> None:
    """Prompts, with tags and without; mappings of arguments."""
    for entry in attempt(lambda: read_tagged(path)) or ():
        assert entry
    for sample in read_samples(path):
        values = [sample] if isinstance(sample, str) else [*sample, *sample.values()]
        "".join(value for value in values if isinstance(value, str)).encode()


def prompts(path: Path) -> None:
    """Return samples, some with tags."""
    path.write_text("a cat\ta,b\na dog\n\na house\tc\nein Häuschen\n", encoding="utf-8")


def mappings(path: Path) -> None:
    """JSON lines of call arguments."""
    rows = [{"prompt": "a cat", "class_labels": 3}, "a dog", {"prompt": "b", "strength": 0.5}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_model(folder: Path) -> list[Path]:
    """Return a pipeline's folder, of which only configurations are read."""
    configs = {
        "transformer": {"_class_name": "Toy", "num_layers": 2, "dim": 8, "axes": [1, 2], "f": 0.5},
        "vae": {"_class_name": "AutoencoderKL", "block_out_channels": [8, 16]},
    }
    for part, config in configs.items():
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return sorted(folder.rglob("*.json"))


def use_model(path: Path) -> None:
    """Read the configurations; count with them, as a model class would use them."""
    folder = path.parents[1]
    read_model_folder(folder)
    estimate(str(folder), registry=toys())


class Toys:
    """One architecture, whose class does what it can with a configuration."""

    @hookimpl
    def otcache_provide_architectures(self) -> list[Info]:
        """One."""
        return [Info("toy", "fuzzing.comparisons:TOY", summary="for the mutations")]


def count(canvas: Canvas, configs: Configs) -> CallCost:
    """Use a configuration without looking at it."""
    own = configs["denoiser"]
    layers, width = own["num_layers"], own["dim"]
    return CallCost(layers * width**2 + sum(own["axes"]), int(layers * own["f"] * 1e3) + 1, width)


TOY = Architecture("toy", "for the mutations", "Toy", "nowhere", count)


def toys() -> Registry:
    """Return the architecture above, alone."""
    found = Registry(entry_points=False)
    found.register(Toys(), "toys")
    return found


def comparison_loaders() -> Iterator[Loader]:
    """Those of results, comparisons, prompts and models."""
    yield Loader("results", one("results.json", lambda p: results().save(p)), use_results, 12)
    yield Loader("page", one("results.json", lambda p: results().save(p)), use_page, 0.3)
    yield Loader("report", make_report, use_report, 2)
    yield Loader("comparison", make_comparison, use_comparison, 10)
    yield Loader("prompts", one("prompts.txt", prompts), use_prompts, 5)
    yield Loader("mappings", one("samples.jsonl", mappings), use_prompts, 4)
    yield Loader("published tables", make_published, use_table, 3)
    yield Loader("model folder", make_model, use_model, 5)
