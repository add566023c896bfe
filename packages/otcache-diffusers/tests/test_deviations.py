"""Inner products of deviations, in memory and on the disk, against one product of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from otcache_core.storage.recordings import SLAB
from otcache_diffusers.evaluation.evaluator import Deviations
from otcache_diffusers.recording.full_runs import DiskStore


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("elements", [7, SLAB + 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_grams_are_those_of_all_elements_at_once(
    where: str, elements: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    batches = [tiny.noise(3, n, elements, seed=n).to(dtype) for n in (2, 1)]
    deviations = Deviations(3, DiskStore(tmp_path) if where == "disk" else None)
    for index in range(3):
        for batch in batches:
            deviations.add(index, batch[index])
    whole = torch.cat(batches, dim=1).double().numpy()
    expected = np.einsum("and,bnd->nab", whole, whole) / elements
    np.testing.assert_allclose(deviations.grams(), expected, rtol=1e-12, atol=1e-12)
