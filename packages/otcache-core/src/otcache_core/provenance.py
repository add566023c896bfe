"""Facts that bind a policy to the pipeline it was measured on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from otcache_core.errors import MismatchError, OtcacheError, expected
from otcache_core.numbers import integer, reals
from otcache_core.schedule import check_num_steps

#: Another value of these is another model: its weights would forecast nonsense.
BINDING = ("model_class", "config_hash", "prediction_type")
#: Another value of these changes how well the policy fits; said, and refused only under strict.
NOTICED = ("scheduler_class", "guidance", "resolution", "num_steps", "grid")


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a policy comes from; an empty value is unknown and is not compared.

    Args:
        model_class: class of the denoiser.
        config_hash: hash of its configuration.
        scheduler_class: class of the sampler.
        prediction_type: what the denoiser predicts: ``flow``, ``epsilon``, ``v_prediction``, ...
        guidance: guidance mode, such as ``none``, ``embedded 3.5`` or ``cfg 3.0``.
        resolution: latent token count (the resolution class).
        num_steps: N; at least 1.
        inference_steps: steps the pipeline was asked for, where its sampler makes another number of
            them (Heun, PNDM); 0 where it makes N.
        grid: s_0 .. s_N, N + 1 finite values; empty where unknown.
        prompts_digest: digest of the calibration prompts and seeds.
        versions: package to version.

    Raises:
        OtcacheError: if a value is out of range.
    """

    num_steps: int
    model_class: str = ""
    config_hash: str = ""
    scheduler_class: str = ""
    prediction_type: str = ""
    guidance: str = ""
    resolution: int = 0
    inference_steps: int = 0
    grid: tuple[float, ...] = ()
    prompts_digest: str = ""
    versions: dict[str, str] = {}  # msgspec copies the default

    def __post_init__(self) -> None:
        check_num_steps(integer("provenance.num_steps", self.num_steps), "provenance.num_steps")
        for name in ("num_steps", "resolution", "inference_steps"):
            value = integer(f"provenance.{name}", getattr(self, name), 0)
            msgspec.structs.force_setattr(self, name, value)
        points = tuple(reals("provenance.grid", self.grid))
        msgspec.structs.force_setattr(self, "grid", points)
        n = self.num_steps
        if self.grid and len(self.grid) != n + 1:
            got = f"{len(self.grid)} values"
            raise OtcacheError(expected("provenance.grid", got, f"{n + 1} values s_0 .. s_N"))
        if not all(map(math.isfinite, self.grid)):
            raise OtcacheError(expected("provenance.grid", self.grid, "finite"))

    def __hash__(self) -> int:
        return hash((self.num_steps, self.model_class, self.config_hash, self.grid))

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Provenance:
        """Build from what a probe says, with the ``grid`` added.

        None means unknown; ``guidance`` may be a number.

        Raises:
            OtcacheError: if a key is unknown or a value has the wrong type or range.
        """
        known = {key: value for key, value in facts.items() if value is not None}
        if "guidance" in known:
            known["guidance"] = str(known["guidance"])
        if "grid" in known:
            known["grid"] = tuple(float(s) for s in known["grid"])
        try:
            return msgspec.convert(known, cls)
        except msgspec.ValidationError as error:
            raise OtcacheError(
                f"provenance: {error}; keys are {', '.join(cls.__struct_fields__)}."
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data

    def check(self, facts: Mapping[str, Any], strict: bool = False) -> list[str]:
        """Compare with the pipeline at hand; facts that either side does not know are passed over.

        Args:
            facts: as :meth:`from_dict`, any part of it.
            strict: refuse what would only be noticed.

        Returns:
            One sentence for each difference that can be bridged.

        Raises:
            MismatchError: if the model or prediction type differs; under strict for any difference.
        """
        notices = []
        for field in (*BINDING, *NOTICED):
            got, wanted = facts.get(field), getattr(self, field)
            if not wanted or not _known(got) or _same(got, wanted):
                continue
            text = _difference(field, got, wanted)
            if field in BINDING:
                raise MismatchError(
                    f"{text}: a policy holds for the model it was measured on; calibrate again."
                )
            if strict:
                raise MismatchError(
                    f"{text} under strict: calibrate again, or leave strict off to map it."
                )
            notices.append(f"{text}: quality was measured on the latter only.")
        return notices


def same_grid(got: Any, wanted: Any) -> bool:
    """Whether two grids agree to 1e-4 of their largest value (bfloat16 schedulers round)."""
    if len(got) != len(wanted):
        return False
    tolerance = 1e-4 * max(abs(float(s)) for s in wanted)
    return all(abs(float(a) - float(b)) <= tolerance for a, b in zip(got, wanted, strict=True))


def _known(value: Any) -> bool:
    return value is not None and (len(value) > 0 if hasattr(value, "__len__") else value != 0)


def _same(got: Any, wanted: Any) -> bool:
    if isinstance(wanted, tuple):
        return same_grid(got, wanted)
    return str(got) == str(wanted)


def _difference(field: str, got: Any, wanted: Any) -> str:
    name = field.replace("_", " ")
    if isinstance(wanted, tuple):
        return f"{name} differs: got {_brief(got)}, expected {_brief(wanted)}"
    return f"{name} differs: got {got!r}, expected {wanted!r}"


def _brief(grid: Any) -> str:
    return f"{len(grid)} values from {float(grid[0]):.4g} to {float(grid[-1]):.4g}"
