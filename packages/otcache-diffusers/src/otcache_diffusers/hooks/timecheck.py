"""Checks that the denoiser is called at the time the clock believes, without asking the device."""

from __future__ import annotations

from typing import Any

import torch

from otcache_diffusers.hooks.start import latest_time

#: How pipelines hand t to the denoiser: t, t/1000 and 1 - t/1000.
_CONVENTIONS = torch.tensor([[1.0, 0.0], [1e-3, 0.0], [-1e-3, 1.0]])
#: bfloat16 keeps 8 bits.
_RTOL, _ATOL = 1e-2, 1e-4


class TimeCheck:
    """Compares the time argument with ``scheduler.timesteps`` on the device, into a flag read once.

    The convention is the one that fits at step 0; where none does, nothing is claimed.
    """

    def __init__(self) -> None:
        self._timesteps: torch.Tensor | None = None
        self._conventions = _CONVENTIONS
        self._first: torch.Tensor | None = None
        self._always: torch.Tensor | None = None
        self._bad: torch.Tensor | None = None

    def begin(self, timesteps: torch.Tensor | None) -> None:
        """Take the timesteps of a run that starts, t_0 first; None where they are not known."""
        self._collect()
        self._timesteps = None if timesteps is None else timesteps.float()

    def see(self, step: int, timestep: Any) -> None:
        """The denoiser is called at ``step`` with this time argument."""
        if self._timesteps is None or step >= len(self._timesteps):
            return
        latest = latest_time(timestep)
        if latest is None:
            return
        passed = latest.float()
        if self._timesteps.device != passed.device:
            self._timesteps = self._timesteps.to(passed.device)
        if self._conventions.device != passed.device:
            self._conventions = self._conventions.to(passed.device)
        scale, shift = self._conventions.unbind(1)
        wanted = scale * self._timesteps[step] + shift
        fits = ((passed - wanted).abs() <= _RTOL * wanted.abs() + _ATOL) | ~wanted.isfinite()
        if self._first is None or self._always is None:
            self._first = self._always = fits
        self._always = self._always & fits

    def failed(self) -> bool:
        """Read the flag: whether some run passed other times than its scheduler's. Syncs."""
        self._collect()
        return self._bad is not None and bool(self._bad)

    def _collect(self) -> None:
        """Fold the run's flag into one for all runs: a handle may see millions of them."""
        if self._first is not None and self._always is not None:
            bad = self._first.any() & ~self._always.any()
            self._bad = bad if self._bad is None else bad | self._bad.to(bad.device)
        self._first = self._always = None
