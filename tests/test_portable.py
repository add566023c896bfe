"""What would keep the packages from running on Windows, read off their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(ROOT.glob("packages/*/src/**/*.py"))
#: Modules that only Unix has.
UNIX_MODULES = {"fcntl", "grp", "pwd", "pty", "resource", "syslog", "termios"}
#: Calls that only Unix has, or that fail there on an open or existing file (os.replace does not).
UNIX_CALLS = {
    "os.fork",
    "os.forkpty",
    "os.geteuid",
    "os.getuid",
    "os.killpg",
    "os.mkfifo",
    "os.rename",
    "os.setsid",
    "os.symlink",
    "os.uname",
    "signal.alarm",
    "signal.SIGALRM",
    "signal.SIGKILL",
}
#: Where text is read or written, the encoding must be named: Windows has another by default.
TEXT = {"read_text", "write_text"}


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _faults(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            yield from {name for name in (*names, module) if name in UNIX_MODULES}
        elif isinstance(node, ast.Attribute) and _name(node) in UNIX_CALLS:
            yield _name(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.startswith(("/tmp", "/dev/", "/proc/")) or node.value == "fork":
                yield repr(node.value)
        elif isinstance(node, ast.Call) and _without_encoding(node):
            yield f"{_name(node.func)}(...) without encoding="


def _without_encoding(call: ast.Call) -> bool:
    called = call.func.attr if isinstance(call.func, ast.Attribute) else _name(call.func)
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if called == "read_text" and call.args and isinstance(call.args[0], ast.Constant):
        return "." not in str(call.args[0].value)  # a file of a distribution's metadata
    if called in TEXT:
        return True
    modes = [a.value for a in (*call.args, *(k.value for k in call.keywords)) if _is_mode(a)]
    return _name(call.func) == "open" and not any("b" in mode for mode in modes)


def _is_mode(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value in (
        "r",
        "w",
        "a",
        "x",
        "rb",
        "wb",
        "ab",
        "xb",
    )


def test_the_packages_need_no_unix() -> None:
    assert len(SOURCES) > 100
    found = {
        str(path.relative_to(ROOT)): list(_faults(ast.parse(path.read_text(encoding="utf-8"))))
        for path in SOURCES
    }
    assert {path: faults for path, faults in found.items() if faults} == {}


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import fcntl", "fcntl"),
        ("from resource import getrusage", "resource"),
        ("os.rename(a, b)", "os.rename"),
        ("mp.get_context('fork')", "'fork'"),
        ("open('/tmp/x', 'wb')", "'/tmp/x'"),
        ("path.read_text()", "path.read_text(...) without encoding="),
        ("open(path, 'w')", "open(...) without encoding="),
    ],
)
def test_the_reader_sees_what_it_must(code: str, fault: str) -> None:
    assert list(_faults(ast.parse(code))) == [fault]


def test_the_reader_lets_portable_code_pass() -> None:
    code = "os.replace(a, b); open(p, 'rb'); p.write_text(x, encoding='utf-8'); open(p, encoding=e)"
    assert list(_faults(ast.parse(code))) == []
