r"""A seeded sketch of recorded runs: a few coordinates of every state and output.

Of d coordinates a set S of d' is drawn without replacement, one for all steps and samples. Means over S
stand for means over all: for u, w any combinations of outputs or states,

.. math:: \widehat{\langle u, w \rangle} = \frac{1}{d'} \sum_{c \in S} u_c w_c, \qquad
    E\,\big(\widehat{\langle u, w \rangle} - \langle u, w \rangle\big)^2
    \le \kappa\,\frac{d - d'}{d' (d - 1)}\; \|u\|^2 \|w\|^2

with all products means over elements, :math:`\|u\|^2 = \langle u, u \rangle`, and :math:`\kappa` the
larger of the kurtoses :math:`\langle u^2, u^2 \rangle / \|u\|^4` of u and w (3 for Gaussian elements). The
estimate has no bias, and the error is relative to the vectors *compared*: a displacement, a difference of
outputs that are nearly equal, is known as well as the outputs are.

Coordinates rather than a random projection: every relation that holds element by element
(x_{i+1} = x_i + h v_i) holds in the sketch exactly, so a sampler's recurrence is identified as from the
whole; means of absolute values (``local``, ``mean-velocity``) are estimated too; and nothing is multiplied.
A projection would not need the kurtosis in its error, but has none of the three.

The cost models, H, gains, local displacements and the recurrence may use a sketch. What runs the pipeline
(the evaluator, the closed-loop fit, ``Outcome``) records whole states of its own.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError, expected

#: Of Gaussian elements, which states are near the start of a run.
GAUSSIAN_KURTOSIS = 3.0


def sketch(elements: int, coordinates: int, seed: int) -> NDArray[np.intp]:
    """S: indices of the coordinates kept, increasing; all of them where fewer exist.

    Args:
        elements: d.
        coordinates: d', at least 1.
        seed: of the draw.

    Examples:
        >>> sketch(5, 9, seed=0).tolist()
        [0, 1, 2, 3, 4]
    """
    if coordinates >= elements:
        return np.arange(elements)
    drawn = np.random.default_rng(seed).choice(elements, coordinates, replace=False, shuffle=False)
    return np.sort(drawn)


def sketch_error(elements: int, coordinates: int, kurtosis: float = GAUSSIAN_KURTOSIS) -> float:
    r"""Bound on the relative standard error of an inner product.

    .. math:: \epsilon = \Big( \kappa\,\frac{d - d'}{d' (d - 1)} \Big)^{1/2}

    Args:
        elements: d, at least 1.
        coordinates: d', at least 1.
        kurtosis: kappa, at least 1; :func:`kurtosis` tells that of recorded outputs.

    Raises:
        OtcacheError: if an argument is out of range.

    Examples:
        >>> round(sketch_error(7_603_200, 65_536), 4)
        0.0067
    """
    for name, value in (
        ("elements", elements),
        ("coordinates", coordinates),
        ("kurtosis", kurtosis),
    ):
        if not value >= 1:
            raise OtcacheError(expected(name, value, "at least 1"))
    if coordinates >= elements:
        return 0.0
    return math.sqrt(kurtosis * (elements - coordinates) / (coordinates * (elements - 1)))


def kurtosis(vectors: NDArray[np.floating]) -> float:
    r"""The largest :math:`\langle u^2, u^2 \rangle / \|u\|^4` of some vectors; 1 where all are 0.

    Args:
        vectors: shape (count, d), such as the outputs of a recorded run, or of its sketch.
    """
    largest = 1.0
    for vector in vectors:
        squares = np.square(vector, dtype=np.float64)
        if (size := float(squares.mean())) > 0:
            largest = max(largest, float(np.square(squares).mean()) / size**2)
    return largest
