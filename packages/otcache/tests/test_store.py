"""An interrupted calibration goes on to the same result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from otcache.calibration.record import StoredEvaluator
from otcache.calibration.store import Store
from otcache_core import FileError, OtcacheError, Schedule, Trajectory
from otcache_core.contracts import Evaluation, Evaluator
from otcache_core.errors import OtcacheNotice
from otcache_core.storage.recordings import StepsOnDisk, mapped


class Counting(Evaluator):
    """Error 1/B on each of two samples, and a count of calls."""

    calls = 0

    @property
    def grid(self) -> NDArray[np.float64]:
        return np.linspace(1, 0, 5)

    @property
    def num_samples(self) -> int:
        return 2

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("latent-rmse",)

    def evaluate(
        self,
        schedules: Sequence[Schedule],
        *,
        objective: str | None = None,
        samples: Sequence[int] | None = None,
        fit: bool = False,
    ) -> Evaluation:
        type(self).calls += 1
        errors = np.array([[1 / s.budget, 1 / 3] for s in schedules])
        return Evaluation(
            tuple(schedules), errors, 7, np.ones((2, len(schedules), len(schedules))) / 3
        )


IDENTITY = {"model": "toy", "prompts": ["a"]}
SCHEDULES = [Schedule(4, (0, 2)), Schedule(4, (0, 1, 3), "fitted", ((), (0.1,), (1 / 3, -2e-9)))]


def _evaluator(store: Store | None, spent: list[int]) -> StoredEvaluator:
    return StoredEvaluator(Counting, store, spent.append)


def test_an_evaluation_is_remembered_bit_for_bit_and_its_cost_counted_again(
    tmp_path: Path,
) -> None:
    spent: list[int] = []
    first = _evaluator(Store(tmp_path, IDENTITY), spent).evaluate(SCHEDULES, fit=True)
    before = Counting.calls
    again = _evaluator(Store(tmp_path, IDENTITY), spent).evaluate(SCHEDULES, fit=True)
    assert Counting.calls == before
    assert again.schedules == first.schedules
    np.testing.assert_array_equal(again.errors, first.errors)
    np.testing.assert_array_equal(again.grams, first.grams)
    assert spent == [7, 7]


def test_another_question_is_evaluated(tmp_path: Path) -> None:
    store = Store(tmp_path, IDENTITY)
    _evaluator(store, []).evaluate(SCHEDULES)
    before = Counting.calls
    _evaluator(store, []).evaluate(SCHEDULES, samples=[0])
    assert Counting.calls == before + 1


def test_a_line_cut_short_by_a_kill_is_measured_again(tmp_path: Path) -> None:
    _evaluator(Store(tmp_path, IDENTITY), []).evaluate(SCHEDULES)
    log = tmp_path / "evaluations.jsonl"
    log.write_text(log.read_text()[:-20])
    before = Counting.calls
    with pytest.warns(OtcacheNotice, match="line 1: was cut short, as by a kill"):
        Store(tmp_path, IDENTITY)
    for _ in range(2):
        _evaluator(Store(tmp_path, IDENTITY), []).evaluate(SCHEDULES)
    assert Counting.calls == before + 1


@pytest.mark.remedy("Delete the line, and what it held is measured again.")
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda line: b"nonsense", "truncated or not JSON"),
        (lambda line: b"[1]", "Expected `object`, got `array`"),
        (lambda line: line[: len(line) // 2], "truncated or not JSON"),
        (lambda line: line.replace(b"0.33", b"0.37", 1), "digest must be "),
        (lambda line: line.replace(b'"nfe": 7', b'"nfe": 6'), "digest must be "),
        (lambda line: line.replace(b'"reuse"', b'"\\ud800"'), "text without lone surrogates"),
        (lambda line: line.replace(b"[0, 2]", b"[0, 9]"), "distinct increasing steps below 4"),
        (
            lambda line: line.replace(b'"errors": [', b'"errors": [[], '),
            "errors and grams must be ",
        ),
    ],
)
def test_a_damaged_line_is_named_and_what_it_held_is_measured_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    for schedules in (SCHEDULES[:1], SCHEDULES):
        _evaluator(Store(tmp_path, IDENTITY), []).evaluate(schedules)
    log, before = tmp_path / "evaluations.jsonl", Counting.calls
    first, second = log.read_bytes().splitlines()
    log.write_bytes(damage(first) + b"\n" + second + b"\n")
    with pytest.raises(FileError) as caught:
        Store(tmp_path, IDENTITY)
    assert str(caught.value).startswith(f"{log}, line 1: ")
    assert reason in str(caught.value)
    log.write_bytes(second + b"\n")
    _evaluator(Store(tmp_path, IDENTITY), []).evaluate(SCHEDULES[:1])
    _evaluator(Store(tmp_path, IDENTITY), []).evaluate(SCHEDULES)
    assert Counting.calls == before + 1


def test_a_sample_is_remembered(tmp_path: Path) -> None:
    states = np.arange(15, dtype=np.float32).reshape(5, 3)
    made = Trajectory(np.linspace(1, 0, 5), states, states[:4], {"cond": 4}, "prompt 0, seed 1")
    Store(tmp_path, IDENTITY).keep_batch(["3"], [made])
    found = Store(tmp_path, IDENTITY).trajectory("3")
    assert found is not None
    np.testing.assert_array_equal(found.states, made.states)
    assert (found.calls, found.label) == (made.calls, made.label)
    assert Store(tmp_path, IDENTITY).trajectory("4") is None


def test_a_call_that_a_kill_cut_off_is_made_again_whole(tmp_path: Path) -> None:
    """Its samples are on the disk, and it is not known with which others they ran."""
    states = np.arange(15, dtype=np.float32).reshape(5, 3)
    made = Trajectory(np.linspace(1, 0, 5), states, states[:4])
    store = Store(tmp_path, IDENTITY)
    store.keep_batch(["a", "b"], [made, made])
    store.keep_batch(["c", "d"], [made, made])
    log = tmp_path / "samples" / "batches.jsonl"
    log.write_bytes(log.read_bytes()[:-3])
    again = Store(tmp_path, IDENTITY)
    assert [again.trajectory(key) is not None for key in "abcd"] == [True, True, False, False]
    assert again.batch_of("b") == ("a", "b")
    again.keep_batch(["d", "c"], [made, made])
    assert Store(tmp_path, IDENTITY).batch_of("c") == ("d", "c")


@pytest.mark.remedy("Delete the file, and the sample is recorded again.")
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7), mapped=st.booleans())
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_in_a_sample_is_found(
    tmp_path: Path, place: int, bit: int, mapped: bool
) -> None:
    store = Store(tmp_path, IDENTITY, map_above=0 if mapped else 10**9)
    states = np.arange(15, dtype=np.float32).reshape(5, 3)
    path = tmp_path / "samples" / "0.safetensors"
    if not path.exists():
        store.keep_batch(["0"], [Trajectory(np.linspace(1, 0, 5), states, states[:4])])
    whole = path.read_bytes()
    spoilt = bytearray(whole)
    spoilt[place % len(whole)] ^= 1 << bit
    path.write_bytes(spoilt)
    with pytest.raises(FileError, match=r"0\.safetensors: "):
        store.trajectory("0")
    path.unlink()
    assert store.trajectory("0") is None
    path.write_bytes(whole)
    assert store.trajectory("0") is not None


def test_a_sample_on_the_disk_is_kept_row_by_row_and_stays_there(tmp_path: Path) -> None:
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    steps = StepsOnDisk((1, 3), tmp_path)
    for row in rows:
        steps.append(row[None])
    (states,) = steps.samples()
    made = Trajectory(np.linspace(1, 0, 5), states, states[:4], {"cond": 4}, "a", 2e-3, 9)
    (kept,) = Store(tmp_path, IDENTITY, map_above=0).keep_batch(["3"], [made])
    again = Store(tmp_path, IDENTITY, map_above=0).trajectory("3")
    small = Store(tmp_path, IDENTITY).trajectory("3")
    assert again is not None
    assert small is not None
    for found in (kept, again, small):
        np.testing.assert_array_equal(found.grid, made.grid)
        np.testing.assert_array_equal(found.states, rows)
        np.testing.assert_array_equal(found.outputs, rows[:4])
        facts = (found.calls, found.label, found.rounding, found.sketch_of)
        assert facts == ({"cond": 4}, "a", 2e-3, 9)
    assert [mapped(found.states) for found in (kept, again, small)] == [True, True, False]


def test_a_folder_of_another_pipeline_is_refused(tmp_path: Path) -> None:
    Store(tmp_path, IDENTITY)
    with pytest.raises(
        OtcacheError,
        match=r"holds calibrations of another pipeline .* folder or delete this one\.$",
    ):
        Store(tmp_path, {"model": "other"})


def test_overwriting_starts_over(tmp_path: Path) -> None:
    _evaluator(Store(tmp_path, IDENTITY), []).evaluate(SCHEDULES)
    before = Counting.calls
    other = Store(tmp_path, {"model": "other"}, overwrite=True)
    _evaluator(other, []).evaluate(SCHEDULES)
    assert Counting.calls == before + 1


@pytest.mark.remedy("delete it if the folder is of this one, or choose another folder")
def test_an_unreadable_identity_is_refused_and_can_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    for mended in (path.unlink, lambda: Store(tmp_path, IDENTITY, overwrite=True)):
        Store(tmp_path, IDENTITY)
        path.write_text("")
        with pytest.raises(FileError, match=r"identity\.json: is damaged"):
            Store(tmp_path, IDENTITY)
        mended()
        Store(tmp_path, IDENTITY)


def test_a_name_that_no_folder_can_have_is_refused() -> None:
    with pytest.raises(FileError, match="cannot keep a calibration here: embedded null byte"):
        Store(Path("a\0b"), IDENTITY)
