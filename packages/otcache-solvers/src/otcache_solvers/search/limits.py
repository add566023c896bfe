"""What a solver says when a limit stopped it."""

from __future__ import annotations


def raise_limits(what: str, **limits: int | None) -> str:
    """Advice for ``stats["advice"]``: which limits of the solver are set, and to raise them.

    Args:
        what: that was stopped, such as ``annealing``.
        limits: the solver's own arguments by name, and their values; None is no limit.

    Examples:
        >>> raise_limits("the climb", max_trials=8, max_nfe=None)
        'The climb stopped at a limit. Raise `max_trials` (8).'
    """
    named = [f"`{name}` ({value})" for name, value in limits.items() if value is not None]
    return f"{what[0].upper()}{what[1:]} stopped at a limit. Raise {' or '.join(named)}."
