"""Every loader and importer: a valid file of it, how it may be damaged, and what uses what it loads."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fuzzing import mutations as damage
from otcache.calibration.store import Store
from otcache.inspection import candidate_table, draw
from otcache.planning import plan
from otcache.schedules import KINDS, load_schedule, load_table, write_schedule
from otcache_core import (
    OtcacheError,
    Playback,
    PlaybackTable,
    Policy,
    Provenance,
    Schedule,
    ScheduleTable,
    Trajectory,
)
from otcache_core.calibration import Calibration, Candidate, Rung
from otcache_core.contracts import Evaluation
from otcache_core.forecasters import Fitted, Linear, MeanVelocity, MeanVelocityPaper, Reuse, Taylor
from otcache_core.transport import uniform_steps

N = 10
GRID = np.linspace(1.0, 0.0, N + 1)
RULES = {
    "reuse": Reuse,
    "linear": Linear,
    "fitted": Fitted,
    "taylor": Taylor,
    "mean-velocity": MeanVelocity,
    "mean-velocity-paper": MeanVelocityPaper,
}


@dataclass(frozen=True)
class Loader:
    """One way into otcache.

    Args:
        name: of it.
        make: writes valid files into a folder, and returns those to damage.
        use: loads and uses them; raises nothing but an OtcacheError where they are damaged.
        mutate: by the ending of a file's name.
        share: how many mutations of 100 are its own.
    """

    name: str
    make: Callable[[Path], list[Path]]
    use: Callable[[Path], object]
    share: float


MUTATE: dict[str, damage.Mutate] = {
    ".json": damage.json_file,
    ".otcache": damage.json_file,
    ".mark": damage.json_file,
    ".jsonl": damage.json_lines,
    ".safetensors": damage.safetensors,
    ".txt": damage.text_file,
}


def mutate(rng: random.Random, path: Path) -> str:
    """Damage a file; returns how."""
    if rng.random() < 0.02:
        return damage.something_else(rng, path)
    change = MUTATE.get(path.suffix, damage.any_bytes)
    path.write_bytes(change(rng, path.read_bytes()))
    return change.__name__


def fitted(computed: tuple[int, ...], strength: float) -> Schedule:
    """Weights of memory 3 with simple numbers."""
    rows = [(0.01, strength, strength / 2)[: min(3, m + 1)] for m in range(len(computed))]
    return Schedule(N, computed).with_weights(rows)


def schedule() -> Schedule:
    """With everything that a schedule can hold."""
    whole, rows = fitted((0, 1, 4, 7), 0.3), ((0.1,), (0.2, 0.1), (), (0.3,))
    return Schedule(
        N, whole.computed, "fitted", whole.weights, (("uncond", (0, 4)),), (("cond", rows),)
    )


def policy() -> Policy:
    """Of three rungs."""
    facts = {"model_class": "Toy", "guidance": "cfg 3.0", "grid": GRID.tolist(), "num_steps": N}
    rungs = Schedule(N, (0, 5), "linear"), schedule(), fitted((0, 1, 2, 4, 6, 8), 0.2)
    return Policy(rungs[0], rungs[2], Provenance.from_dict(facts | {"versions": {"a": "1"}}), rungs)


def calibration() -> Calibration:
    """Of N steps, with output weights."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N, 20))
    rungs = []
    for computed in ((0, 5), (0, 1, 4, 7), (0, 1, 2, 4, 6, 8)):
        made, b = fitted(computed, 0.3), len(computed)
        table = {"quantile": Candidate(0.3 / b, 2), "uniform, reuse": Candidate(0.7 / b, 2)}
        rungs.append(
            Rung(made, 0.3 / b, "quantile", table | {"uniform, linear": Candidate(None, 1)})
        )
    return Calibration(
        provenance={"num_steps": N, "model_class": "Toy"},
        num_steps=N,
        grid=GRID,
        samples=("a cat, seed 0", "a dog, seed 1"),
        gram=vectors @ vectors.T / 20,
        span_costs=np.triu(rng.random((N, N + 1)), k=2),
        anchor=rungs[0].schedule,
        reference=rungs[2].schedule,
        ladder=tuple(rungs),
        nfe={"record": 12},
        span_costs_nfe=30,
        span_costs_samples=2,
        fidelity="rmse",
        output_weights=np.diff(GRID),
    )


def show(what: Any) -> None:
    """Render for a terminal."""
    Console(file=io.StringIO(), width=100, force_terminal=True).print(what)


def run_through(made: Schedule) -> None:
    """Everything that an executor asks of a schedule."""
    rule = RULES.get(made.forecaster)
    grid = np.linspace(1.0, 0.0, made.num_steps + 1)
    for branch in (None, "cond", "uncond", *(name for name, _ in made.branches)):
        for span in made.spans(branch):
            if rule is not None and len(span.skipped) < 1000:
                assert rule().coefficients(span, grid).shape[0] == len(span.skipped)
    assert len(made.to_sigmas(grid)) == made.budget + 1
    assert made.memory >= 1
    if not made.branches:
        assert sum(made.to_mask()) == made.budget


def use_schedule(path: Path) -> None:
    """Load, go through, save, load again."""
    made = Schedule.load(path)
    run_through(made)
    made.save(path.with_name("again.json"))
    assert Schedule.load(path.with_name("again.json")) == made


def use_policy(path: Path) -> None:
    """Every budget on its own steps, some on others; inspect; save, load again."""
    made = Policy.load(path)
    n = made.num_steps
    budgets = sorted({1, 2, max(1, n // 2), n} & set(range(1, n + 1)))
    schedules = [made.schedule(b) for b in budgets]
    for each in schedules:
        assert each.num_steps == n
        run_through(each)
    for other in (5, N + 3):
        for grid in (None, np.linspace(0.9, 0.1, other + 1)):
            run_through(made.schedule(min(3, other), other, grid))
    made.check({"model_class": "Toy", "guidance": "cfg 3.0", "grid": GRID.tolist(), "num_steps": N})
    if n <= 1000:
        show(draw(made, schedules))
    made.save(path.with_name("again.otcache"))
    assert Policy.load(path.with_name("again.otcache")) == made


def use_table(path: Path) -> None:
    """Rows, and others in their spirit; through the importer too."""
    made = ScheduleTable.load(path)
    for budget in (*made.budgets[:3], 2):
        run_through(made.resampled(min(budget, N), N))
    load_schedule(path, budget=made.budgets[0])


def playback_table() -> PlaybackTable:
    """Make one of velocities that are forecast as noise, with plans of two branches."""
    facts = Provenance(N, prediction_type="v_prediction", grid=tuple(GRID.tolist()))
    return Policy(schedule(), schedule(), facts).export(4)


def use_playback_table(path: Path) -> None:
    """Follow it, in runs of both branches."""
    made = PlaybackTable.load(path)
    playback, x = Playback(made), np.ones(3)
    playback.begin()
    for step in range(min(made.num_steps, 100)):
        for branch in ("cond", "uncond"):
            output = playback.forecast(branch, step, x)
            if output is None:
                playback.keep(branch, step, x, x)
            else:
                assert np.isfinite(output).all()
                assert output.shape == x.shape


def use_calibration(path: Path) -> None:
    """Plan, show, save."""
    made = Calibration.load(path.parent)
    show(candidate_table(made))
    assert made.full_runs >= 0
    planned = plan(made)
    run_through(planned.schedule(min(3, planned.num_steps)))
    made.save(path.parent / "again")


def use_import(path: Path) -> None:
    """Convert to every kind, and read what was written."""
    for num_steps in (None, N):
        for budget in (None, 2):
            made = attempt(lambda b=budget, n=num_steps: load_schedule(path, budget=b, num_steps=n))
            for kind in KINDS if made else ():
                out = path.with_name(f"{kind}.json")
                if attempt(lambda m=made, o=out, k=kind: write_schedule(m, o, k) or o):
                    again = load_schedule(out, num_steps=made.num_steps)
                    assert again.computed == made.computed
    load_table(path, N)


def use_store(path: Path) -> None:
    """Return samples in memory and mapped, evaluations, facts; and more of each."""
    folder = path if path.name == "kept" else next(p for p in path.parents if p.name == "kept")
    for map_above in (10**9, 0):
        store = Store(folder, IDENTITY, map_above=map_above)
        runs = [store.trajectory(key) for key in KEYS]
        for run in runs:
            if run is not None:
                assert run.num_steps <= len(run.states)
                assert np.isfinite(run.outputs).all()
        found = store.log.get("a")
        if found is not None:
            assert found.gram.shape == (len(found.schedules),) * 2
            assert np.log(np.maximum(found.errors, 1e-12)).shape[0] == len(found.schedules)
        store.recall("a fact", list[Any])
        store.log.keep("b", EVALUATION)
    assert Store(folder, IDENTITY).log.get("b") is not None


def attempt(what: Callable[[], Any]) -> Any:
    """Return what something gives, None where it is refused."""
    try:
        return what()
    except OtcacheError:
        return None


IDENTITY = {"model": "toy"}
KEYS = ("one", "two")  # of the samples in a store
EVALUATION = Evaluation(
    (Schedule(N, (0, 5)), fitted((0, 1, 3), 0.5)),
    np.array([[0.5, np.inf], [0.25, 1 / 3]]),
    30,
    np.ones((2, 2, 2)) / 3,
)


def make_store(folder: Path) -> list[Path]:
    """Two samples, two evaluations, a fact."""
    kept = folder / "kept"
    store = Store(kept, IDENTITY)
    rng = np.random.default_rng(0)
    made = []
    for n in range(2):
        states = rng.normal(size=(N + 1, 6)).astype(np.float32)
        call_weights = np.ones((N, 2)) if n else None
        run = Trajectory(
            GRID, states, states[:N], {"cond": N}, f"sample {n}", 6e-8, 0, call_weights
        )
        made.append(run)
    store.keep_batch(KEYS, made)
    store.log.keep("a", EVALUATION)
    store.log.keep("c", EVALUATION)
    store.mark("a fact", json.dumps(["Euler", "", [0.5, 0.25], 40]))
    samples = [kept / "samples" / f"{key}.safetensors" for key in KEYS]
    return [
        *samples,
        kept / "samples" / "batches.jsonl",
        kept / "evaluations.jsonl",
        kept / "identity.json",
        kept / "a-fact.mark",
    ]


def one(name: str, write: Callable[[Path], object]) -> Callable[[Path], list[Path]]:
    """Make one file."""

    def make(folder: Path) -> list[Path]:
        write(folder / name)
        return [folder / name]

    return make


def make_calibration(folder: Path) -> list[Path]:
    """Return the two files of a calibration."""
    calibration().save(folder)
    return [folder / "calibration.json", folder / "calibration.safetensors"]


def make_imports(folder: Path) -> list[Path]:
    """Return what other projects publish, and what otcache writes itself."""
    data = {
        "indices": [0, 1, 4, 7],
        "mask": [1, 0, 0, 1, 0, 1, 0, 0, 0, 0],
        "index-table": {"2": [0, 5], "4": [0, 1, 4, 9], "3": [0, 2, 6]},
    }
    for name, value in data.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    schedule().save(folder / "ours.json")
    policy().save(folder / "policy.json")
    table().save(folder / "table.json")
    return sorted(folder.glob("*.json"))


def table() -> ScheduleTable:
    """Three rows."""
    rows = ((0, 5), (0, 2, 6), uniform_steps(N, 5))
    return ScheduleTable("mine", "by hand", N, rows, "Toy", ("ToyPipeline",), 1e6)


def loaders() -> Iterator[Loader]:
    """Those that need neither torch nor diffusers."""
    yield Loader("policy", one("p.otcache", lambda p: policy().save(p)), use_policy, 22)
    yield Loader("schedule", one("s.json", lambda p: schedule().save(p)), use_schedule, 12)
    yield Loader("table", one("t.json", lambda p: table().save(p)), use_table, 7)
    yield Loader(
        "playback table", one("pb.json", lambda p: playback_table().save(p)), use_playback_table, 5
    )
    yield Loader("calibration", make_calibration, use_calibration, 14)
    yield Loader("calibration in work", make_store, use_store, 16)
    yield Loader("other projects' schedules", make_imports, use_import, 10)
