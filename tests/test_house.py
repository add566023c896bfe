"""The house rules that no single package can check."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
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
    assert len(PACKAGES) == 5
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
