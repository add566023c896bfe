"""The command line: one clear error and exit status 2 for each misuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from toy import STEPS

import otcache
from otcache import cli
from otcache_core import PlaybackTable
from otcache_core.policy import Policy, Provenance

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; gives (status, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["otcache", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, " ".join(captured.err.split())

    return call


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    """Provide a policy of a model nobody has."""
    provenance = Provenance(num_steps=STEPS, model_class="Nobody", config_hash="0")
    anchor = otcache.Schedule(STEPS, (0, 5))
    reference = otcache.Schedule(STEPS, (0, 2, 5, 8))
    path = tmp_path / "p.otcache"
    Policy(anchor=anchor, reference=reference, provenance=provenance).save(path)
    return path


@pytest.mark.parametrize("budget", ["0", str(STEPS + 1), "ten"])
def test_bad_budgets(run: Run, policy_file: Path, budget: str) -> None:
    status, out, err = run("inspect", policy_file, "--budget", budget)
    assert status == 2
    assert out == ""
    assert "budget must be" in err
    assert budget in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "truncated"),
        (lambda text: text.replace('"version":3', '"version":99'), "version"),
        (lambda text: text.replace('"resolution":0', '"resolution":NaN'), "finite"),
        (lambda text: text.replace('"solver"', '"solved"'), "solved"),
        (lambda text: "", "p.otcache"),
    ],
)
def test_bad_policy_files(
    run: Run, policy_file: Path, damage: Callable[[str], str], message: str
) -> None:
    text = policy_file.read_text()
    damaged = damage("".join(text.split()))
    assert damaged != "".join(text.split())
    policy_file.write_text(damaged)
    status, _, err = run("inspect", policy_file)
    assert status == 2
    assert "p.otcache" in err
    assert message in err


def test_a_long_path_is_printed_unbroken(run: Run, policy_file: Path) -> None:
    """On one line however narrow the terminal, and with brackets as they are."""
    folder = policy_file.parent / "[red]" / ("deep" * 20)
    folder.mkdir(parents=True)
    _, _, err = run("inspect", folder / "none.otcache")
    assert str(folder / "none.otcache") in err


def test_the_path_of_a_written_file_is_printed_unbroken(run: Run, policy_file: Path) -> None:
    written = policy_file.parent / "[red]" / ("deep" * 20) / "s.json"
    written.parent.mkdir(parents=True)
    status, shown, err = run("convert", policy_file, "--budget", 3, "--out", written)
    assert status == 0, err
    assert f"written: {written}\n" in shown


def test_a_missing_file(run: Run, tmp_path: Path) -> None:
    status, _, err = run("inspect", tmp_path / "nothing.otcache")
    assert status == 2
    assert "nothing.otcache" in err


def test_inspect_draws_and_prints_json(run: Run, policy_file: Path) -> None:
    status, out, _ = run("inspect", policy_file)
    assert status == 0
    assert "█·····█" not in out
    assert "█····█······" in out
    status, out, _ = run("inspect", policy_file, "--json")
    assert [s["computed"] for s in json.loads(out)["schedules"]][1] == [0, 5]


def test_plugins_are_listed(run: Run) -> None:
    status, out, _ = run("plugins", "list", "--json")
    names = {(p["kind"], p["name"]) for p in json.loads(out)}
    assert status == 0
    assert {
        ("solvers", "lexicographic"),
        ("solvers", "anchor-search"),
        ("probes", "torch"),
        ("executors", "torch"),
        ("forecasters", "fitted"),
        ("metrics", "lpips"),
        ("demos", "image"),
        ("demos", "video"),
        ("writers", "mp4"),
    } <= names


def test_an_unknown_pipeline(run: Run, policy_file: Path) -> None:
    status, _, err = run("run", "nowhere", "--policy", policy_file, "--budget", 3, "--prompt", "a")
    assert status == 2
    assert "pipeline must be 'demo'" in err


def test_a_demo_that_is_not_installed(run: Run, policy_file: Path) -> None:
    words = ["--policy", policy_file, "--budget", 3, "--prompt", "a"]
    status, _, err = run("run", "demo:sound", *words)
    assert status == 2
    assert "demos has no 'sound': valid names are image, video" in err


def test_a_file_nobody_can_write_is_refused_first(run: Run, policy_file: Path) -> None:
    words = ["--policy", policy_file, "--budget", 3, "--prompt", "a", "--out", "video.avi"]
    status, _, err = run("run", "nowhere", *words)
    assert status == 2
    assert "--out must be a name that ends on .png or .mp4 or .webp, got 'video.avi'" in err


def test_an_empty_prompt_file(run: Run, tmp_path: Path) -> None:
    empty = tmp_path / "prompts.txt"
    empty.write_text("\n\n")
    status, _, err = run(
        "calibrate", "demo", "--steps", 30, "--out", tmp_path / "c", "--prompts", empty
    )
    assert status == 2
    assert "must hold 1 to" in err


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"image": "none.png"}', "line 2, image: the image 'none.png' cannot be read"),
        ('{"label": 3}', "arguments of prompts[1] must be those of prompts[0], prompt"),
        ('"a dog"', "call argument must be one that sample_fn takes, got 'scale'"),
    ],
)
def test_samples_of_json_lines(run: Run, tmp_path: Path, second: str, message: str) -> None:
    """The last pair is taken: then what goes with it is refused."""
    file = tmp_path / "samples.jsonl"
    file.write_text(f'{{"prompt": "a cat"}}\n{second}\n', encoding="utf-8")
    words = ["--steps", STEPS, "--out", tmp_path / "c", "--prompts", file, "--set", "scale=2"]
    status, _, err = run("calibrate", "toy:make_loop", *words)
    assert status == 2
    assert message in err


@pytest.mark.parametrize(
    "verb", ["demo", "calibrate", "plan", "run", "inspect", "estimate", "plugins"]
)
def test_every_verb_has_help(run: Run, verb: str) -> None:
    status, out, _ = run(verb, "--help")
    assert status == 0
    assert "Usage" in out


@pytest.fixture
def broken_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide an installed distribution whose plugin cannot be imported."""
    info = tmp_path / "otcache_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: otcache-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[otcache]\nbroken = module_nobody_wrote\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_doctor_finds_nothing(run: Run) -> None:
    status, out, _ = run("plugins", "doctor")
    assert status == 0
    assert "no problems" in out
    status, out, _ = run("plugins", "doctor", "--json")
    assert status == 0
    assert json.loads(out) == []


@pytest.mark.usefixtures("broken_plugin")
def test_doctor_names_a_broken_plugin(run: Run) -> None:
    status, out, err = run("plugins", "doctor")
    assert status == 1
    assert "otcache-broken" in out
    assert "module_nobody_wrote" in out
    assert err == ""
    status, out, _ = run("plugins", "doctor", "--json")
    assert status == 1
    (problem,) = json.loads(out)
    assert (problem["package"], problem["plugin"]) == ("otcache-broken", "broken")


@pytest.mark.usefixtures("broken_plugin")
def test_the_list_counts_what_was_omitted(run: Run) -> None:
    status, out, err = run("plugins", "list", "--json")
    assert status == 0
    assert json.loads(out)
    assert "1 omitted" in err
    assert "plugins doctor" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "fewer-steps-unipcc"], "did you mean fewer-steps-unipc"),
        (["--metrics", "lpipz"], "lpipz"),
        (["--metrics", "clip-score"], "path"),
        (["--budgets", "0,5"], "budget must be an integer between 1 and 30, got 0"),
        (["--budgets", "five"], "--budgets must be a whole number"),
        (["--samples", "0"], "samples must be an integer of at least 1"),
        (["--prompts", "nowhere.txt"], "nowhere.txt: cannot be read: No such file"),
        (["--policy", "nowhere.otcache"], "nowhere.otcache"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused_before_anything_runs(
    run: Run, tmp_path: Path, words: list[str], message: str
) -> None:
    status, _, err = run("compare", "demo", "--out", tmp_path / "new", *words)
    assert status == 2
    assert message in err
    assert not (tmp_path / "new").exists()


def test_a_folder_of_something_else_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    status, _, err = run("compare", "demo", "--out", tmp_path)
    assert status == 2
    assert "--force" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_a_report_needs_results(run: Run, tmp_path: Path) -> None:
    status, _, err = run("report", tmp_path)
    assert status == 2
    assert "results.json" in err


def test_a_pipeline_without_prompts_is_asked_for_some(run: Run, tmp_path: Path) -> None:
    status, _, err = run("compare", "somewhere:pipe", "--out", tmp_path / "new")
    assert status == 2
    assert "give --prompts FILE" in err


def test_convert_there_and_back(run: Run, tmp_path: Path) -> None:
    mask, back = tmp_path / "mask.json", tmp_path / "back.json"
    table = ("lemica-wan-2-1-t2v-1-3b", "--budget", "17", "--to", "mask", "--out", mask)
    status, out, _ = run("convert", *table, "--json")
    assert status == 0
    facts = json.loads(out)
    assert (facts["num_steps"], facts["budget"], facts["computed"][-3:]) == (50, 17, [39, 46, 49])
    assert run("convert", mask, "--out", back)[0] == 0
    assert list(otcache.load_schedule(back).computed) == facts["computed"]


def test_convert_a_table_without_a_budget(run: Run, tmp_path: Path) -> None:
    status, out, err = run("convert", "lemica-flux-1-dev", "--out", tmp_path / "x.json")
    assert (status, out) == (2, "")
    assert "budget must be given, of 10, 15, 20, 26" in err


def test_convert_a_policy_to_playback(run: Run, policy_file: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    words = ("convert", policy_file, "--budget", 4, "--to", "playback", "--out", table)
    status, out, err = run(*words, "--json")
    assert status == 0, err
    assert json.loads(out)["computed"] == [0, 2, 5, 8]
    assert PlaybackTable.load(table) == Policy.load(policy_file).export(4)
    grid = ",".join(str(1 - i / 20) for i in range(21))
    status, out, _ = run(*words, "--steps", 20, "--grid", grid)
    assert status == 0
    assert "num_steps: 20" in out
    assert PlaybackTable.load(table).grid[:2] == (1.0, 0.95)


def test_convert_a_schedule_to_playback(run: Run, tmp_path: Path) -> None:
    source, table = tmp_path / "schedule.json", tmp_path / "table.json"
    schedule = otcache.Schedule(6, (0, 1, 4), "linear", branches=(("uncond", (0, 4)),))
    schedule.save(source)
    status, out, err = run("convert", source, "--to", "playback", "--out", table, "--json")
    assert status == 0, err
    assert json.loads(out)["branches"] == {"uncond": [0, 4]}
    made = PlaybackTable.load(table)
    assert (made.budget, made.provenance, made.prediction) == (3, "", "")
    assert made.plan("cond").forecasts[2] == ((1, 2.0), (0, -1.0))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--to", "yaml"), "--to must be one of schedule, indices, mask, playback, got 'yaml'"),
        (("--to", "mask", "--grid", "1,0"), "--grid is taken by --to playback only"),
        (("--to", "playback", "--grid", "1,x"), "--grid must be numbers, separated by commas"),
        (("--to", "playback", "--grid", "1,nan"), "--grid must be finite"),
        (("--to", "playback", "--steps", "9", "--grid", "1,0"), "grid"),
        (("--to", "playback", "--budget", "x"), "--budget must be a whole number"),
    ],
)
def test_what_convert_refuses(
    run: Run, policy_file: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    out = tmp_path / "x.json"
    status, _, err = run("convert", policy_file, "--budget", 4, "--out", out, *words)
    assert status == 2
    assert message in err
    assert not out.exists()


def test_convert_to_playback_needs_a_budget(run: Run, policy_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    status, _, err = run("convert", policy_file, "--to", "playback", "--out", out)
    assert status == 2
    assert f"budget must be given, of 1 .. {STEPS}" in err
