"""Read a command line, run its verb, and end with one line and an exit status, also after an error."""

from __future__ import annotations

import contextlib
import difflib
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from itertools import pairwise
from typing import Annotated, Any, Literal

import typer

from otcache.cli.compare import compare, demo, report
from otcache.cli.generate import generate
from otcache.cli.inspect import convert, estimate, inspect
from otcache.cli.measure import calibrate, plan, run
from otcache.cli.output import ending, json_alone, say, show_line
from otcache.cli.plugins import plugins
from otcache.console import UnwritableError, console_on, readable_stream
from otcache_core import OtcacheError
from otcache_core.errors import OtcacheNotice, expected, shown

#: Exit statuses besides 0: of an error of otcache or the system, of a misuse, of Ctrl-C, and of a closed
#: pipe, the last two as a shell reports the signals.
FAILED, MISUSED, INTERRUPTED, UNREAD = 1, 2, 130, 141
#: Columns below which help is written without boxes.
NARROW = 60
#: Distributions whose versions matter, ours first.
VERSIONS = (
    *("otcache", "otcache-core", "otcache-solvers", "otcache-diffusers", "otcache-video"),
    "otcache-ray",
    *("torch", "diffusers", "transformers", "numpy"),
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure a diffusion pipeline once, plan its cache schedule for any budget, run it without a trace.",
)
for verb in (demo, calibrate, plan, run, generate, compare, report, inspect, estimate, convert):
    app.command()(verb)
app.add_typer(plugins, name="plugins")
for command in (*app.registered_commands, *plugins.registered_commands):
    if command.callback is not None:
        command.callback = json_alone(command.callback)


def _version(show: bool) -> None:
    if not show:
        return
    for name in VERSIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            show_line(f"{name} {metadata.version(name)}")
    show_line(f"python {platform.python_version()}")
    raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the versions installed.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Take options before the verb."""


def main() -> None:
    """Run the command line of this process and exit.

    A misuse prints one line and exits with status 2; tracebacks are shown only with --debug.
    """
    words = [word for word in sys.argv[1:] if word != "--debug"]
    debug = len(words) < len(sys.argv) - 1
    with _any_text(), _short_warnings(debug):
        try:
            status = _closed() or _run(words, debug)
        except UnwritableError as error:
            status = _unwritten(error)
    sys.exit(status)


def _closed() -> int:
    """Refuse to work without standard output: what is printed would go into the first file that is opened."""
    if not sys.stdout.closed:
        return 0
    say("standard output is closed: redirect it to a file, or to /dev/null.", "red")
    return FAILED


def _run(words: list[str], debug: bool) -> int:
    boxes: Literal["rich"] | None = "rich" if console_on(sys.stdout).width >= NARROW else None
    app.rich_markup_mode = plugins.rich_markup_mode = boxes  # in a narrow one help is cut off
    try:
        with ending():
            status = app(args=words, prog_name="otcache", standalone_mode=False)
        sys.stdout.flush()
    except OtcacheError as error:
        if debug:
            raise
        say(str(error), "red")
        return MISUSED
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except UnwritableError:
        raise
    except SystemExit as error:
        if debug:
            raise
        say(f"{_module_of(error)} ended the program: {shown(error)} (--debug shows where)", "red")
        return FAILED
    except Exception as error:
        if hasattr(error, "format_message"):  # of typer, whose classes move between versions
            return _misused(error, words)
        if debug:
            raise
        say(f"{type(error).__name__}: {error} (--debug shows where)", "red")
        return FAILED
    if status == INTERRUPTED:
        say("interrupted; the same command resumes if it writes to a folder.", "yellow")
    return status if isinstance(status, int) else 0


def _module_of(error: BaseException) -> str:
    """Return the name of the module that raised an error."""
    module, trace = "something", error.__traceback__
    while trace is not None:
        module, trace = str(trace.tb_frame.f_globals.get("__name__", module)), trace.tb_next
    return module


def _misused(error: Any, words: list[str]) -> int:
    """Print what is wrong with the command line, in one line."""
    message = _unknown(error) or _own_words(error, words) or str(error.format_message()).strip()
    if message and not type(error).__name__.startswith("NoArgs"):
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "otcache"
        line = " ".join(message.split()).rstrip(".")
        say(f"{line}{'' if line.endswith('?') else '.'} See {path} --help.", "red")
    elif message:
        show_line(message)
    return MISUSED


def _unknown(error: Any) -> str:
    """Return which command does not exist, and the nearest ones or all; "" for another error."""
    unknown = re.match(
        r"No such command '(.*?)'\.?( Did you mean .*)?$", error.format_message(), re.S
    )
    known = getattr(getattr(getattr(error, "ctx", None), "command", None), "commands", None)
    if not (unknown and known):
        return ""
    near = difflib.get_close_matches(unknown[1], known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}."
    return f"no command is called '{unknown[1]}': {hint}"


def _own_words(error: Any, words: list[str]) -> str:
    """Return what is wrong with the value of an option, with the value; "" for another error."""
    option = next(iter(getattr(getattr(error, "param", None), "opts", ())), "")
    values = [word for before, word in pairwise(words) if before == option]
    values += [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    message = error.format_message()
    kinds = {"integer": "a whole number", "number": "a number", "float": "a number"}
    kind = next((kinds[word] for word in kinds if word in message), "")
    if not (option.startswith("-") and values and kind):
        return ""
    return expected(option, values[-1], kind)


def _unwritten(error: UnwritableError) -> int:
    """End after standard output cannot be written; the interpreter would try again at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    if error.reader_left:
        return UNREAD
    say(f"standard output cannot be written: {error}.", "red")
    return FAILED


@contextlib.contextmanager
def _any_text() -> Iterator[None]:
    """Let standard output and error take every character, in any encoding of the console."""
    out, err = readable_stream(sys.stdout), readable_stream(sys.stderr, silent=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


@contextlib.contextmanager
def _short_warnings(debug: bool) -> Iterator[None]:
    """Show notices in a line each, and hide deprecation warnings of libraries."""
    with warnings.catch_warnings():
        if not debug:
            for hidden in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", hidden)
            warnings.showwarning = _notice
        yield


def _notice(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    if issubclass(category, OtcacheNotice):
        say(str(message), "yellow")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *where[:2]))
