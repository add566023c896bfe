"""Sampling for a measurement shows no progress bar of the pipeline's own."""

from __future__ import annotations

from typing import Any

import tiny

from otcache_core.contracts import SampleRequest
from otcache_core.loop import Loop
from otcache_diffusers.recording.sampler import Sampler


def test_a_pipeline_s_bar_is_off_while_it_is_measured_and_on_again(capfd: Any) -> None:
    """It was printed for every run of an evaluation, also with ``progress=False``."""
    pipe = tiny.with_prompts(tiny.flux()).pipe
    pipe.set_progress_bar_config(disable=False)
    Sampler(pipe, SampleRequest(("a",), (0,), 2, {"height": 16, "width": 16}))([0])
    assert capfd.readouterr() == ("", "")
    assert pipe._progress_bar_config == {"disable": False}


def test_nothing_stays_on_a_loop() -> None:
    net = tiny.Velocity()
    loop = Loop(tiny.euler_sampler(net), net)
    before = dict(vars(loop))
    Sampler(loop, SampleRequest(("a",), (0,), 2))([0])
    assert vars(loop) == before
