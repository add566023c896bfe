"""Generations: the same files however they are run, interrupted or hindered; nothing lost, nothing twice."""

from __future__ import annotations

import json
import sys
import uuid
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from otcache.cli import app
from otcache.generation import runner
from otcache.generation.job import Job, Piece
from otcache.generation.manifest import Made
from otcache.generation.runner import Generated, generate
from otcache.generation.store import TRIES, Store, StoreError
from otcache.generation.worker import Opening
from otcache.processes import EndedError
from otcache_core import FileError, OtcacheError

PROMPTS = ["red", "blue", "a green one", "poison", "white", "yellow", "black"]
GOOD = [n for n, prompt in enumerate(PROMPTS) if prompt != "poison"]
JOB = Job("colours:make", "", 3, num_steps=6)


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(Path(__file__).parent)  # where colours.py is
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS), encoding="utf-8")
    return path


class Failing(Store):
    """A store of which every k-th write fails, or all after a number."""

    def __init__(self, url: str, every: int = 0, after: int = 0) -> None:
        super().__init__(url, lambda seconds: None)
        object.__setattr__(self, "count", 0)
        object.__setattr__(self, "rule", (every, after))

    def _write(self, name: str, data: bytes) -> None:
        object.__setattr__(self, "count", self.count + 1)  # type: ignore[attr-defined]
        every, after = self.rule  # type: ignore[attr-defined]
        if (every and self.count % every == 0) or (after and self.count > after):  # type: ignore[attr-defined]
            raise OSError("the store is away")
        super()._write(name, data)


def _content(store: Store) -> dict[tuple[int, int], tuple[str, bytes | None]]:
    """Return digest and bytes of every sample of a manifest, each once."""
    text = store.read("manifest.jsonl") or b""
    lines = [msgspec.json.decode(line, type=Made) for line in text.splitlines()]
    found = {(line.sample, line.seed): (line.sha256, store.read(line.file)) for line in lines}
    assert len(found) == len(lines)
    return found


@pytest.fixture
def wanted(prompts: Path, tmp_path: Path) -> dict[tuple[int, int], tuple[str, bytes | None]]:
    url = str(tmp_path / "reference")
    done = generate(JOB, prompts, url, workers=0)
    _check(done)
    return _content(Store(url))


def _check(done: Generated) -> None:
    assert done.made == len(GOOD)
    assert [(f.sample, f.reason) for f in done.failed] == [(3, "ValueError: no such colour")]


def test_each_sample_has_its_line(wanted: dict[tuple[int, int], object]) -> None:
    assert list(wanted) == [(n, n) for n in GOOD]
    assert len({digest for digest, _ in wanted.values()}) == len(GOOD)  # type: ignore[misc]


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_make_the_same_files(
    prompts: Path, tmp_path: Path, wanted: object, workers: int
) -> None:
    url = str(tmp_path / "made")
    _check(generate(JOB, prompts, url, workers=workers))
    assert _content(Store(url)) == wanted


def test_a_store_that_fails_on_every_third_write_loses_nothing(
    prompts: Path, wanted: object
) -> None:
    store = Failing(f"memory://{uuid.uuid4()}", every=3)
    _check(generate(JOB, prompts, store.url, workers=0, store=store))
    assert _content(store) == wanted


@pytest.mark.remedy("is the memory of one process: give --workers 0.")
def test_processes_do_not_share_the_memory_of_one(prompts: Path) -> None:
    url = f"memory://{uuid.uuid4()}"
    with pytest.raises(OtcacheError, match="is the memory of one process"):
        generate(JOB, prompts, url, workers=1)
    _check(generate(JOB, prompts, url, workers=0))


@pytest.mark.parametrize("after", range(1, 10, 2))
def test_an_interrupted_generation_goes_on(prompts: Path, wanted: object, after: int) -> None:
    """Wherever the store goes away, nothing is lost, twice or left over."""
    url = f"memory://{uuid.uuid4()}"
    store = Failing(url, after=after)
    with pytest.raises(StoreError, match="the store is away"):
        generate(JOB, prompts, url, workers=0, store=store)
    _check(generate(JOB, prompts, url, workers=0))
    assert _content(Store(url)) == wanted
    assert Store(url).names("manifest") == []


def test_a_folder_of_a_finished_generation_has_no_parts(prompts: Path, tmp_path: Path) -> None:
    generate(JOB, prompts, str(tmp_path / "made"), workers=0)
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert names == {"job.json", "manifest.jsonl", "failed.jsonl", "samples"}


def test_a_store_is_tried_a_few_times(tmp_path: Path) -> None:
    store = Failing(str(tmp_path), after=1)
    store.write("a", b"1")
    with pytest.raises(StoreError):
        store.write("b", b"2")
    assert store.count == 1 + TRIES  # type: ignore[attr-defined]
    assert [store.read("a"), store.read("b")] == [b"1", None]


def test_a_call_that_fails_is_tried_sample_by_sample(prompts: Path, tmp_path: Path) -> None:
    job = msgspec.structs.replace(JOB, batch_size=4)
    _check(generate(job, prompts, str(tmp_path / "made"), workers=0))
    _check(generate(job, prompts, str(tmp_path / "made"), workers=0))  # finished: nothing is made


def test_a_sample_whose_process_ends_is_tried_again(prompts: Path, tmp_path: Path) -> None:
    prompts.write_text(f"red\ndeadly {tmp_path / 'marker'}\ndeadly\nblue", encoding="utf-8")
    done = generate(JOB, prompts, str(tmp_path / "made"), workers=1)
    assert done.made == 3
    assert [failed.sample for failed in done.failed] == [2]
    assert "its process ended by signal 9" in done.failed[0].reason


def test_a_process_that_ends_at_its_start_is_replaced_once(
    prompts: Path, tmp_path: Path, wanted: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLOURS_MARKER", str(tmp_path / "marker"))
    job, url = (
        msgspec.structs.replace(JOB, pipeline="colours:make_second_time"),
        str(tmp_path / "made"),
    )
    _check(generate(job, prompts, url, workers=1))
    assert _content(Store(url)) == wanted
    (tmp_path / "marker").unlink()
    monkeypatch.setattr("otcache.generation.runner.DEATHS", 1)
    with pytest.raises(OtcacheError, match="a worker ended by signal 9 at its start"):
        generate(job, prompts, str(tmp_path / "other"), workers=1)


def test_what_was_set_aside_is_tried_again_if_asked(prompts: Path, tmp_path: Path) -> None:
    url, marker = str(tmp_path / "made"), tmp_path / "marker"
    prompts.write_text(f"red\npoison {marker}", encoding="utf-8")
    done = generate(JOB, prompts, url, workers=0)
    assert [failed.sample for failed in done.failed] == [1]
    marker.touch()
    assert generate(JOB, prompts, url, workers=0) == done
    again = generate(JOB, prompts, url, workers=0, retry=True)
    assert (again.made, again.failed) == (2, ())
    assert Store(url).read("failed.jsonl") == b""


@pytest.mark.remedy("choose another folder, or ")
@pytest.mark.remedy("give --force to make its samples again.")
def test_other_settings_are_refused(prompts: Path, tmp_path: Path) -> None:
    url = str(tmp_path / "made")
    generate(JOB, prompts, url, workers=0)
    other = msgspec.structs.replace(JOB, budget=4)
    with pytest.raises(FileError, match=r"job\.json: is of other settings"):
        generate(other, prompts, url, workers=0)
    for done in (
        generate(other, prompts, url, workers=0, overwrite=True),
        generate(other, prompts, str(tmp_path / "new"), workers=0),
    ):
        assert {line.budget for line in done.failed} == {4}


@pytest.mark.remedy("pip install fsspec.")
def test_urls_need_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "fsspec.core", None)
        with pytest.raises(OtcacheError, match=r"a URL needs fsspec: pip install fsspec\."):
            Store("memory://there")
    Store("memory://there").write("a", b"1")
    assert Store("memory://there").read("a") == b"1"
    with pytest.raises(OtcacheError, match="nosuch://there: cannot be opened"):
        Store("nosuch://there")


def test_a_pipeline_that_cannot_be_opened_sets_nothing_aside(prompts: Path, tmp_path: Path) -> None:
    job = msgspec.structs.replace(JOB, pipeline="colours:nothing")
    with pytest.raises(OtcacheError, match="'colours:nothing' cannot be made"):
        generate(job, prompts, str(tmp_path / "made"), workers=1)
    assert not (tmp_path / "made" / "failed.jsonl").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_no_prompt_is_to_blame_for_sets_none_aside(
    prompts: Path, tmp_path: Path, workers: int
) -> None:
    url, job = str(tmp_path / "made"), msgspec.structs.replace(JOB, call={"colour": "red"})
    with pytest.raises(OtcacheError, match=r"the first 5 samples fail alike: .*colour"):
        generate(job, prompts, url, workers=workers)
    assert Store(url).names("manifest") == []
    with pytest.raises(OtcacheError, match=r"seeds\[1\]"):
        generate(msgspec.structs.replace(JOB, seeds=(0, -1)), prompts, url, workers=0)


def test_a_few_prompts_may_all_fail(prompts: Path, tmp_path: Path) -> None:
    prompts.write_text("poison\npoison\nred\npoison", encoding="utf-8")
    done = generate(JOB, prompts, str(tmp_path / "made"), workers=0)
    assert (done.made, [line.sample for line in done.failed]) == (1, [0, 1, 3])
    prompts.write_text("poison", encoding="utf-8")
    done = generate(JOB, prompts, str(tmp_path / "other"), workers=0)
    assert (done.made, len(done.failed)) == (0, 1)


def test_command_line(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    words = ["generate", "colours:make", "--prompts", str(prompts), "--out", str(out)]
    words += ["--budget", "3", "--steps", "6", "--seeds", "1,2", "--workers", "0", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["made"] == 2 * len(GOOD)
    assert [(one["sample"], one["seed"]) for one in found["failed"]] == [(3, 1), (3, 2)]
    assert Path(found["manifest"]).is_file()


class Elsewhere:
    """A worker on a machine that is not there yet, is lost, or is: by its number."""

    def __init__(self, number: int) -> None:
        self._number, self._worker, self._said = number, None, list[dict[str, Any]]()

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    last_words = "nothing"

    def give(self, task: dict[str, Any]) -> None:
        if self._worker is None:
            self._worker = msgspec.convert(task, Opening).worker()
            self._said.append({"event": "ready"})
        else:
            pieces = msgspec.convert(task["samples"], list[Piece])
            try:
                lines = msgspec.to_builtins(self._worker.make(pieces))
                self._said.append({"event": "made", "lines": lines})
            except ValueError as error:
                self._said.append({"event": "failed", "reason": f"ValueError: {error}"})

    def event(self, timeout: float) -> dict[str, Any] | None:
        if self._number < 4:  # lost at its start, or at its first sample
            if self._number % 2 or self._said[0]["event"] != "ready":
                raise EndedError(-9, "preempted")
        elif self._number % 3:
            return {"event": "waiting"}
        return self._said.pop(0)


def test_lost_machines_and_machines_that_never_come_cost_nothing(
    prompts: Path, tmp_path: Path, wanted: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = count()
    start = nullcontext(lambda command, log, threads: Elsewhere(next(numbers)))
    monkeypatch.setattr(runner, "open_runner", lambda name, workers: start)
    url = str(tmp_path / "made")
    _check(generate(JOB, prompts, url, workers=4, runner="ray"))
    assert _content(Store(url)) == wanted
