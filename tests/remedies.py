"""Every piece of advice in the messages of the five packages, and the tests that follow it.

A piece of advice is a clause that begins with an imperative: after a colon, a semicolon, a full stop or
", or", or where a string begins. A test that follows it is marked ``@pytest.mark.remedy("...")`` with a
fragment of the message, long enough to be found in no other message; {} is where a value goes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERBS = (
    "accelerate|add|ask|await|build|cache|calibrate|call|cast|change|check|choose|close|"
    "compare|compile|compute|connect|convert|copy|create|cut|decode|delete|disable|divide|"
    "download|draw|drop|enable|encode|end|enter|evaluate|export|fill|fit|fix|follow|free|give|hand|"
    "implement|import|increase|install|keep|leave|let|list|load|look|lower|make|mark|measure|"
    "mount|move|name|open|pass|pick|pin|pip|plan|press|put|raise|read|rebuild|record|reduce|"
    "register|remove|rename|repeat|replace|report|request|rerun|resize|restart|return|run|"
    "save|say|see|seed|select|separate|set|shorten|show|skip|spell|split|start|stop|store|"
    "supply|swap|switch|take|train|try|turn|unload|unset|update|upgrade|use|wait|wrap|write"
)
CLAUSE = re.compile(
    rf"(?:^|[:;.] (?:either )?|, (?:or|then) )(?=(?:{VERBS}) (?!argument|of |must )|accelerate\()",
    re.I,
)
#: Arguments and calls whose strings are documentation rather than messages.
DOCUMENTS = {"help", "summary", "epilog", "description", "metavar", "usage", "title"}
DOCUMENTING = {"Info", "Argument", "Option"}

#: Nodes that may build a string, and nodes that may hold documentation.
TEXTS = (ast.Constant, ast.JoinedStr, ast.BinOp, ast.Call)
READ = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.keyword, ast.Call)


@dataclass(frozen=True, slots=True)
class Advice:
    """One clause of advice: where it stands, the whole message and the clause, with {} for values."""

    place: str
    message: str
    clause: str

    def follows(self, fragment: str) -> bool:
        """Return whether a marker's fragment covers this clause, or a good part of it."""
        begin, clause = self.message.find(fragment), self.message.find(self.clause)
        shared = min(begin + len(fragment), clause + len(self.clause)) - max(begin, clause)
        if begin >= 0:
            return shared >= min(8, len(self.clause))
        part = self.message.strip("{} .:;")  # of a message that is put together elsewhere
        return len(part) >= 12 and part in fragment


def _text(node: ast.AST) -> str | None:
    """Return the string an expression builds, with {} where values go; None if it builds none."""
    match node:
        case ast.Constant(value=str(text)):
            found = re.sub(r"\{[\w.!:,]*\}", "{}", text)
            return found.replace("{{", "{").replace("}}", "}")  # of a template
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) or "{}" for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            sides = _text(left), _text(right)
            return None if sides == (None, None) else "".join(side or "{}" for side in sides)
        case ast.Call(func=ast.Name(id="expected"), args=[what, _, wanted, *rest], keywords=more):
            advice = [*rest, *(keyword.value for keyword in more)]
            tail = f": {_text(advice[0]) or '{}'}" if advice else "."
            return f"{_text(what) or '{}'} must be {_text(wanted) or '{}'}, got {{}}{tail}"
    return None


def _documentation(node: ast.AST) -> list[ast.AST]:
    """Return the children of a node that are read as documentation, not as messages."""
    match node:
        case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return [node.body[0]] if node.body and isinstance(node.body[0], ast.Expr) else []
        case ast.keyword(arg=str(name), value=value) if name in DOCUMENTS:
            return [value]
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in DOCUMENTING:
            return [*node.args, *node.keywords]
    return []


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the expressions whose values go into a string, and those a string stands in for."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FormattedValue) or _text(child) is None:
            yield child
        else:
            yield from _inside(child)


def strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the strings below a node, each whole, documentation omitted."""
    text = _text(node) if isinstance(node, TEXTS) else None
    if text is not None:
        yield node.lineno, text  # type: ignore[attr-defined]
        children = list(_inside(node))
    else:
        omitted = _documentation(node) if isinstance(node, READ) else []
        children = [child for child in ast.iter_child_nodes(node) if child not in omitted]
    for child in children:
        yield from strings(child)


def clauses(text: str) -> list[str]:
    """Return the clauses of advice in a message, each up to the next one."""
    starts = [match.end() for match in CLAUSE.finditer(text)]
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=False)]


def all_strings() -> Iterator[tuple[str, str]]:
    """Yield (place, text) of the strings in the packages' sources, the conformance kits omitted."""
    for path in sorted(ROOT.glob("packages/*/src/**/*.py")):
        if "testing" in path.parts:
            continue
        for line, text in strings(ast.parse(path.read_text(encoding="utf-8"))):
            if " " in text:
                yield f"{path.relative_to(ROOT / 'packages').as_posix()}:{line}", text


def markers() -> Iterator[tuple[str, str]]:
    """Yield (file and line, fragment) of every ``pytest.mark.remedy`` in the tests."""
    for path in sorted([*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("packages/*/tests/**/*.py")]):
        source = path.read_text(encoding="utf-8")
        if "mark.remedy" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="remedy"), args=[ast.Constant(value=fragment)]
                ):
                    yield f"{path.relative_to(ROOT).as_posix()}:{node.lineno}", str(fragment)
