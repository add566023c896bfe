"""What a denoiser was called with, as far as the driver looks at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from otcache_diffusers.driver.tree import first_tensor

#: Usual names of the time argument.
TIME_NAMES = ("timestep", "timesteps", "t", "sigma", "time")


@dataclass(frozen=True)
class Arguments:
    """The arguments of one denoiser call.

    Args:
        args: positional ones.
        kwargs: named ones; the very dictionary the call is made with.
    """

    args: Sequence[Any]
    kwargs: dict[str, Any]

    def replace(self, fresh: Mapping[int, Tensor]) -> None:
        """Put other tensors into the named arguments, by the ``id`` of those they replace."""
        swap = partial(pytree.tree_map_only, Tensor, lambda leaf: fresh.get(id(leaf), leaf))
        self.kwargs.update({name: swap(value) for name, value in self.kwargs.items()})

    @property
    def state(self) -> Tensor | None:
        """The first tensor argument: the sampler's state, more or less processed."""
        return first_tensor([*self.args, *self.kwargs.values()])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first argument; of a list of tensors its length first."""
        first = next(iter([*self.args, *self.kwargs.values()]), None)
        outer = (len(first),) if isinstance(first, (list, tuple)) else ()
        return (*outer, *self.state.shape) if self.state is not None else outer

    @property
    def timestep(self) -> Any | None:
        """The time argument, by its usual names, else the second positional one."""
        for name in TIME_NAMES:
            if name in self.kwargs:
                return self.kwargs[name]
        return self.args[1] if len(self.args) > 1 else None
