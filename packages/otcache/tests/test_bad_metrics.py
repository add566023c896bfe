"""A metric that misbehaves, in whatever way, costs its own column and one named notice."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from otcache.comparison.collect import Assembly, state_rmse
from otcache.comparison.metrics import Measures
from otcache.report import rebuild, write_report
from otcache.report.images import Images
from otcache.report.results import Results
from otcache_core import OtcacheError
from otcache_core.contracts import Metric, PromptMetric, QualityMetric, SetMetric
from otcache_core.errors import OtcacheNotice
from otcache_core.plugins import Info, Registry, hookimpl

sys.path.insert(0, str(Path(__file__).parent))
import comparison_fakes as fakes


class Rmse(QualityMetric):
    """The one metric that there always is."""

    name, higher_is_better = "rmse", False

    def __call__(self, images: Any, reference: Any) -> Any:
        return state_rmse(images, reference)


class Stubborn:
    def __float__(self) -> float:
        raise RuntimeError("no number")


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def raises(error: BaseException) -> Any:
    def metric(*given: Any) -> Any:
        raise error

    return metric


def later(value: Any) -> Any:
    """Give numbers for the full run, and something else for a method's images."""
    return lambda x, y: value if (x != y).any() else np.zeros(len(x))


def mutates(images: Any, reference: Any) -> Any:
    reference[...] = images
    return np.zeros(len(images))


#: What a metric of pairs does instead of measuring, and the words of the notice.
PAIRS: dict[str, tuple[Any, str]] = {
    "raises": (raises(IndexError("list index out of range")), "IndexError: list index"),
    "exits": (raises(SystemExit(0)), "SystemExit: 0"),
    "speechless": (raises(SpeechlessError()), "Speechless"),
    "nan": (lambda x, y: np.full(len(x), np.nan), "must be numbers, got .*nan"),
    "below": (lambda x, y: np.full(len(x), -np.inf), "must be numbers, got .*-inf"),
    "short": (lambda x, y: np.zeros(len(x) - 1), r"must be \(2,\), got \(1,\)"),
    "scalar": (lambda x, y: 0.5, r"must be \(2,\), got \(\)"),
    "nothing": (lambda x, y: None, "must be floating point, got None"),
    "text": (lambda x, y: ["1.0"] * len(x), "must be floating point, got .*'1.0'"),
    "stubborn": (lambda x, y: [Stubborn()] * len(x), "must be floating point"),
    "mutates": (mutates, "it changes the images that it is given"),
    "later-nan": (later([np.nan, 0.0]), "must be numbers, got .*nan"),
    "later-text": (later("abc"), "must be floating point, got 'abc'"),
}
#: What a metric of a set, or of prompts, does.
OTHERS: dict[str, tuple[type[Metric], Any, str]] = {
    "set-infinite": (SetMetric, lambda x: np.inf, "must be numbers, got inf"),
    "set-text": (SetMetric, lambda x: "1.5", "must be floating point, got '1.5'"),
    "set-many": (SetMetric, lambda x: np.zeros(2), r"must be \(\), got \(2,\)"),
    "prompts-raise": (PromptMetric, raises(KeyError("a red circle")), "KeyError"),
}
#: Fields that no table can print.
FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "nameless": ({"name": None}, "its name must be a short text, got None"),
    "empty": ({"name": ""}, "its name must be a short text, got ''"),
    "directionless": ({"higher_is_better": "up"}, "must be True or False, got 'up'"),
    "evasive": ({"name": property(raises(OSError("gone")))}, "OSError: gone"),
}


def offered() -> dict[str, tuple[Any, str]]:
    """Name to what is registered, and to the words of its notice."""
    found = {n: (_made(QualityMetric, act), words) for n, (act, words) in PAIRS.items()}
    found |= {n: (_made(kind, act), words) for n, (kind, act, words) in OTHERS.items()}
    fine = PAIRS["nothing"][0]
    found |= {n: (_made(QualityMetric, fine, **f), words) for n, (f, words) in FIELDS.items()}
    found["raises-made"] = (
        _made(QualityMetric, fine, __init__=raises(TypeError("no"))),
        "TypeError",
    )
    found["kindless"] = (_made(Metric, fine), "must be a metric of pairs")
    found["not-there"] = (None, "cannot load 'bad_metrics:not_there'")
    found["no-metric"] = (dict, "must be a subclass of otcache_core.contracts.Metric")
    return found


def _made(kind: type[Metric], act: Any, **fields: Any) -> type[Metric]:
    known = {"name": "bad", "higher_is_better": False, "__call__": lambda self, *given: act(*given)}
    return type("Bad", (kind,), {**known, **fields})


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Ours is not installed here: RMSE is registered by hand beside all the others."""
    module, classes = ModuleType("bad_metrics"), offered()
    monkeypatch.setitem(sys.modules, "bad_metrics", module)
    for name, (value, _) in classes.items():
        if value is not None:
            setattr(module, name.replace("-", "_"), value)
    module.rmse = Rmse  # type: ignore[attr-defined]  # a module of the test's own

    class Offers:
        @hookimpl
        def otcache_provide_metrics(self) -> list[Info]:
            names = ("rmse", *classes)
            return [Info(name, f"bad_metrics:{name.replace('-', '_')}") for name in names]

    made = Registry(entry_points=False)
    made.register(Offers(), "hostile")
    return made


def test_each_costs_its_own_column(registry: Registry, tmp_path: Path) -> None:
    """All of them in one comparison, whose rows and other columns are as without them."""
    words = {name: words for name, (_, words) in offered().items()}
    folder = fakes.finished(tmp_path / "runs")

    def ask() -> tuple[Results, Images]:
        measures = Measures.choose(tuple(words), "x", registry)
        return Assembly(folder, measures).results(["good", "partly"], {}, "")

    with pytest.warns(OtcacheNotice) as said:
        made, images = ask()
    alone, _ = Assembly(folder, Measures({"rmse": Rmse()})).results(["good", "partly"], {}, "")
    assert made.cells == alone.cells
    assert made.full_metrics == alone.full_metrics
    assert made.full == alone.full
    reasons = {gap.method: gap.reason for gap in made.missing if gap.method.startswith("metric ")}
    notices = [str(one.message) for one in said]
    assert len(notices) == len(reasons) == len(words)
    for name, pattern in words.items():
        title = f"{name} of 'hostile'"
        (notice,) = [one for one in notices if one.startswith(f"{title} is omitted: ")]
        assert re.search(pattern, notice), notice
        assert notice.endswith(reasons[f"metric {title}"])
    write_report(made, images, tmp_path / "report")
    rebuild(tmp_path / "report")
    assert Results.load(tmp_path / "report" / "results.json").missing == made.missing
    assert "| metric mutates of 'hostile' |" in (tmp_path / "report" / "table.md").read_text()


def test_a_metric_is_called_by_its_distribution_but_for_ours() -> None:
    registry = Registry(entry_points=False)
    registry.register_builtin()
    made = Measures.choose(("otcache-diffusers/psnr",), "x", registry)
    assert [*made.metrics] == ["rmse", "psnr"]

    class Shadows:
        @hookimpl
        def otcache_provide_metrics(self) -> list[Info]:
            return [Info("rmse", "nowhere:Nobody")]

    registry.register(Shadows(), "shadow")
    with pytest.warns(OtcacheNotice, match="^rmse of 'shadow' is omitted: .*nowhere"):
        made = Measures.choose(("shadow/rmse",), "x", registry)
    assert [*made.metrics] == ["rmse"]
    assert type(made.metrics["rmse"]).__module__ == "otcache_diffusers.metrics.pairwise"


def test_no_metric_takes_the_place_of_one_of_the_table_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("same_metrics")
    module.ode = _made(QualityMetric, lambda x, y: np.full(len(x), 7.0))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "same_metrics", module)

    class Offers:
        @hookimpl
        def otcache_provide_metrics(self) -> list[Info]:
            return [Info(name, "same_metrics:ode") for name in ("ode-rmse", "latent-rmse")]

    registry = Registry(entry_points=False)
    registry.register_builtin()
    registry.register(Offers(), "same")
    measures = Measures.choose(("ode-rmse", "same/latent-rmse"), "x", registry)
    asked = fakes.job(reference_steps=500)
    found, _ = Assembly(fakes.finished(tmp_path, asked), measures).results(["good"], {}, "")
    metrics = found.cells[0].metrics
    assert metrics["same/ode-rmse"] == metrics["same/latent-rmse"] == (7.0, 7.0)
    assert 7.0 not in {*metrics["ode-rmse"], *metrics["latent-rmse"]}


def test_hooks_that_cannot_be_imported_are_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "unhooked-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: unhooked\nVersion: 0.1\n")
    (facts / "entry_points.txt").write_text("[otcache]\nunhooked = unhooked_rules\n")
    (tmp_path / "unhooked_rules.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(OtcacheNotice) as said:
        made = Measures.choose(("unhooked/sharp",), "x", Registry())
    assert len(said) == 1
    (gap,) = made.missing()
    assert gap.method == "metric sharp of 'unhooked'"
    assert "SystemExit: 0" in gap.reason


FOREIGN = """
from otcache_core.contracts import PromptMetric, SetMetric
from otcache_core.plugins import Info, hookimpl

@hookimpl
def otcache_provide_metrics():
    return [Info("bright", "foreign_metrics:Bright"), Info("letters", "foreign_metrics:Letters")]

class Bright(SetMetric):
    name, higher_is_better, takes_videos = "bright", True, True
    def __call__(self, images):
        return images.mean()

class Letters(PromptMetric):
    name, higher_is_better = "letters", True
    def __call__(self, images, prompts):
        return images.mean(axis=(1, 2, 3)) + [len(prompt) for prompt in prompts]
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Metrics that another process can import."""
    (tmp_path / "foreign_metrics.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Registry(entry_points=False)
    made.register_builtin()
    made.register(importlib.import_module("foreign_metrics"), "foreign")
    return made


def test_another_process_measures_what_this_one_would(foreign: Registry) -> None:
    measures = Measures.choose(("bright", "letters"), "x", foreign)
    images, prompts = np.random.default_rng(0).random((2, 4, 4, 3)), ["ab", "a long one"]
    for name, metric in measures.metrics.items():
        own = foreign.create("metrics", name)
        assert (metric.name, metric.takes) == (own.name, own.takes)
        assert metric.higher_is_better == own.higher_is_better
    assert measures.metrics["bright"].takes_videos  # type: ignore[attr-defined]
    assert measures.totals(images) == {"bright": images.mean()}
    wanted = images.mean(axis=(1, 2, 3)) + np.array([2, 10])
    np.testing.assert_array_equal(measures.of_full_runs(images, prompts)["letters"], wanted)
    assert not type(measures.metrics["bright"]).__module__.startswith("foreign")


def test_a_process_that_does_not_answer_is_ended(foreign: Registry) -> None:
    with pytest.warns(OtcacheNotice, match="bright of 'foreign' is omitted: it took longer than"):
        made = Measures.choose(("bright",), "x", foreign, limit=0.01)
    assert list(made.metrics) == ["rmse"]


def test_who_asks_for_what_there_is_not_is_told_at_once(registry: Registry) -> None:
    with pytest.raises(OtcacheError, match="has no 'raisess'"):
        Measures.choose(("raisess",), "x", registry)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (np.zeros((2, 8)), r"images must be images .*\(2, 8\)"),
        (np.zeros((2, 4, 4, 4)), r"images must be images .*\(2, 4, 4, 4\)"),
        (np.zeros((2, 8, 4, 3)), r"shape of its images must be \(2, 4, 4, 3\)"),
        (np.full((2, 4, 4, 3), np.inf), "its images must be finite"),
        (np.full((2, 4, 4, 3), 1.5), r"its images must be in \[0, 1\], got '1.5 to 1.5'"),
    ],
)
def test_images_that_cannot_be_compared_cost_their_own_row(
    made: Any, reason: str, tmp_path: Path
) -> None:
    folder = fakes.finished(tmp_path)
    folder.of("good").keep_run(fakes.run("B = 2"), made, None)
    found, images = Assembly(folder, Measures({"rmse": Rmse()})).results(["good"], {}, "")
    assert [(cell.method, cell.budget) for cell in found.cells] == [("good", 4)]
    (gap,) = found.missing
    assert (gap.method, gap.budget) == ("good", 2)
    assert re.search(reason, gap.reason)
    assert write_report(found, images, tmp_path / "report")
