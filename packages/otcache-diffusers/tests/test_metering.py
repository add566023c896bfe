"""Counts of evaluations, memory and final states, against arithmetic and a plain run."""

from __future__ import annotations

import numpy as np
import torch

from otcache_core import Schedule
from otcache_core.contracts import SampleRequest
from otcache_diffusers import demo
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.recording.metering import Meters
from otcache_diffusers.recording.probe import TorchProbe


def request(steps: int, prompts: int = 1) -> SampleRequest:
    return SampleRequest(("a red circle",) * prompts, tuple(range(prompts)), steps, demo.CALL, 1)


def test_flops_are_linear_in_the_calls_of_the_network() -> None:
    pipe, probe = demo.load(), TorchProbe()
    two, three = (probe.measure(pipe, request(n), flops=True).flops for n in (2, 3))
    assert two
    assert three
    with TorchExecutor().attach(pipe, Schedule(4, (0, 2))):
        assert probe.measure(pipe, request(4), flops=True).flops == two
    assert probe.measure(pipe, request(4), flops=True).flops == two + 2 * (three - two)


def test_flops_of_a_matrix_product_are_twice_its_multiply_adds() -> None:
    with Meters() as meters:
        torch.ones(3, 5) @ torch.ones(5, 7)
    assert meters.flops == 2 * 3 * 5 * 7
    assert meters.peak_bytes == 4 * (3 * 5 + 5 * 7 + 3 * 7)


def test_images_are_those_of_a_plain_run_and_nothing_remains() -> None:
    pipe, probe = demo.load(), TorchProbe()
    plain = probe.sample(pipe, request(2, 3))
    before = set(vars(pipe.vae))
    for flops in (False, True):
        found = probe.measure(pipe, request(2, 3), flops=flops)
        np.testing.assert_array_equal(found.images, plain)
        assert found.states is not None
        assert len(found.states) == 3
        assert (found.flops is None) == (found.peak_bytes is None) == (not flops)
    assert set(vars(pipe.vae)) == before


def test_states_decode_to_the_images() -> None:
    pipe, probe = demo.load(), TorchProbe()
    found = probe.measure(pipe, request(2))
    assert found.states is not None
    with torch.no_grad():
        decoded = pipe.vae.decode(torch.from_numpy(found.states), return_dict=False)[0]
    images = pipe.image_processor.postprocess(decoded, output_type="np")
    np.testing.assert_array_equal(images, found.images)


def test_decoding_is_not_counted() -> None:
    pipe, probe = demo.load(), TorchProbe()
    found = probe.measure(pipe, request(2), flops=True)
    with Meters() as meters:
        pipe(prompt="a red circle", num_inference_steps=2, output_type="latent", **demo.CALL)
    assert found.flops == meters.flops
