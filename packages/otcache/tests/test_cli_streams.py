"""The command line on every stream: encodings, narrow, closed and full ones, and what it ends with."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from otcache import cli
from otcache.cli import output
from otcache.cli.app import VERSIONS
from otcache.media import _steps
from otcache.pipelines import Opened
from otcache_core import Schedule
from otcache_core.contracts import RunReport
from otcache_core.policy import Policy, Provenance

N = 12
Run = Callable[..., tuple[int, str, str]]


class Stream(io.TextIOWrapper):
    """A redirected stream of some encoding, whose bytes can be read; writing may fail."""

    def __init__(self, encoding: str, error: OSError | None = None) -> None:
        self.raw_bytes, self._error = io.BytesIO(), error
        super().__init__(self.raw_bytes, encoding, write_through=True)

    def write(self, text: str) -> int:
        if self._error:
            raise self._error
        return super().write(text)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line on streams of an encoding; gives (status, standard output, standard error)."""

    def call(*words: object, encoding: str = "utf-8", out: Any = ...) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["otcache", *map(str, words)])
        stdout = Stream(encoding) if out is ... else out
        stderr = Stream(encoding)
        monkeypatch.setattr("sys.stdout", stdout)
        monkeypatch.setattr("sys.stderr", stderr)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        shown = "" if stdout is None else stdout.raw_bytes.getvalue().decode(encoding)
        return caught.value.code, shown, stderr.raw_bytes.getvalue().decode(encoding)  # type: ignore[return-value]  # an int

    return call


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "p.otcache"
    schedules = Schedule(N, (0, 7)), Schedule(N, tuple(range(0, N, 2)))
    Policy(*schedules, Provenance(N)).save(path)
    return path


@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "cp437", "utf-16"])
def test_every_verb_prints_on_every_code_page(run: Run, policy: Path, encoding: str) -> None:
    for words in (["inspect", policy], ["plugins", "list"], ["inspect", "--help"]):
        status, out, err = run(*words, encoding=encoding)
        assert (status, err) == (0, "")
        assert "?" not in out
    strip = "█······█····" if encoding in ("cp437", "utf-16") else "#......#...."
    dot = "·" if encoding == "cp1252" else "."
    assert strip.replace(".", dot) in run("inspect", policy, encoding=encoding)[1]
    status, out, err = run("inspect", "caf\udce9\x1b[2J.otcache", encoding=encoding)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "\x1b" not in err


def test_json_is_ascii_and_has_no_nan(
    run: Run, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = policy.parent / "日\udcff.json"
    status, out, _ = run("convert", policy, "--budget", 3, "--out", written, "--json")
    assert status == 0
    assert out.isascii()
    assert json.loads(out)["written"] == str(written)
    stream = Stream("ascii")
    monkeypatch.setattr("sys.stdout", stream)
    output.show_json({"psnr": [math.inf, 1.5], "é": (math.nan, -math.inf)})
    assert json.loads(stream.raw_bytes.getvalue()) == {"psnr": [None, 1.5], "é": [None, None]}


@pytest.mark.parametrize("columns", ["0", "1", "20", "", "wide"])
def test_a_narrow_terminal_cuts_nothing_off(
    run: Run, policy: Path, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert "forecaster" in run("inspect", policy)[1]
    assert "calibrate" in run("--help")[1]
    assert "--budget" in run("inspect", "--help")[1]


def test_versions_are_those_installed(run: Run) -> None:
    status, out, _ = run("--version")
    named = [line.split()[0] for line in out.splitlines()]
    assert status == 0
    assert named[0] == "otcache"
    assert named == [name for name in (*VERSIONS, "python") if name in named]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
        (OSError(28, "No space left on device"), 1, "written: No space left on device."),
    ],
)
def test_a_reader_that_left_and_a_full_disk(
    run: Run, policy: Path, error: OSError, status: int, words: str
) -> None:
    for verb in (["inspect", policy], ["inspect", policy, "--json"], ["--version"], ["--help"]):
        found, _, err = run(*verb, out=Stream("utf-8", error))
        assert found == status
        assert err.count("\n") == (1 if words else 0)
        assert words in err


def test_closed_output_is_refused_before_anything_is_done(run: Run, policy: Path) -> None:
    """And done once it is redirected, as the message says."""
    written = policy.with_suffix(".json")
    words = ("convert", policy, "--budget", 3, "--out", written)
    status, _, err = run(*words, out=None)
    assert status == 1
    assert err == "otcache: standard output is closed: redirect it to a file, or to /dev/null.\n"
    assert not written.exists()
    assert run(*words)[0] == 0
    assert written.exists()


def test_ctrl_c_is_one_line(run: Run, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("otcache.running.load_policy", interrupted)
    status, out, err = run("inspect", policy)
    assert (status, out, err.count("\n")) == (130, "", 1)
    assert "interrupted; the same command resumes" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["calibrat"], "'calibrat': did you mean calibrate? See otcache --help."),
        (["plugins", "lst"], "'lst': did you mean list? See otcache plugins --help."),
        (
            ["plugins", "xyz"],
            "'xyz': there are list, doctor, check, new. See otcache plugins --help.",
        ),
        (["inspect"], "See otcache inspect --help."),
        (["estimate", "x", "--height", "1.5"], "--height must be a whole number, got '1.5'."),
        (["estimate", "x", "--height=x"], "--height must be a whole number, got 'x'."),
        (["compare", "x", "--out", "o", "--fps", "ten"], "--fps must be a number, got 'ten'."),
        (["compare", "x", "--out", "o", "--reference-steps", "-1"], "between 0 and 100000"),
        (["compare", "x", "--out", "o", "--limit", "nan"], "--limit must be a finite number"),
        (["compare", "x", "--out", "o", "--workers", "0"], "--workers must be an integer of at"),
        (["calibrate", "x", "--out", "o", "--steps", "0"], "--steps must be an integer between 1"),
        (["calibrate", "x", "--out", "o", "--steps", "9", "--batch-size", "0"], "--batch-size"),
        (["calibrate", "os:path", "--out", "o", "--steps", "9"], "cannot be made: TypeError"),
        (["calibrate", "sys:exit", "--out", "o", "--steps", "9"], "cannot be made: SystemExit"),
        (["inspect", "a" * 5000], "File name too long"),
    ],
)
def test_misuse_is_one_line(run: Run, words: list[str], message: str, tmp_path: Path) -> None:
    if words[0] == "calibrate":  # prompts are read before the pipeline is opened
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("a fox\n", encoding="utf-8")
        words = [*words, "--prompts", str(prompts)]
    status, out, err = run(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    if "See" in err:  # it helps
        _, _, advice = err.strip().removesuffix(".").partition(" See otcache ")
        assert run(*advice.split())[0] == 0


def test_a_prompt_that_is_no_text_is_named(run: Run, policy: Path) -> None:
    """Before the pipeline is opened."""
    words = ["run", "nowhere", "--policy", policy, "--budget", 3, "--prompt", "caf\udce9"]
    status, _, err = run(*words)
    assert status == 2
    assert "--prompt must be text" in err


def test_set_goes_before_what_the_demo_says(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}

    def measure(*_: object, **options: Any) -> SimpleNamespace:
        given.update(options)
        return SimpleNamespace(nfe={"record": 32, "gaps": 0}, fidelity="rmse")

    demo = Opened(None, {"height": 64, "width": 64}, ["a fox"])
    monkeypatch.setattr("otcache.calibration.calibrate.calibrate", measure)
    monkeypatch.setattr("otcache.pipelines.open_pipeline", lambda name: demo)
    status, out, err = run(
        "calibrate", "demo", "--steps", 8, "--out", tmp_path, "--set", "height=32"
    )
    assert (status, err) == (0, "")
    assert (given["height"], given["width"]) == (32, 64)
    assert "nfe: record 32, gaps 0\nfidelity: rmse\n" in out


def test_steps_are_those_of_the_branch_that_is_furthest() -> None:
    assert _steps(RunReport()) == 0
    assert _steps(RunReport(computed={"cond": 3, "uncond": 3}, skipped={"cond": 5})) == 8
