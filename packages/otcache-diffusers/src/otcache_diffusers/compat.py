"""Everything that depends on which diffusers is installed, or on whether one is: 0.37 to 0.42.

Nothing else in this package asks for a version. A loop or a bare module needs no diffusers, and a diffusers
that cannot be imported beside this torch must not stop it: so :func:`is_pipeline` imports nothing.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from otcache_core.errors import OtcacheError

#: The extra that brings every library below.
INSTALL = "pip install 'otcache-diffusers[pipelines]'"
#: Under which a module has the registry of its hooks, once it has some.
HOOKS = "_diffusers_hook"
#: Where diffusers keeps the base class of its pipelines, in all versions.
_PIPELINES = "diffusers.pipelines.pipeline_utils"


def pipeline_class() -> type | None:
    """Return ``diffusers.DiffusionPipeline``, or None while nobody has imported it."""
    found = getattr(sys.modules.get(_PIPELINES), "DiffusionPipeline", None)
    return found if isinstance(found, type) else None


def is_pipeline(target: Any) -> bool:
    """Return whether an object is a pipeline of diffusers; imports nothing.

    There is no pipeline before somebody has imported its class.
    """
    kind = pipeline_class()
    return kind is not None and isinstance(target, kind)


def unlink(module: Any, stand_in: Any, method: Any) -> None:
    """Put a method in the place of its stand-in wherever a hook around it keeps what it goes around.

    accelerate keeps that on the module, diffusers in the references of the module's registry.
    """
    chain = getattr(vars(module).get(HOOKS), "_fn_refs", [])
    for known in (vars(module), *map(vars, chain)):
        for name, value in known.items():
            if value is stand_in:
                known[name] = method


def installed(library: str) -> str:
    """Return the version of a distribution, "" where it is not installed; imports nothing."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def load(module: str, need: str) -> Any:
    """Import a module of an optional library.

    Args:
        module: its name, such as ``diffusers.hooks``.
        need: what it is for, in the words of the error.

    Raises:
        OtcacheError: if it is missing or cannot be imported, with the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # a library that does not fit the torch beside it raises anything
        library = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == library
        reason = "is not installed" if missing else f"cannot be imported ({_first_line(error)})"
        raise OtcacheError(f"{need} needs {library}, which {reason}: {INSTALL}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
