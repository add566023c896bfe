"""Followers that have nothing but a playback table do as otcache_core.Playback does."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from otcache_core import Playback, PlaybackTable
from otcache_core.contracts.planning import Ramp
from otcache_core.playback import BranchPlan, OrderChoice
from otcache_core.playback.table import PREDICTIONS

ROOT = Path(__file__).parents[1]
FOLLOW = ROOT / "examples" / "browser" / "follow.js"
NODE = shutil.which("node")
STEPS, SIZE = 9, 5
Floats = NDArray[np.float32]
BRANCHES = ("cond", "uncond")


def _plan(rng: np.random.Generator, ordered: bool) -> BranchPlan:
    """Draw a plan, the first step of which is computed; perhaps with forecasts of several orders."""
    forecasts: list[Any] = [None]
    for step in range(1, STEPS):
        computed = [k for k in range(step) if forecasts[k] is None]
        read = sorted(rng.choice(computed, min(len(computed), 3), replace=False), reverse=True)
        terms = tuple((int(k), float(rng.normal())) for k in read)
        forecasts.append(None if rng.random() < 0.4 else terms)
    return (
        BranchPlan.of(forecasts, *_orders(rng, forecasts)) if ordered else BranchPlan.of(forecasts)
    )


def _orders(rng: np.random.Generator, forecasts: list[Any]) -> tuple[list[Any], list[Any]]:
    """Draw orders for most spans that have two outputs before them, and how they are chosen."""
    orders, choices = [()] * STEPS, [None] * STEPS
    computed: list[int] = []
    for step, terms in enumerate(forecasts):
        if terms is None:
            computed.insert(0, step)
            if len(computed) > 1 and rng.random() < 0.8:
                ramps = tuple(Ramp(*rng.normal(size=3).tolist()) for _ in range(1 + step % 2))
                choices[step] = OrderChoice(tuple(computed[:3]), ramps)
        elif choice := choices[computed[0]]:
            drawn = rng.normal(size=(1 + len(choice.ramps), len(choice.steps))).tolist()
            orders[step] = tuple(tuple(zip(choice.steps, row, strict=True)) for row in drawn)
    return orders, choices


def _tables() -> Iterator[PlaybackTable]:
    """Draw tables: of every pair of predictions, and with branches that have plans of their own."""
    rng = np.random.default_rng(0)
    angles = np.linspace(1.4, 0.2, STEPS)
    levels = {"alphas": tuple(np.cos(angles).tolist()), "sigmas": tuple(np.sin(angles).tolist())}
    for prediction in PREDICTIONS:
        for wanted in PREDICTIONS:
            plans = {"": _plan(rng, ordered=False), "uncond": _plan(rng, ordered=True)}
            if prediction == wanted:
                plans[""] = plans["uncond"]
            converted = levels if prediction != wanted else {}
            yield PlaybackTable(STEPS, plans, prediction, wanted, **converted)


def _calls() -> dict[str, list[Any]]:
    """Draw the outputs and states of two runs, of which the first breaks off: (step, branch) each."""
    rng, calls = np.random.default_rng(1), []
    for steps in (STEPS // 2, STEPS):
        calls += [("begin", 0, "", [], [])]
        for step in range(steps):
            for branch in BRANCHES if step < STEPS - 2 else BRANCHES[:1]:
                arrays = rng.normal(size=(2, SIZE)).astype(np.float32).tolist()
                calls += [("call", step, branch, *arrays)]
    return {"calls": calls}


def _followed(follower: Any) -> list[list[float] | None]:
    """Return what a follower gives at each call; None where it has the denoiser called."""
    given: list[list[float] | None] = []
    for what, step, branch, output, state in _calls()["calls"]:
        if what == "begin":
            follower.begin()
            continue
        x = np.array(state, np.float32)
        forecast = follower.forecast(branch, step, x)
        if forecast is None:
            follower.keep(branch, step, np.array(output, np.float32), x)
        given.append(None if forecast is None else forecast.tolist())
    return given


def _assert_same(got: list[Any], wanted: list[Any]) -> None:
    assert [one is None for one in got] == [one is None for one in wanted]
    for one, other in zip(got, wanted, strict=True):
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def _blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_follower_on_the_page_does_as_playback_does(tmp_path: Path) -> None:
    (code,) = (block for block in _blocks("playback.md", "python") if "class Follower" in block)
    assert re.findall(r"^\s*(?:import|from) .*", code, re.MULTILINE) == ["import json"]
    names: dict[str, Any] = {}
    exec(code, names)
    for table in _tables():
        table.save(tmp_path / "table.json")
        follower = names["Follower"](tmp_path / "table.json")
        _assert_same(_followed(follower), _followed(Playback(table)))
        assert follower.kept.keys() <= {("uncond", k) for k in range(STEPS)}  # it vanished
    (tmp_path / "table.json").write_text('{"format": "otcache-playback", "version": 1}')
    with pytest.raises(ValueError, match="not a playback table of version 2"):
        names["Follower"](tmp_path / "table.json")


def test_the_page_shows_the_javascript_that_runs() -> None:
    assert _blocks("playback.md", "js") == [FOLLOW.read_text(encoding="utf-8")]


def test_the_table_on_the_page_is_one(tmp_path: Path) -> None:
    (shown,) = _blocks("playback.md", "json")
    (tmp_path / "table.json").write_text(shown, encoding="utf-8")
    table = PlaybackTable.load(tmp_path / "table.json")
    assert table.plan("").computed == (0, 1, 3)


@pytest.mark.skipif(NODE is None, reason="needs node: install Node.js")
def test_the_javascript_does_as_playback_does(tmp_path: Path) -> None:
    tables = list(_tables())
    for index, table in enumerate(tables):
        table.save(tmp_path / f"{index}.json")
    (tmp_path / "calls.json").write_text(json.dumps(_calls()), encoding="utf-8")
    (tmp_path / "follow.mjs").write_bytes(FOLLOW.read_bytes())
    (tmp_path / "run.mjs").write_text(RUN, encoding="utf-8")
    words = [str(NODE), "run.mjs", str(len(tables))]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    for got, table in zip(json.loads(done.stdout), tables, strict=True):
        _assert_same(got, _followed(Playback(table)))


RUN = """
import { readFileSync } from "node:fs";
import { Follower } from "./follow.mjs";
const read = (name) => JSON.parse(readFileSync(name, "utf8"));
const { calls } = read("calls.json");
const all = [];
for (let i = 0; i < Number(process.argv[2]); i++) {
  const follower = new Follower(read(`${i}.json`)), given = [];
  for (const [what, step, branch, output, state] of calls) {
    if (what === "begin") { follower.begin(); continue; }
    const made = Float32Array.from(output), x = Float32Array.from(state);
    const forecast = follower.forecast(branch, step, x);
    if (forecast === null) follower.keep(branch, step, made, x);
    given.push(forecast && Array.from(forecast));
    made.fill(NaN);
  }
  all.push(given);
}
try { new Follower({ format: "otcache-playback", version: 1 }); process.exit(1); } catch { }
console.log(JSON.stringify(all));
"""


def _example(name: str) -> Any:
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_numpy_example_follows_a_policy_s_table() -> None:
    example = _example("playback_numpy")
    policy = example.policy_by_hand()
    errors = []
    for budget in (5, 8, 13):
        said = example.main(policy, budget)
        assert f"calls {budget} of 24" in said
        errors.append(float(said.rpartition(" ")[2]))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


def test_the_numpy_example_imports_no_tensors() -> None:
    code = (
        f"import runpy, sys; runpy.run_path({str(ROOT / 'examples' / 'playback_numpy.py')!r}, "
        "run_name='__main__'); print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, modules = done.stdout.splitlines()
    assert said.startswith("denoiser calls 8 of 24")
    assert not {"torch", "diffusers"} & set(modules.split())
