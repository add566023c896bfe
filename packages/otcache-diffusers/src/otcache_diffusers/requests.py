"""Check a request before anything runs: every argument is known, and clashes with nothing."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

from otcache_core.contracts.execution import SampleRequest
from otcache_core.errors import OtcacheError, expected
from otcache_core.loop import Loop
from otcache_core.numbers import reals
from otcache_core.samples import Sample, arguments_of, is_image, keys_of
from otcache_diffusers.hooks.modular import call_parameters

#: Arguments of a pipeline call that a request makes itself, and what to give instead.
OWN = {
    "num_inference_steps": "give the number of steps",
    "generator": "give seeds",
    "output_type": "images are decoded where they are needed",
    "return_dict": "leave it out",
}
EACH_ITS_OWN = 'give each sample its own: prompts=[{{"prompt": ..., "{name}": ...}}, ...]'
#: Arguments by which a run's grid is given.
GRIDS = ("sigmas", "timesteps")
#: Whole numbers that pipelines take in a list, one per sample.
LABELS = "class_labels"
_TEXT = re.compile(r"(negative_)?prompt(_\d+)?")
_PIXELS = ("image", "mask_image", "control_image")


def prepared(target: Any, request: SampleRequest) -> SampleRequest:
    """Check a request, and return it as the target takes it; doing it again changes nothing.

    Lists of negative and of second prompts, one per prompt, become the samples' own. The batch size is 1
    for a pipeline where a sample, or what all samples have, is more than texts and numbers.

    Args:
        target: a pipeline or a loop.
        request: samples that are not yet repeated over seeds, if a list goes with them.

    Raises:
        OtcacheError: if an argument is unknown, missing, out of range, or clashes with another.
    """
    if isinstance(target, Loop):
        _check_loop(target, request)
        return request
    known = call_parameters(target)
    _check_names(target, known, request)
    request = _distributed(request)
    of_samples = (pair for sample in request.prompts for pair in arguments_of(sample).items())
    for name, value in (*request.call.items(), *of_samples):
        _check_value(name, value, request.num_steps)
    return request if shareable(request) else replace(request, batch_size=1)


def shareable(request: SampleRequest) -> bool:
    """Return whether samples of a pipeline can go into one call: texts, and class labels, in lists."""
    own = all(
        isinstance(value, str) if is_text(name) else name == LABELS and isinstance(value, Integral)
        for sample in request.prompts
        for name, value in arguments_of(sample).items()
    )
    return own and not any(_holds_pixels(value) for value in request.call.values())


def takes_any(known: Mapping[str, inspect.Parameter]) -> bool:
    """Return whether a call takes arguments of any name."""
    return any(p.kind is p.VAR_KEYWORD for p in known.values())


def is_text(name: str) -> bool:
    """Return whether an argument is a prompt of some kind, which pipelines take in a list, one per sample."""
    return _TEXT.fullmatch(name) is not None


def _check_loop(loop: Loop, request: SampleRequest) -> None:
    for name, value in request.call.items():
        if name.startswith("negative_prompt") and _is_texts(value):
            own = EACH_ITS_OWN.format(name=name)
            raise OtcacheError(f"{name} is one per prompt, and each call has other samples: {own}.")
    try:
        known = inspect.signature(loop.sample_fn).parameters
    except (TypeError, ValueError):  # compiled elsewhere
        return
    if not takes_any(known):
        named = [n for n, p in known.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        for name in request.call:
            if name not in named:
                raise OtcacheError(_unknown(name, "sample_fn", named[3:]))
    try:
        inspect.signature(loop.sample_fn).bind((), (), request.num_steps, **request.call)
    except TypeError as error:
        raise OtcacheError(
            f"sample_fn is called as sample_fn(prompts, seeds, num_steps, **call), and {error}: let it "
            "take these arguments, and give the others to calibrate by name."
        ) from error


def _check_names(
    target: Any, known: Mapping[str, inspect.Parameter], request: SampleRequest
) -> None:
    kind, own = type(target).__name__, keys_of(request.prompts[0])
    if "prompt" not in known and any(isinstance(sample, str) for sample in request.prompts):
        some = next(iter(_required(known)), "...")
        raise OtcacheError(
            f"{kind} takes no prompt: give samples as mappings of its call arguments, "
            f'prompts=[{{"{some}": ...}}, ...].'
        )
    for name in (*request.call, *sorted({key for s in request.prompts for key in keys_of(s)})):
        if name in OWN:
            raise OtcacheError(f"the call argument {name} is otcache's own: {OWN[name]}.")
        if name not in known and not takes_any(known):
            raise OtcacheError(_unknown(name, kind, list(known)))
    for name in request.call:
        if name in own and name == "prompt":
            raise OtcacheError(
                "the call argument prompt is otcache's own: prompts are those of the request."
            )
        if name in own:
            raise OtcacheError(f"{name} is given for all samples and by each: give it once.")
    if "latents" in request.call:
        raise OtcacheError(
            "latents would be the noise of every sample: leave them out, noise comes from seeds; or "
            f"{EACH_ITS_OWN.format(name='latents')}."
        )
    if "prompt" in own and "prompt_embeds" in own | set(request.call):
        raise OtcacheError(
            "prompt_embeds are given beside prompts: leave one of the two out; embeddings of each sample "
            'go as prompts=[{"prompt_embeds": ...}, ...].'
        )
    missing = [name for name in _required(known) if name not in own | set(request.call)]
    if missing:
        raise OtcacheError(
            f"{kind} needs {missing[0]}: {EACH_ITS_OWN.format(name=missing[0])}, or give one for all, "
            f"{missing[0]}=..."
        )


def _unknown(name: str, kind: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known) or "no further ones"
    hint = f"did you mean {near[0]!r}?" if near else f"it takes {listed}."
    return expected("call argument", name, f"one that {kind} takes", hint)


def _required(known: Mapping[str, inspect.Parameter]) -> list[str]:
    """Return arguments without a default that only the user can give."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        n for n, p in known.items() if p.kind in kinds and p.default is p.empty and n not in OWN
    ]


def _distributed(request: SampleRequest) -> SampleRequest:
    """Give every sample its entry of the lists of texts that go with prompts."""
    call, n = dict(request.call), len(request.prompts)
    lists = {name: value for name, value in call.items() if is_text(name) and _is_texts(value)}
    for name, values in lists.items():
        if len(values) != n:
            raise OtcacheError(
                expected(name, f"{len(values)} texts", f"one text, or {n}, one per prompt")
            )
        del call[name]
    if not lists:
        return request
    samples: list[Sample] = [
        arguments_of(sample) | {name: str(values[i]) for name, values in lists.items()}
        for i, sample in enumerate(request.prompts)
    ]
    return replace(request, prompts=tuple(samples), call=call)


def _is_texts(value: Any) -> bool:
    listed = hasattr(value, "__len__") and not isinstance(value, (str, bytes, Mapping))
    return listed and len(value) > 0 and all(isinstance(text, str) for text in value)


def _check_value(name: str, value: Any, num_steps: int) -> None:
    several = name.startswith("num_") and name.endswith("_per_prompt") and value is not None
    if several and _number(value) != 1:
        raise OtcacheError(
            expected(
                name,
                value,
                "1 while measuring",
                "several of one prompt are measured by several seeds, seeds=[0, 1]; a policy runs with "
                "any number.",
            )
        )
    if name in GRIDS and value is not None:
        _check_grid(name, value, num_steps)
    if name == "strength" and not 0 < (_number(value) or 0) <= 1:
        raise OtcacheError(expected(name, value, "a number above 0 and at most 1"))
    rows = _rows(name, value)
    if rows not in (None, 1):
        raise OtcacheError(
            expected(
                f"rows of {name}",
                rows,
                "1",
                f"a tensor or array for several samples is not cut; {EACH_ITS_OWN.format(name=name)}.",
            )
        )


def _number(value: Any) -> float | None:
    """Return a number of any library as a float; None of anything else, and of truth values."""
    if isinstance(value, bool) or bool(getattr(value, "ndim", 0)):
        return None
    try:
        return reals("number", [value])[0]
    except OtcacheError:
        return None


def _check_grid(name: str, value: Any, num_steps: int) -> None:
    """Refuse a grid of another number of steps: a pipeline makes as many as its grid says."""
    if not hasattr(value, "__len__"):
        raise OtcacheError(expected(name, value, "a list of numbers"))
    if len(value) not in (num_steps, num_steps + 1):
        raise OtcacheError(
            expected(
                f"num_inference_steps beside {name}",
                num_steps,
                f"their number, {len(value)}",
                f"give num_inference_steps={len(value)}, or leave {name} out.",
            )
        )


def _rows(name: str, value: Any) -> int | None:
    """Return the rows of what is shaped like a batch; None of anything else."""
    dimensions = getattr(value, "ndim", 0)
    image = name in _PIXELS or name.endswith("_image")
    least = 4 if image or name == "latents" else 3 if name.endswith("_embeds") else 0
    return int(value.shape[0]) if least and dimensions >= least else None


def _holds_pixels(value: Any) -> bool:
    """Return whether it is, or holds, an image or an array of more than one dimension."""
    if isinstance(value, (list, tuple)):
        return any(_holds_pixels(entry) for entry in value)
    if isinstance(value, Mapping):
        return any(_holds_pixels(entry) for entry in value.values())
    return is_image(value) or getattr(value, "ndim", 0) > 1
