"""Options that several verbs share, and checks of their values."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import typer

from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_core.schedule import MAX_STEPS

#: What --set cannot name, since options of the verbs or otcache itself give it to the pipeline.
OWN = {
    "prompt": "prompts come from --prompt or --prompts, or the demo",
    "prompts": "prompts come from --prompt or --prompts, or the demo",
    "num_inference_steps": "the number of steps comes from --steps, the policy or the demo",
    "generator": "noise comes from --seed or --seeds",
    "seeds": "noise comes from --seed or --seeds",
    "output_type": "otcache decodes what it needs",
    "return_dict": "otcache reads what it needs",
} | dict.fromkeys(
    (
        "target",
        "effort",
        "budgets",
        "recipe",
        "directory",
        "overwrite",
        "progress",
        "registry",
        "probe",
    ),
    "it is not an argument of a pipeline call",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")]
Pipeline = Annotated[
    str,
    typer.Argument(
        help="'demo', 'demo:video', a folder saved by save_pretrained, or module:function that makes one."
    ),
]
Probe = Annotated[
    str | None,
    typer.Option(help="Installed probe; by default the first that supports the pipeline."),
]
Executor = Annotated[
    str | None,
    typer.Option(help="Installed executor; by default the first that supports the pipeline."),
]
Runner = Annotated[
    str, typer.Option(help="Where the processes are: local, or ray, which needs otcache[ray].")
]
Call = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Argument of the pipeline call, NAME=VALUE (JSON); may be repeated."
    ),
]


def names(text: str | None) -> tuple[str, ...]:
    """Return the parts of a comma-separated list."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def integers(what: str, text: str | None) -> tuple[int, ...]:
    """Return the numbers of a comma-separated list."""
    return tuple(integer(what, part) for part in names(text))


def numbers(what: str, text: str | None) -> tuple[float, ...]:
    """Return the decimal numbers of a comma-separated list.

    Raises:
        OtcacheError: if a part is none, or not finite.
    """
    try:
        found = tuple(map(float, names(text)))
    except ValueError:
        raise OtcacheError(expected(what, text, "numbers, separated by commas")) from None
    if not all(map(math.isfinite, found)):
        raise OtcacheError(expected(what, text, "finite"))
    return found


def integer(what: str, text: str) -> int:
    """Return a whole number.

    Raises:
        OtcacheError: if it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise OtcacheError(expected(what, text, "a whole number")) from None


def at_least(what: str, value: float, least: float) -> None:
    """Check a number that an option gives.

    Raises:
        OtcacheError: if it is below, or not finite.
    """
    if not (math.isfinite(value) and value >= least):
        kind = "an integer" if isinstance(value, int) else "a finite number"
        raise OtcacheError(expected(what, value, f"{kind} of at least {least:g}"))


def steps_in_range(what: str, value: int | None, least: int = 1) -> None:
    """Check a number of steps, if there is one.

    Raises:
        OtcacheError: if no schedule can have as many.
    """
    if value is not None and not least <= value <= MAX_STEPS:
        raise OtcacheError(expected(what, value, f"an integer between {least} and {MAX_STEPS}"))


def text(what: str, value: str) -> str:
    """Return a text that every tokenizer takes.

    Raises:
        OtcacheError: if the console passed bytes that are not text.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        advice = "its bytes are not in the encoding of the locale"
        raise OtcacheError(expected(what, value, "text", advice)) from None
    return value


def arguments(pairs: list[str] | None) -> dict[str, Any]:
    """Return what --set gives to the pipeline call.

    Raises:
        OtcacheError: if a pair has no name, or one that otcache itself gives.
    """
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, separator, value = pair.partition("=")
        if not separator or not name.isidentifier():
            raise OtcacheError(f"--set must be NAME=VALUE, got {pair!r}.")
        if name in OWN:
            raise OtcacheError(f"--set {name} is not taken: {OWN[name]}.")
        try:
            values[name] = json.loads(value)
        except (ValueError, RecursionError):
            values[name] = value
    return values
