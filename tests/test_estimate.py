"""``otcache estimate``, in the library and on the command line."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import otcache
from otcache import cli
from otcache.estimating import estimate_calibration
from otcache_core import OtcacheError
from otcache_core.models import Architecture, CallCost, Canvas, Configs
from otcache_core.plugins import Info, Registry, hookimpl

Run = Callable[..., tuple[int, str, str]]
CALL = CallCost(parameters=5, flops=100, output_elements=7, calls_per_step=2, decode_flops=600)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; gives (status, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["otcache", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, " ".join(captured.err.split())

    return call


class Toys:
    @hookimpl
    def otcache_provide_architectures(self) -> list[Info]:
        return [Info("toy-1-5", "toys_of_test:TOY", "a toy")]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Provide a third party's model, as the video package will add its own."""
    module = types.ModuleType("toys_of_test")
    module.seen = []

    def measure(canvas: Canvas, own: Configs) -> CallCost:
        module.seen.append((canvas, own))
        return CALL

    module.TOY = Architecture("Toy 1.5", "no text", "ToyNet", "here", measure)
    monkeypatch.setitem(sys.modules, "toys_of_test", module)
    made = Registry(entry_points=False)
    made.register(Toys())
    return made


def seen() -> list[tuple[Canvas, Configs]]:
    return sys.modules["toys_of_test"].seen


def test_the_arithmetic(registry: Registry) -> None:
    """A step is 2 calls of 100; the decoder 600: (10 * 200 + 600) / (4 * 200 + 600) = 13 / 7."""
    found = otcache.estimate(
        "toy-1-5", height=8, width=16, frames=3, num_steps=10, budgets=[2, 4, 10], registry=registry
    )
    assert seen() == [(Canvas(8, 16, 3), {})]
    two, four, full = found.rows
    assert (four.calls, four.flops, four.ideal_speedup) == (8, 800, 2.5)
    assert four.ideal_speedup_decoded == pytest.approx(13 / 7)
    assert four.cached_bytes == 3 * 2 * 7 * 2
    assert two.cached_bytes == 2 * 2 * 7 * 2
    assert (full.cached_bytes, full.ideal_speedup, full.ideal_speedup_decoded) == (0, 1, 1)


def test_dtype_and_memory(registry: Registry) -> None:
    found = otcache.estimate("Toy 1.5", budgets=[10], memory=1, dtype="fp32", registry=registry)
    assert found.rows[0].cached_bytes == 1 * 2 * 7 * 4


def test_numbers_of_any_library(registry: Registry) -> None:
    budgets = np.array([2, 4])
    found = otcache.estimate("Toy 1.5", num_steps=np.int64(9), budgets=budgets, registry=registry)
    assert [row.budget for row in found.rows] == [2, 4]
    assert found.to_dict()["num_steps"] == 9
    json.dumps(found.to_dict())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"num_steps": "50"}, "num_steps must be an integer between 1 and 100000, got '50'"),
        ({"num_steps": 50.0}, "write 50, without a point"),
        ({"num_steps": 10**20}, "num_steps must be an integer between 1 and 100000"),
        ({"budgets": 10}, "budgets must be a row of integers, got 10"),
        ({"budgets": ["10"]}, r"budgets\[0\] must be an integer between 1 and 50, got '10'"),
        ({"budgets": [True]}, r"budgets\[0\] must be an integer between 1 and 50, got True"),
        ({"model": None}, "model must be the name, class name or folder of a model, got None"),
    ],
)
def test_what_is_no_number(registry: Registry, more: dict[str, Any], message: str) -> None:
    with pytest.raises(otcache.OtcacheError, match=message):
        otcache.estimate(**{"model": "Toy 1.5", "registry": registry} | more)


@pytest.mark.parametrize("name", ["toy-1-5", "Toy 1.5", "TOY.1_5", "ToyNet"])
def test_names(registry: Registry, name: str) -> None:
    assert otcache.estimate(name, registry=registry).model == "Toy 1.5"


@pytest.mark.parametrize("places", [("config.json",), ("unet/config.json", "vae/config.json")])
def test_a_folder(registry: Registry, tmp_path: Path, places: tuple[str, ...]) -> None:
    for place in places:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(json.dumps({"_class_name": "ToyNet", "at": place}))
    found = otcache.estimate(str(tmp_path), registry=registry)
    assert found.model == str(tmp_path)
    ((_, own),) = seen()
    assert [config["at"] for config in own.values()] == list(places)
    assert list(own) == ["denoiser", "vae"][: len(places)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "must hold config.json"),
        ("{", "config.json: truncated or not JSON"),
        ('{"_class_name": "ToyNet", "num_layers": 1e9}', "num_layers must be at most 500 layers"),
        ('{"_class_name": "ToyNet", "a": "\\ud800"}', "field 'a' must be text without lone surr"),
        ("[]", "must be an object with a string _class_name"),
        ('{"_class_name": "Other"}', "model must be one of toy-1-5; a class: ToyNet"),
    ],
)
def test_bad_folders(registry: Registry, tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(otcache.OtcacheError, match=message):
        otcache.estimate(str(tmp_path), registry=registry)


def test_nothing_installed() -> None:
    with pytest.raises(otcache.OtcacheError, match=r"pip install 'otcache\[diffusers,video\]'"):
        otcache.estimate("flux-1-dev", registry=Registry(entry_points=False))


def test_a_published_model_in_json(run: Run) -> None:
    status, out, _ = run("estimate", "sdxl-base", "--steps", 30, "--budget", "10", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["model_class"] == "UNet2DConditionModel"
    assert found["call"]["parameters"] == 2_567_463_684
    (row,) = found["rows"]
    assert (row["budget"], row["calls"], row["ideal_speedup"]) == (10, 10, 3)
    assert row["flops"] == 10 * found["call"]["flops"]
    assert 1 < row["ideal_speedup_decoded"] < 3
    assert "text encoders" in found["omitted"]


def test_the_shipped_pipeline_as_a_table(run: Run) -> None:
    import otcache_diffusers

    folder = Path(otcache_diffusers.__file__).parent / "demo_model"
    size = ("--height", 64, "--width", 64, "--steps", 30, "--budget", "6,30")
    status, out, _ = run("estimate", folder, *size)
    assert status == 0
    assert "FluxTransformer2DModel" in out
    assert " M parameters" in out
    assert "6 of 30" in out
    assert "5.00x" in out
    assert "not measurements" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nosuch",), "model must be one of"),
        (("flux-1-dev", "--budget", "0"), "budgets[0] must be an integer between 1 and 50, got 0"),
        (("flux-1-dev", "--budget", "4,x"), "--budget must be a whole number, got 'x'"),
        (
            ("flux-1-dev", "--steps", "0"),
            "num_steps must be an integer between 1 and 100000, got 0",
        ),
        (("flux-1-dev", "--steps", "9" * 20), "num_steps must be an integer between 1 and 100000"),
        (("flux-1-dev", "--memory", "0"), "memory must be an integer between 1 and 100000, got 0"),
        (("flux-1-dev", "--dtype", "int4"), "dtype must be one of bf16, fp16, fp32"),
        (("flux-1-dev", "--height", "1000"), "height must be a multiple of 16, got 1000"),
        (("flux-1-dev", "--frames", "9"), "frames must be 1, got 9"),
    ],
)
def test_misuse_is_one_line(run: Run, words: tuple[str, ...], message: str) -> None:
    status, out, err = run("estimate", *words)
    assert status == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_a_calibration_is_counted_by_effort(registry: Registry) -> None:
    """By hand: N (1 + c) + 1 arrays of 7 numbers of 4 bytes; 200 FLOPs a step."""
    counted = otcache.estimate("toy-1-5", num_steps=30, registry=registry)
    quick, standard, thorough = estimate_calibration(counted, budgets=[8], samples=5, tflops=2e-9)
    assert (quick.samples, quick.budgets) == (2, (8,))
    assert quick.recorded_bytes == 2 * (30 * 3 + 1) * 7 * 4
    assert quick.gpu_hours == pytest.approx(quick.full_runs * 30 * 200 / (2e3 * 3600))
    assert (standard.samples, standard.recorded_bytes) == (8, quick.recorded_bytes * 4)
    assert quick.full_runs < 6 < standard.full_runs < thorough.full_runs
    for wrong in ({"tflops": 0.0}, {"tflops": float("inf")}, {"samples": 0}, {"budgets": [31]}):
        with pytest.raises(OtcacheError):
            estimate_calibration(counted, **wrong)


def test_the_command_line_shows_it(run: Run) -> None:
    status, out, _ = run("estimate", "sd3-5-large", "--calibration", "--budget", "10", "--json")
    assert status == 0
    rows = json.loads(out)["calibration"]
    assert [row["effort"] for row in rows] == ["quick", "standard", "thorough"]
