"""Which steps MagCache computes: its rule looks at no input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MagCacheRule:
    r"""The rule on its magnitude ratios.

    .. math:: \rho_t = \prod_{i=k+1}^{t} \gamma_i, \qquad
        \mathrm{skip} \iff \sum_{i=k+1}^{t} |1 - \rho_i| \le \theta \;\wedge\; t - k \le K

    from step w on, with k the latest step computed (or w - 1), so that after a computed step the
    count begins anew.

    References:
        MagCache: fast video generation with magnitude-aware cache (2025),
        https://arxiv.org/abs/2506.09045

    Args:
        threshold: theta.
        max_skip: K, the most steps skipped in a row.
        warmup: w, at least 1; steps before it are computed.
    """

    threshold: float
    max_skip: int
    warmup: int

    def computed(self, ratios: Sequence[float]) -> tuple[int, ...]:
        """Computed steps of 0 .. N-1.

        Args:
            ratios: gamma_t, mean over tokens of |r_t| / |r_{t-1}|, r what the blocks add.
        """
        rho, error, skipped = 1.0, 0.0, 0
        computed = list(range(min(self.warmup, len(ratios))))
        for t in range(self.warmup, len(ratios)):
            rho *= ratios[t]
            error += abs(1.0 - rho)
            skipped += 1
            if error > self.threshold or skipped > self.max_skip:
                computed.append(t)
                rho, error, skipped = 1.0, 0.0, 0
        return tuple(computed)
