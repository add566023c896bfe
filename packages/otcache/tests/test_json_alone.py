"""With --json standard output holds one JSON document, whatever is printed while the verb works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from otcache.cli.app import app
from otcache_core import Schedule
from otcache_core.policy import Policy, Provenance

N = 12
#: Everything that a plugin can do to standard output, while ``otcache inspect`` reads a policy.
LOUD = """
import atexit, ctypes, io, logging, os, subprocess, sys
import otcache.running
from otcache import cli

real, first = otcache.running.load_policy, sys.stdout

def late():
    print("late")
    os.write(1, b"late descriptor\\n")

def loud(*given):
    atexit.register(late)
    print("printed")
    sys.stdout.write("written\\n")
    sys.stdout.buffer.write(b"bytes\\n")
    print("the first stream", file=first)
    print("the interpreter's", file=sys.__stdout__)
    os.write(1, b"descriptor\\n")
    if sys.platform != "win32":
        ctypes.CDLL(None).puts(b"a C library")
    child = [sys.executable, "-S", "-c", "print('a child')"]
    subprocess.run(child, check=True)
    subprocess.run(child, stdout=sys.stdout, check=True)
    {act}
    return real(*given)

otcache.running.load_policy = loud
cli.main()
"""
ACTS = {
    "closes": "sys.stdout.close(); print('after')",
    "replaces": "sys.stdout = io.StringIO()",
    "wraps": "sys.stdout = io.TextIOWrapper(sys.stdout.buffer); sys.stdout.close()",
    "detaches": "sys.stdout.detach()",
    "deletes": "del sys.stdout",
    "none": "sys.stdout = None",
    "closes the descriptor": "os.close(1)",
    "closes all": "sys.stdout.close(); sys.__stdout__.close()",
}


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "p.otcache"
    schedules = Schedule(N, (0, 7)), Schedule(N, tuple(range(0, N, 2)))
    Policy(*schedules, Provenance(N)).save(path)
    return path


def otcache(act: str, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own, with a policy that is read loudly."""
    script = [sys.executable, "-c", LOUD.format(act=act), *map(str, words)]
    return subprocess.run(script, stderr=subprocess.PIPE, text=True, check=False, **options)


def test_every_way_to_print_goes_to_standard_error(policy: Path) -> None:
    found = otcache(ACTS["closes"], "inspect", policy, "--json", stdout=subprocess.PIPE)
    assert found.returncode == 0
    assert [0, 7] in [s["computed"] for s in json.loads(found.stdout)["schedules"]]
    said = found.stderr.splitlines()
    wanted = ["printed", "written", "bytes", "the first stream", "the interpreter's", "descriptor"]
    wanted += ["a child", "a child", "late", "late descriptor"]
    wanted += ["a C library"] * (sys.platform != "win32")
    assert sorted(said) == sorted(wanted)


@pytest.mark.parametrize("act", ["wraps", "detaches", "deletes", "closes all"])
def test_whatever_becomes_of_standard_output(act: str, policy: Path) -> None:
    found = otcache(ACTS[act], "inspect", policy, "--json", stdout=subprocess.PIPE)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["schedules"]


def test_who_ends_the_program_is_named_and_nothing_is_printed(policy: Path) -> None:
    found = otcache("sys.exit(0)", "inspect", policy, "--json", stdout=subprocess.PIPE)
    assert (found.returncode, found.stdout) == (1, "")
    assert "otcache: __main__ ended the program: SystemExit(0)" in found.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full disk")
def test_a_document_that_cannot_be_written_is_one_line(policy: Path) -> None:
    with open("/dev/full", "w") as full:
        found = otcache("pass", "inspect", policy, "--json", stdout=full)
    assert found.returncode == 1
    assert found.stderr.count("standard output cannot be written: No space left on device.") == 1
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr


def test_a_reader_that_left_is_no_error(policy: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        found = otcache("pass", "inspect", policy, "--json", stdout=nobody)
    assert found.returncode == 141
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr


@pytest.mark.parametrize("act", ["closes", "replaces", "none", "closes the descriptor"])
def test_without_descriptors_of_its_own(
    act: str, policy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a process that goes on, such as a test's; descriptor 1 is what it was afterwards."""
    import otcache.running

    real = otcache.running.load_policy

    def loud(*given: Any) -> Policy:
        sys.stdout.write("printed\n")
        os.write(1, b"descriptor\n")
        exec(ACTS[act], {"os": os, "sys": sys, "io": __import__("io")})
        return real(*given)

    monkeypatch.setattr("otcache.running.load_policy", loud)
    out = sys.stdout
    found = CliRunner().invoke(app, ["inspect", str(policy), "--json"])
    assert found.exit_code == 0, found.exception
    assert json.loads(found.stdout)["schedules"]
    assert found.stderr.startswith("printed\n")
    assert sys.stdout is out
    os.write(1, b"later\n")
    assert capfd.readouterr() == ("later\n", "descriptor\n")
