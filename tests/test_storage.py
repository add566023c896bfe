"""Outputs kept in fewer bits, asked for by the library and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toy import STEPS, make_loop
from typer.testing import CliRunner

import otcache
from otcache import cli
from otcache.running import choose
from otcache_core import Provenance
from otcache_core.plugins import Registry

SCHEDULE = otcache.Schedule(STEPS, (0, 1, 4, 8), "linear")
HALF = otcache.CacheStorage("bf16")


def _policy() -> otcache.Policy:
    grid = tuple((torch.linspace(1, 0, STEPS + 1) ** 1.5).tolist())
    facts = Provenance(STEPS, model_class="Swirl", grid=grid)
    linear = otcache.Schedule(STEPS, (0, 2, 4, 6, 9), "linear")
    return otcache.Policy(otcache.Schedule(STEPS, (0, 3)), linear, facts)


@torch.no_grad()
def _sample(loop: otcache.Loop) -> torch.Tensor:
    made: torch.Tensor = loop(["a"], [0], STEPS)
    return made


def test_a_storage_is_asked_for_where_a_run_is_accelerated() -> None:
    loop = make_loop()
    with otcache.accelerate(loop, SCHEDULE) as plain:
        wanted = _sample(loop)
    with otcache.accelerate(loop, SCHEDULE, storage=HALF) as run:
        made = _sample(loop)
    assert (plain.report.storage, run.report.storage) == (otcache.CacheStorage(), HALF)
    assert run.report.peak_cached_bytes * 2 == plain.report.peak_cached_bytes
    assert not torch.equal(made, wanted)
    torch.testing.assert_close(made, wanted, atol=2**-6, rtol=0)


def test_a_handle_keeps_outputs_one_way_for_every_budget() -> None:
    loop = make_loop()
    handle = otcache.enable(loop, _policy(), 5, storage=HALF)
    assert handle.run is not None
    _sample(loop)
    assert handle.run.report.storage == HALF
    with handle.request(4) as run:
        _sample(loop)
    assert run.report.storage == HALF
    handle.remove()


@pytest.mark.slow
def test_the_command_line_takes_both_and_tells_what_it_did(tmp_path: Path) -> None:
    from otcache_diffusers import demo

    facts = choose(Registry(), "probes", demo.load()).provenance(demo.load(), None)
    facts = {name: value for name, value in facts.items() if value is not None}
    policy = otcache.Policy(
        otcache.Schedule(4, (0,)),
        otcache.Schedule(4, (0, 2)),
        Provenance(**{**facts, "num_steps": 4}),
    )
    file, image = tmp_path / "policy.json", tmp_path / "a.png"
    policy.save(file)
    words = ["run", "demo", "--policy", file, "--budget", 2, "--prompt", "a red circle"]
    words += ["--out", image, "--json", "--cache-dtype", "fp16", "--cache-device", "cpu"]
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    report = json.loads(done.stdout)
    assert image.exists()
    assert report["storage"] == {"dtype": "fp16", "device": "cpu"}
    assert report["skipped"]
