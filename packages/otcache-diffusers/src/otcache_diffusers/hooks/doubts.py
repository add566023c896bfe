"""Complaints whose truth only the device may know."""

from __future__ import annotations

from typing import final

import torch

#: What is true: known here, or to the device alone, as a tensor of one boolean.
Truth = bool | torch.Tensor


@final
class Doubts:
    r"""Folds complaints on the device until it may be asked; what the host knows is told at once.

    .. math:: d \leftarrow d \lor b

    with b the truth of one call and d one flag a complaint, so that a run of any length costs one
    synchronization, at its end.
    """

    def __init__(self) -> None:
        self._open: dict[str, torch.Tensor] = {}

    def sure(self, truth: Truth, complaint: str) -> bool:
        """Whether the complaint is known to be true now; where only the device knows, it is kept."""
        if not isinstance(truth, torch.Tensor):
            return truth
        before = self._open.get(complaint)
        self._open[complaint] = truth if before is None else truth | before.to(truth.device)
        return False

    def settle(self) -> list[str]:
        """The kept complaints that are true, forgotten from now on. Syncs if any was kept."""
        kept, self._open = self._open, {}
        if not kept or not bool(torch.stack(list(kept.values())).any()):
            return []
        return [complaint for complaint, flag in kept.items() if bool(flag)]
