"""The sketch against all subsets there are: no bias, and an error within the formula."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otcache_core.errors import OtcacheError
from otcache_core.storage.recordings import inner_products, sketch, sketch_error


def kurtosis(vectors: np.ndarray) -> float:
    """Compute the largest <u^2, u^2> / |u|^4 of some vectors; 1 where all are 0."""
    squares = np.square(vectors, dtype=np.float64)
    sizes = squares.mean(axis=1)
    kept = squares[sizes > 0]
    return max([1.0, *np.square(kept).mean(axis=1) / sizes[sizes > 0] ** 2])


VECTORS = arrays(
    np.float64, st.tuples(st.just(2), st.integers(2, 7)), elements=st.floats(-10, 10, width=32)
)


@given(VECTORS, st.data())
def test_over_all_subsets_there_is_no_bias_and_the_error_is_within_the_bound(
    vectors: np.ndarray, data: st.DataObject
) -> None:
    d = vectors.shape[1]
    kept = data.draw(st.integers(1, d))
    full = inner_products(vectors)
    subsets = [list(S) for S in itertools.combinations(range(d), kept)]
    found = np.stack([inner_products(vectors[:, S]) for S in subsets])
    np.testing.assert_allclose(found.mean(0), full, atol=1e-9 * (1 + np.abs(full).max()))
    error = np.sqrt(np.mean((found - full) ** 2, axis=0))
    sizes = np.sqrt(np.outer(np.diag(full), np.diag(full)))
    bound = sketch_error(d, kept, kurtosis(vectors)) * sizes
    assert (error <= bound * (1 + 1e-6) + 1e-9).all()


@given(st.integers(0, 10), st.integers(40, 400))
def test_the_gram_of_a_difference_is_known_as_well_as_that_of_the_outputs(
    seed: int, kept: int
) -> None:
    rng, d = np.random.default_rng(seed), 4000
    base = rng.standard_normal(d)
    outputs = np.stack([base + 1e-3 * k * rng.standard_normal(d) for k in range(6)])
    S = sketch(d, kept, seed)
    for vectors in (outputs, np.diff(outputs, axis=0)):
        full, found = inner_products(vectors), inner_products(vectors[:, S])
        sizes = np.sqrt(np.outer(np.diag(full), np.diag(full)))
        # Five standard errors: a chance of one in a million an entry.
        assert (np.abs(found - full) / sizes).max() < 5 * sketch_error(d, kept, kurtosis(vectors))


def test_coordinates_are_distinct_increasing_seeded_and_even() -> None:
    S = sketch(1000, 100, seed=3)
    assert (np.diff(S) > 0).all()
    assert (S[0] >= 0) & (S[-1] < 1000)
    np.testing.assert_array_equal(S, sketch(1000, 100, seed=3))
    assert not np.array_equal(S, sketch(1000, 100, seed=4))
    counts = np.bincount(np.concatenate([sketch(8, 4, seed) for seed in range(2000)]), minlength=8)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(2000 / 4)


def test_all_coordinates_are_no_sketch() -> None:
    np.testing.assert_array_equal(sketch(5, 5, 0), np.arange(5))
    assert sketch_error(5, 5) == sketch_error(5, 9) == 0.0


def test_the_error_of_gaussian_elements_is_that_of_their_products() -> None:
    rng, d, kept = np.random.default_rng(1), 20_000, 500
    v = rng.standard_normal(d)
    squares = [np.mean(v[sketch(d, kept, seed)] ** 2) for seed in range(400)]
    bound = sketch_error(d, kept)
    measured = np.std(squares) / np.mean(v**2)
    assert (
        0.7 * bound < measured < bound
    )  # sqrt(2 / d') is the truth of <v, v>, sqrt(3 / d') the bound


def test_kurtosis_is_that_of_the_heaviest_vector() -> None:
    assert kurtosis(np.array([[1.0, -1.0, 1.0, -1.0]])) == 1.0
    assert kurtosis(np.array([[0.0, 0.0], [0.0, 2.0]])) == 2.0


def test_nonsense_is_refused() -> None:
    with pytest.raises(OtcacheError, match=r"kurtosis must be at least 1, got 0\.5"):
        sketch_error(10, 5, 0.5)
    with pytest.raises(OtcacheError, match="coordinates must be at least 1, got 0"):
        sketch_error(10, 0)
