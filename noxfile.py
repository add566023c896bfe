"""Every check and the demo, each in an environment of its own: ``nox -l`` lists them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["check", "tests"]

CORE, SOLVERS, DIFFUSERS, VIDEO, FACADE, RAY = (
    f"packages/otcache{name}" for name in ("-core", "-solvers", "-diffusers", "-video", "", "-ray")
)
#: What ``otcache-diffusers[pipelines]`` allows: the oldest, one that servers pin, and the newest.
DIFFUSERS_VERSIONS = ("0.37.0", "0.40.0", "0.42.1")
RESULTS = Path("build/families")
#: What a benchmark needs beside otcache.
BESIDE = {"generation": (RAY,), "serving": (RAY, "uvicorn", "prometheus_client")}
#: What else of the executor runs on the older ones; on the newest the session ``tests`` runs it.
EXECUTOR = ("executor_conformance", "samplers", "auxiliary", "block_families", "ways_*")
PIPELINES = f"{DIFFUSERS}[pipelines]"
EVERYTHING = (CORE, SOLVERS, DIFFUSERS, VIDEO, FACADE)
ALONE = {
    "core": (CORE,),
    "solvers": (CORE, SOLVERS),
    "diffusers": (CORE, PIPELINES),
    "video": (CORE, PIPELINES, VIDEO),
    "otcache": (CORE, FACADE),
}


GROUPS = nox.project.load_toml("pyproject.toml")


def _group(*names: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(GROUPS, *names)


def _install(session: nox.Session, packages: tuple[str, ...], *others: str) -> None:
    session.install("-c", "constraints.txt", *packages, *others)


def _environment(session: nox.Session) -> None:
    session.env.update(HF_HUB_OFFLINE="1", MPLBACKEND="Agg", TOKENIZERS_PARALLELISM="false")


@nox.session
def demo(session: nox.Session) -> None:
    """Install otcache[diffusers] and run ``otcache demo``; arguments go to it."""
    _install(session, (CORE, SOLVERS, PIPELINES, FACADE))
    _environment(session)
    session.run("otcache", "demo", *session.posargs)


@nox.session(name="demo-video")
def demo_video(session: nox.Session) -> None:
    """Install otcache[video] and run ``otcache demo --video``; arguments go to it."""
    _install(session, EVERYTHING)
    _environment(session)
    session.run("otcache", "demo", "--video", *session.posargs)


@nox.session(reuse_venv=False)
def wheels(session: nox.Session) -> None:
    """From the six wheels alone: docs/plugins.md's first plugin, then otcache[video] and the quick demos.

    Then a solver of one's own, examples/halving_solver: a policy, a run and a row of a comparison.
    Arguments go to the video demo.
    """
    own = Path("examples/halving_solver").resolve()
    folder = _wheels(session, *EVERYTHING, RAY)
    session.run("python", "tools/check_wheels.py", str(folder))
    session.run("python", "tools/follow_plugins_doc.py", "The first one")
    session.run("python", "-m", "pip", "uninstall", "-q", "-y", "otcache-my-solver")
    session.install("otcache[video]")
    session.chdir(folder.parent)
    session.run("otcache", "plugins", "list")
    session.run("otcache", "plugins", "doctor")
    lean = "from importlib.util import find_spec; assert find_spec('torchvision') is None"
    session.run("python", "-c", lean)
    session.run("otcache", "demo", "--quick", "--out", "image-demo")
    assert (folder.parent / "image-demo" / "report.html").stat().st_size
    session.run("otcache", "demo", "--video", *(session.posargs or ("--quick",)))
    session.install("--no-deps", str(own))
    _own_solver(session)


def _wheels(session: nox.Session, *packages: str) -> Path:
    """Build wheels, and have pip install otcache from them and all else by constraints.txt."""
    folder = Path(session.create_tmp()).resolve() / "wheels"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), *packages)
    ours = (f"{w.name.partition('-')[0]} @ {w.as_uri()}" for w in folder.glob("*.whl"))
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join([Path("constraints.txt").read_text(), *ours, ""]))
    _environment(session)
    session.env["PIP_CONSTRAINT"] = str(constraints)
    # Beside what is set already, which may say what build of torch to take.
    session.env["PIP_FIND_LINKS"] = f"{folder} {os.environ.get('PIP_FIND_LINKS', '')}".strip()
    return folder


def _own_solver(session: nox.Session) -> None:
    """Run README's three commands on a small calibration."""
    Path("two.txt").write_text("a large red circle\nthe digit 7\n", encoding="utf-8")
    for made in ("own-calibration", "own-comparison"):
        shutil.rmtree(made, ignore_errors=True)
    few = ("--steps", "12")
    session.run(
        *("otcache", "calibrate", "demo", *few, "--prompts", "two.txt", "--seeds", "0,1"),
        *("--out", "own-calibration"),
    )
    session.run(*("otcache", "plan", "own-calibration", "--solver", "halving", "--out", "own.json"))
    session.run(
        *("otcache", "run", "demo", "--prompt", "the digit 7", "--policy", "own.json"),
        *("--budget", "4", "--out", "own.png"),
    )
    session.run(
        *("otcache", "compare", "demo", *few, "--budgets", "4", "--samples", "2"),
        *("--methods", "uniform,solver:halving", "--calibration-prompts", "two.txt"),
        *("--reference-steps", "0", "--out", "own-comparison"),
    )


@nox.session
def compare(session: nox.Session) -> None:
    """Run ``otcache compare demo`` with every method, cache-dit's among them; arguments go to it."""
    _install(session, (CORE, SOLVERS, PIPELINES, FACADE), *_group("baselines"))
    _environment(session)
    session.run("otcache", "compare", "demo", *(session.posargs or ("--out", "comparison")))


@nox.session
def bench(session: nox.Session) -> None:
    """Run a benchmark by name, as in ``nox -s bench -- quality OUT``; without one, list them."""
    names = sorted(path.stem for path in Path("benchmarks").glob("*.py"))
    name, *rest = session.posargs or ("",)
    if name not in names:
        session.error(f"name a benchmark: {', '.join(names)}")
    _install(session, EVERYTHING, *BESIDE.get(name, ()))
    _environment(session)
    session.run("python", f"benchmarks/{name}.py", *rest)


@nox.session
def ray(session: nox.Session) -> None:
    """Test otcache-ray, on a cluster of two cores on this machine; arguments go to pytest."""
    _install(session, (*EVERYTHING, RAY), *_group("unit"))
    _environment(session)
    session.env.update(OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")
    session.chdir(RAY)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Damage 20,000 files, within bounds of memory and CPU seconds; arguments: number, seed, loader."""
    _install(session, EVERYTHING)
    _environment(session)
    session.run("python", "benchmarks/fuzz_files.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The whole test suite, a file at a time in each of two processes; arguments go to pytest."""
    _install(session, EVERYTHING, *_group("tests"))
    session.install("--no-deps", RAY)  # its own tests are in the session ray
    _environment(session)
    session.env["OMP_NUM_THREADS"] = "1"
    # A process that dies ends the session: xdist hangs when it has to start another one.
    processes = ("-n2", "--max-worker-restart=0", "--dist=loadfile", "--no-loadscope-reorder")
    session.run("python", "-m", "pytest", *processes, *session.posargs)


@nox.session
@nox.parametrize("diffusers", DIFFUSERS_VERSIONS)
def families(session: nox.Session, diffusers: str) -> None:
    """Every family of pipelines on one version of diffusers; then the tables in docs/coverage.md.

    On older versions also the executor's other conformance tests, the samplers, auxiliary networks,
    levels, ways to run.
    """
    constraints = Path(session.create_tmp()) / "constraints.txt"
    pinned = Path("constraints.txt").read_text().splitlines()
    kept = [line for line in pinned if not line.startswith("diffusers==")]
    constraints.write_text("\n".join([*kept, f"diffusers=={diffusers}"]) + "\n")
    needed = _group("unit", "pipelines")
    session.install("-c", str(constraints), CORE, PIPELINES, VIDEO, *needed)
    _environment(session)
    folder = Path(DIFFUSERS, "tests")
    modules = {
        "images": folder / "test_families.py",
        "video": Path(VIDEO, "tests", "test_video_families.py"),
    }
    for name, module in modules.items():
        result = ("-o", "junit_family=xunit1", f"--junitxml={RESULTS}/{name}-{diffusers}.xml")
        # What failed stands in the table, and the session that writes it fails.
        session.run("python", "-m", "pytest", str(module), *result, success_codes=[0, 1])
    session.notify("coverage")
    if diffusers != DIFFUSERS_VERSIONS[-1]:
        others = sorted(str(path) for name in EXECUTOR for path in folder.glob(f"test_{name}.py"))
        others.append(str(Path(VIDEO, "tests", "test_two_experts.py")))
        session.run("python", "-m", "pytest", *others)


@nox.session(venv_backend="none")
def coverage(session: nox.Session) -> None:
    """Write docs/coverage.md from the results of ``families``; fails where one of its tests did."""
    session.run("python3", "tools/coverage.py", *sorted(map(str, RESULTS.glob("*.xml"))))


@nox.session
def foreign(session: nox.Session) -> None:
    """Other libraries' samplers through calibrate, plan and accelerate; writes docs/foreign.md.

    Fails where a cell is worse than uniform reuse. Not in CI: 3 GB to install, half an hour to run.
    """
    folder = Path("benchmarks", "foreign")
    _install(session, EVERYTHING, *_group("unit", "pipelines"), "-r", str(folder / "needs.txt"))
    session.install("--no-deps", "-r", str(folder / "libraries.txt"))
    _environment(session)
    session.env["OMP_NUM_THREADS"] = "1"
    shutil.rmtree("build/foreign", ignore_errors=True)
    options = ("-p", "no:cacheprovider", "-o", "pythonpath=benchmarks", *session.posargs)
    # What failed stands on the page, and the program that writes it fails.
    session.run("python", "-m", "pytest", str(folder), *options, success_codes=[0, 1])
    results = sorted(map(str, Path("build/foreign").glob("*.json")))
    session.run("python", "tools/foreign.py", *results)


@nox.session
def engines(session: nox.Session) -> None:
    """One playback table in numpy, ONNX Runtime and a browser; writes docs/playback-engines.md.

    Needs npm and Chromium; fails if an engine takes other steps than torch, or gets other latents. Not in CI.
    """
    _install(session, (CORE, SOLVERS, PIPELINES, FACADE), *_group("engines"), "playwright")
    _environment(session)
    session.env["OMP_NUM_THREADS"] = "1"
    folder, page = "build/engines", "examples/browser"
    session.run("npm", "ci", "--ignore-scripts", "--prefix", page, external=True)
    session.run("python", "examples/playback_export.py", folder, *session.posargs)
    session.run("python", "examples/playback_onnx.py", folder)
    session.run("python", f"{page}/run.py", folder)
    session.run("python", "tools/playback_engines.py", folder)


@nox.session
@nox.parametrize("engine", ["onnxruntime", "openvino"])
def optimum(session: nox.Session, engine: str) -> None:
    """Pipelines of optimum, exported here, calibrated and accelerated on an engine; then docs/engines.md.

    Not in CI: 2 GB to install for each engine, half an hour to run. Without torchvision.
    """
    folder = Path("benchmarks", "engines")
    constraints = Path(session.create_tmp()) / "constraints.txt"
    own = (folder / f"{engine}.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower(): line for line in own if not line.startswith("#")}
    kept = Path("constraints.txt").read_text().splitlines()
    kept = [line for line in kept if line.partition("==")[0].lower() not in pinned]
    constraints.write_text("\n".join([*kept, *pinned.values()]) + "\n")
    session.install("-c", str(constraints), CORE, SOLVERS, PIPELINES, FACADE, *pinned.values())
    if engine == "openvino":
        session.install("--no-deps", "optimum-intel==2.2.0")
    _environment(session)
    session.env.update(OMP_NUM_THREADS="1", PYTHONPATH="benchmarks")
    session.run("python", "-m", "engines.measure", engine, "build/optimum", *session.posargs)
    session.notify("optimum_page")


@nox.session(venv_backend="none")
def optimum_page(session: nox.Session) -> None:
    """Write docs/engines.md from the results of ``optimum``; fails where one of them is wrong."""
    session.run(
        "python3", "tools/engines.py", *map(str, sorted(Path("build/optimum").glob("*.json")))
    )


@nox.session
def check(session: nox.Session) -> None:
    """Lint, types and import contracts."""
    _install(session, EVERYTHING, *_group("check"))
    session.install("--no-deps", RAY)  # nothing is imported here
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy", *(f"{package}/src" for package in (*EVERYTHING, RAY)))
    # As their users would: what is installed, and none of our settings.
    session.env["MYPYPATH"] = "examples/halving_solver/src:examples/all_kinds/src"
    session.run("mypy", "--strict", "--config-file=", "examples")
    session.run("lint-imports")


@nox.session
def new_plugins(session: nox.Session) -> None:
    """Write a package of each kind by ``otcache plugins new``, and do what it says; lint and types too."""
    _install(session, (CORE, FACADE), *_group("check"))
    _environment(session)
    folder = Path(session.create_tmp()).resolve() / "packages"
    shutil.rmtree(folder, ignore_errors=True)
    kinds = ("solver", "cost-model", "forecaster", "metric", "baseline", "probe", "executor")
    for kind in kinds:
        name, place = f"first-{kind}", folder / kind
        session.run("otcache", "plugins", "new", name, "--kind", kind, "--out", str(place))
        session.install("-e", f"{place}[test]")
        session.run("python", "-m", "pytest", "-q", str(place))
        session.run("otcache", "plugins", "check", name, "--kind", kind)
        session.run("ruff", "check", str(place))
        session.run("ruff", "format", "--check", str(place))
        types = ("mypy", "--strict", "--config-file=")
        session.run(*types, str(place / "src"), str(place / "tests"))
    session.run("otcache", "plugins", "doctor")


@nox.session
def hostile(session: nox.Session) -> None:
    """Every verb beside nineteen packages that do harm, installed at once: tools/beside_hostile.py."""
    _install(session, (CORE, SOLVERS, PIPELINES, FACADE))
    _environment(session)
    session.run("python", "tools/beside_hostile.py", "build/hostile")


@nox.session(reuse_venv=False)
def plugins_doc(session: nox.Session) -> None:
    """Follow docs/plugins.md as it stands in an empty environment: a first plugin, and one of every kind."""
    _wheels(session, CORE, SOLVERS, DIFFUSERS, FACADE)
    session.run("python", "tools/follow_plugins_doc.py", "The first one", "Use it")


@nox.session
@nox.parametrize("package", list(ALONE))
def alone(session: nox.Session, package: str) -> None:
    """One package's tests with only its declared dependencies installed; arguments go to pytest."""
    _install(session, ALONE[package], *_group("unit"))
    _environment(session)
    if package == "core":
        session.run("python", "examples/playback_numpy.py")
    session.chdir(ALONE[package][-1].partition("[")[0])
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def loops(session: nox.Session) -> None:
    """Calibrate, plan and run loops and bare modules beside torch alone, without diffusers."""
    _install(session, (CORE, SOLVERS, DIFFUSERS, FACADE), *_group("unit"))
    session.run("python", "-m", "pip", "uninstall", "-q", "-y", "pillow")  # came with matplotlib
    _environment(session)
    absent = ("diffusers", "transformers", "PIL", "skimage", "accelerate")
    lean = f"from importlib.util import find_spec; assert not any(map(find_spec, {absent}))"
    session.run("python", "-c", lean)
    session.run("otcache", "plugins", "doctor")
    session.run("python", "examples/own_loop.py")
    session.run(
        "python", "-m", "pytest", "tests/test_without_diffusers.py", "tests/test_bare_modules.py"
    )
