"""Cutting denoiser outputs into samples and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from otcache_core.errors import ExecutionError
from otcache_diffusers.recording.rows import join_rows, split_rows


def _rows(chunks: int) -> torch.Tensor:
    return torch.arange(chunks * 3 * 4.0).reshape(chunks * 3, 4)


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: (t,), lambda t: [t, t + 1], lambda t: {"sample": t}]
)
def test_join_is_the_inverse_of_split(chunks: int, wrap: Any) -> None:
    output = wrap(_rows(chunks))
    back = join_rows(split_rows(output, 3))
    assert type(back) is type(output)
    torch.testing.assert_close(back, output, rtol=0, atol=0)


def test_a_sample_gets_its_row_of_every_guidance_chunk() -> None:
    second = split_rows(_rows(2), 3)[1]
    torch.testing.assert_close(second, torch.stack([_rows(2)[1], _rows(2)[4]]))


def test_rows_that_are_no_multiple_of_the_samples_are_refused() -> None:
    with pytest.raises(ExecutionError, match="multiple of 4 rows"):
        split_rows(_rows(1), 4)
