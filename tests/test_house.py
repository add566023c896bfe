"""The house rules that no single package can check."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import otcache
import otcache_core

ROOT = Path(__file__).parents[1]
PACKAGES = sorted((ROOT / "packages").iterdir())
#: Whoever opens a file of these runs the code in it.
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HEAVY = ("torch", "diffusers", "ot", "cvxpy", "networkx", "scipy", "optuna", "matplotlib")


def _project(package: Path) -> dict[str, object]:
    project: dict[str, object] = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    return project


def test_versions_are_equal() -> None:
    assert len(PACKAGES) == 6
    assert len({_project(package)["version"] for package in PACKAGES}) == 1


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_metadata_is_complete(package: Path) -> None:
    fields = "authors classifiers description keywords license readme requires-python"
    assert set(fields.split()) <= set(_project(package))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_the_readme_of_a_package_renders_alone(package: Path) -> None:
    text = (package / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {package.name}\n\n")
    assert "\n|---|" in text
    assert "](" not in text  # what is linked is not beside it on an index


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_every_package_is_typed(package: Path) -> None:
    module = package.name.replace("-", "_")
    assert (package / "src" / module / "py.typed").exists()


@pytest.mark.parametrize(
    "statement",
    ["import otcache", "from otcache_core.plugins import Registry; Registry().infos('solvers')"],
)
def test_import_is_light(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_import_alone_loads_no_library() -> None:
    code = "import sys, otcache; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "msgspec", "pluggy", "rich"} & set(done.stdout.split())


@pytest.mark.parametrize("package", [otcache, otcache_core])
def test_public_names_are_what_type_checkers_read(package: ModuleType) -> None:
    assert package.__file__ is not None
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    (block,) = [block for block in blocks if isinstance(block.test, ast.Name)]  # TYPE_CHECKING
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    read = {alias.name: node.module for node in imports for alias in node.names}
    assert {*read, "__version__"} == set(package.__all__) <= set(dir(package))
    for name, module in read.items():
        assert getattr(package, name) is getattr(importlib.import_module(module or ""), name)
    with pytest.raises(AttributeError, match="has no attribute 'misspelt'"):
        package.misspelt  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_every_package_ships_the_licence(package: Path) -> None:
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("name", ["otcache-diffusers", "otcache-video"])
def test_packages_with_others_work_ship_the_notice(name: str) -> None:
    notice = ROOT / "packages" / name / "NOTICE"
    assert notice.read_bytes() == (ROOT / "NOTICE").read_bytes()


def test_no_source_opens_a_pickle() -> None:
    for path in ROOT.glob("packages/*/src/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not UNSAFE & {alias.name.partition(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in UNSAFE, path
            elif isinstance(node, ast.Attribute):
                loads = isinstance(node.value, ast.Name) and node.value.id == "torch"
                assert not (loads and node.attr == "load"), path
            elif isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", path


def _modules() -> Iterator[ModuleType]:
    """Import every module of the packages; Ray's where there is Ray."""
    for package in PACKAGES:
        if package.name == "otcache-ray" and importlib.util.find_spec("ray") is None:
            continue
        root = importlib.import_module(package.name.replace("-", "_"))
        for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def _undocumented(owner: type) -> list[str]:
    """Return the public methods without a docstring of their own or of what they override."""
    names = []
    for name, value in vars(owner).items():
        method = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        field = name in getattr(owner, "__dataclass_fields__", ())
        if field or name.startswith(("_", "test_")) or not inspect.isfunction(method):
            continue
        bases = (getattr(base, name, None) for base in owner.__mro__[1:])
        documented = method.__doc__ or any(getattr(base, "__doc__", None) for base in bases)
        if method.__module__ == owner.__module__ and not documented:
            names.append(f"{owner.__module__}.{owner.__name__}.{name}")
    return names


def test_public_methods_are_documented_where_they_are_introduced() -> None:
    """Hold what ruff's D102 cannot: what overrides a documented method needs no second docstring."""
    found = []
    for module in _modules():
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == module.__name__:
                found += [] if value.__name__.startswith("_") else _undocumented(value)
    assert found == []


#: Small by their nature: where a program starts, what a plugin entry names, the errors.
SMALL = {"__init__.py", "__main__.py", "errors.py", "plugin.py", "builtin.py"}
LEAST = 50


def _lines_of_code(text: str) -> int:
    """Count lines that are neither blank, nor a comment, nor of a docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            skipped |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = (line.strip() for line in text.splitlines())
    return sum(
        bool(line) and not line.startswith("#") and number not in skipped
        for number, line in enumerate(lines, 1)
    )


def test_no_file_is_a_fragment() -> None:
    """A concept and its helpers are one file; only a plugin's own target may be small."""
    registered = "".join(path.read_text() for path in ROOT.glob("packages/*/src/*/plugin.py"))
    registered += (ROOT / "packages/otcache-core/src/otcache_core/plugins/builtin.py").read_text()
    small = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("packages/*/src/**/*.py")
        if path.name not in SMALL
        and _lines_of_code(path.read_text(encoding="utf-8")) < LEAST
        and not re.search(rf"\b{path.stem}:", registered)
    ]
    assert small == []
