"""How an executor keeps outputs."""

from __future__ import annotations

from dataclasses import dataclass

from otcache_core.errors import OtcacheError, expected

#: Names of the types outputs can be kept in.
DTYPES = ("fp32", "bf16", "fp16")
#: Names of the places they can be moved to.
DEVICES = ("cpu",)


@dataclass(frozen=True)
class Storage:
    """In how many bits, and where, outputs are kept until a forecast reads them.

    What the sampler gets at a computed step is the denoiser's very output in any case. Forecasts are
    summed in float32 and cast once to the output's own type, so with p bits of significand

        |forecast - forecast of outputs kept as they are| <= sum_r |A_{t,r}| 2^-p |v_{k_r}|

    up to the rounding of that sum: p = 8 for bf16, 11 for fp16, 24 for fp32, and for fp16 plus 2^-25 where
    |v| is under its normal range.

    Args:
        dtype: ``bf16``, ``fp16`` or ``fp32`` for floating-point tensors that are wider; narrower ones,
            and whatever else there is in an output, keep their type. None: all do.
        device: ``cpu`` for host memory, pinned where the outputs are on a CUDA device; None: where they
            are.

    Raises:
        OtcacheError: if a name is none of these.
    """

    dtype: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        _check("dtype", self.dtype, DTYPES)
        _check("device", self.device, DEVICES)


def _check(name: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        wanted = f"None or one of {', '.join(map(repr, known))}"
        advice = f"leave {name} out to keep outputs as they are."
        raise OtcacheError(expected(f"Storage.{name}", value, wanted, advice))
