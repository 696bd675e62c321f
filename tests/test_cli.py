"""The command line as its users meet it: in this process where that says the same, in one of its own where it does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import typer

from smope_bench import run_all
from smope_bench.harness.conformance import check as conformance
from smope_bench.harness.conformance.runner import CheckResult
from smope_bench.harness.execution import lease as claims
from smope_bench.harness.records.store import Store
from smope_bench.reports import cli as report_commands
from tests.forked import Forked  # pyright: ignore[reportMissingImports]

ROOT = Path(run_all.__file__).resolve().parent
Sweep = subprocess.Popen[bytes] | Forked
HEAVY = {"torch", "timm", "pandas", "avalanche", "numpy", "matplotlib", "sklearn", "scipy", "torchvision"}
QUICK = ["--methods", "ncm", "--seeds", "0", "--workers", "1", "--device", "cpu"]

# What users may rely on. Add to it; never take away or rename.
SURFACE = {
    "list": {"--json"},
    "plan": {"--json", "--tiny", "--methods", "--benchmarks", "--seeds", "--set", "--precision", "--results", "--data"}
    | {"--plugin", "--tflops"},
    "run": {"--tiny", "--methods", "--benchmarks", "--seeds", "--set", "--workers", "--device", "--precision"}
    | {"--results", "--data", "--plugin"},
    "report": {"--results", "--out", "--against", "--mixed"},
    "migrate": {"--results"},
    "check": set(),
    "new-method": {"--out"},
    "cost": {"--json", "--methods", "--out", "--plugin"},
    "bench": set(),
    "tune": {"--backbone", "--tiny", "--trials", "--seeds", "--holdout", "--set", "--grid", "--sampler", "--precision"}
    | {"--plugin", "--workers", "--threads", "--device", "--results", "--data", "--json"},
    "data": set(),
}
CHOICES = [
    (["list", "?"], "'methods', 'benchmarks', 'backbones', 'suites'"),
    (["run", "smoke", "--device", "?"], "'auto', 'cpu', 'cuda'"),
    (["run", "smoke", "--precision", "?"], "'fp32', 'tf32', 'bf16'"),
]

PLUGIN = """
    import time
    from smope_bench.methods.common.api import Method, MethodCard

    class Fails(Method):
        name = "fails"
        card = MethodCard(title="Fails", summary="raises")

        def fit_task(self, data):
            raise RuntimeError("as it should")

    class Sleeps(Fails):
        name = "sleeps"
        card = MethodCard(title="Sleeps", summary="waits")

        def fit_task(self, data):
            time.sleep(60)
"""


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test starts in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(PLUGIN), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(results, data) of one finished run of the suite 'smoke'."""
    results, data = tmp_path_factory.mktemp("store") / "results", tmp_path_factory.mktemp("images") / "data"
    assert run_all.main(["run", "smoke", *QUICK, "--results", str(results), "--data", str(data)]) == 0
    return results, data


def folders(finished: tuple[Path, Path]) -> list[str]:
    return ["--results", str(finished[0]), "--data", str(finished[1])]


def in_own_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


MAIN_THEN_HEAVY = f"""
    import sys
    from smope_bench import run_all
    status = run_all.main(sys.argv[1:])
    print("HEAVY", sorted({HEAVY!r} & set(sys.modules)), status)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list", "suites"]])
def test_help_and_suites_import_nothing_heavy(arguments: list[str]) -> None:
    done = in_own_process(MAIN_THEN_HEAVY, *arguments)
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0", done.stderr


def test_a_mistyped_suite_is_answered_without_importing_anything_heavy() -> None:
    done = in_own_process(MAIN_THEN_HEAVY, "run", "smok")
    assert done.stdout.splitlines()[-1] == "HEAVY [] 2"
    assert done.stderr.startswith("error: unknown suite 'smok'; did you mean 'smoke'?")


def test_the_surface_only_grows() -> None:
    group = typer.main.get_command(run_all.make_app(run_all.default))
    commands = group.commands  # type: ignore[attr-defined]
    for name, options in SURFACE.items():
        found = {flag for parameter in commands[name].params for flag in parameter.opts}
        assert options <= found, f"{name} lost {options - found}"


@pytest.mark.parametrize(("arguments", "choices"), CHOICES)
def test_choices_only_grow(arguments: list[str], choices: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(arguments) == 2
    assert f"is not one of {choices}" in capsys.readouterr().err


def test_no_command_runs_and_reports_the_smoke_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(run_all, "_launch", lambda suites, *_: calls.append(suites) or 0)
    monkeypatch.setattr(report_commands, "write", lambda suites, results, out, **_: calls.append((suites, out)))
    assert run_all.main([]) == 0
    assert calls == [["smoke"], (["smoke"], Path("report"))]


def test_a_run_leaves_a_record_and_a_table(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert [record.result["spec"]["method"]["name"] for record in Store(finished[0]).scan()] == ["ncm"]  # type: ignore[union-attr]
    assert run_all.main(["run", "smoke", *QUICK, *folders(finished)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 of 1 runs are already done; nothing trained.")
    assert "Nearest class mean" in out and "report smoke --results" in out


def test_the_next_call_removes_what_a_killed_one_left_of_a_finished_run(finished: tuple[Path, Path]) -> None:
    folder = next(finished[0].glob("*/result.json")).parent
    whole = {file.name for file in folder.iterdir()}
    (folder / "checkpoint").mkdir()
    (folder / "claim.1").write_text(claims._content("d" * 32, 0, claims.FREE).decode())
    assert run_all.main(["run", "smoke", *QUICK, *folders(finished)]) == 0
    assert {file.name for file in folder.iterdir()} == whole


def test_the_plan_knows_what_is_done(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "smoke", "--methods", "ncm", "--seeds", "0,1:2", *folders(finished)]
    assert run_all.main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["state"], row["order_seed"], row["train_seed"]) for row in rows] == [("done", 0, 0), ("new", 1, 2)]
    assert rows[1]["seconds"] > 0 and rows[1]["train_image_passes"] > 0
    assert run_all.main(arguments) == 0
    out = capsys.readouterr().out
    assert rows[1]["run_id"] in out and "2 runs: 1 done, 1 new; about " in out


def test_a_plan_changes_nothing(in_empty_folder: Path) -> None:
    assert run_all.main(["plan", "smoke", "--methods", "ncm"]) == 0
    assert list(in_empty_folder.iterdir()) == []


def test_report_writes_the_page_without_torch(finished: tuple[Path, Path], in_empty_folder: Path) -> None:
    done = in_own_process(MAIN_THEN_HEAVY, "report", "smoke", "--results", str(finished[0]), "--out", "page")
    last = done.stdout.splitlines()[-1]
    assert last.startswith("HEAVY") and last.endswith(" 0"), done.stderr
    assert "torch" not in last and "timm" not in last and "avalanche" not in last
    assert f"page: {Path('page/index.html')}" in done.stdout
    assert "Nearest class mean" in (in_empty_folder / "page" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["methods", "benchmarks", "backbones", "suites"])
def test_lists(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows and all(row["summary"] and row["name"] for row in rows)
    assert run_all.main(["list", kind]) == 0
    out = capsys.readouterr().out
    assert all(row["name"] in out for row in rows)


def test_a_plugin_is_listed_with_its_file(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["list", "methods", "--json", "--plugin", plugin]) == 0
    owners = {row["name"]: row["owner"] for row in json.loads(capsys.readouterr().out)}
    assert owners["fails"] == "plugin 'mine.py'" and "built-in" in owners.values()


def test_failed_runs_are_listed_and_the_others_finish(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "smoke", "--methods", "fails,ncm", "--seeds", "0", "--workers", "1", "--plugin", plugin]
    assert run_all.main(arguments) == 1
    told = capsys.readouterr()
    assert told.err.startswith(f"failed: Fails · digits, 5 tasks · seed 0: RuntimeError: as it should ({plugin} line ")
    assert "; its traceback is in 'results/" in told.err and told.err.count("\n") == 1
    assert "1 of 2 runs finished" in told.out
    (record,) = Store(Path("results")).scan()
    assert record.result["spec"]["method"]["name"] == "ncm"  # type: ignore[union-attr]


MISTAKES = [
    (["run", "smoke", "--methods", "nmc"], "unknown method 'nmc'; did you mean 'ncm'?"),
    (["run", "smoke", "--benchmarks", "digit"], "unknown benchmark 'digit'; did you mean 'digits'?"),
    (["report", "smok"], "unknown suite 'smok'; did you mean 'smoke'?"),
    (["run", "smoke", "--set", "schedule.epoch=3"], "did you mean 'epochs'?"),
    (["run", "smoke", "--set", "schedule.epochs=x"], "schedule.epochs='x'"),
    (["run", "smoke", "--set", "schedule.epochs=0"], "allowed: >= 1 and <= 10000"),
    (["run", "smoke", "--set", "epochs"], "--set 'epochs' is not of the form key=value"),
    (["run", "smoke", "--set", "benchmark.tasks=3"], "10 classes cannot be split evenly into 3 tasks"),
    (["plan", "smoke", "--seeds", "a"], "--seeds 'a' is not a seed"),
    (["plan", "smoke", "--seeds", "4-0"], "--seeds"),
    (["run", "smoke", "--plugin", "absent.py"], "absent.py' cannot be read: No such file or directory"),
    (["run", "smoke", "--results", "taken/results"], "the results folder 'taken/results' cannot be written"),
    (["run", "smoke", "--data", "taken/data"], "taken/data"),
    (["run", "smoke", "--device", "gpu"], "'gpu' is not one of"),
    (["run", "smoke", "--workers", "0"], "--workers"),
    (["run", "smoke", "--worker", "2"], "No such option: --worker"),
    (["check", "nmc"], "unknown method 'nmc'; did you mean 'ncm'?"),
    (["check", "absent.py"], "absent.py' cannot be read"),
    (["cost", "--methods", "nmc"], "unknown method 'nmc'; did you mean 'ncm'?"),
    (["run"], "Missing argument"),
    (["rnu"], "No such command 'rnu'"),
    (["list", "method"], "'method' is not one of"),
    (["report", "smoke"], "nothing was run for suite 'smoke'"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], words: str, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_empty_folder / "taken").write_text("a file, so nothing can be made under it")
    assert run_all.main(arguments) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert told.err.startswith("error: ") and told.err.count("\n") == 1
    assert not list(in_empty_folder.glob("results/*/result.json")), "nothing may be trained after a mistake"


def test_our_own_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(run_all, "_launch", broken)
    with pytest.raises(ZeroDivisionError):
        run_all.main(["run", "smoke"])


def test_without_an_install_the_remedy_is_said() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-S", str(ROOT / "run_all.py"), "list", "suites"]  # -S: no installed package is found
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: smope_bench is not installed for ") and done.stderr.count("\n") == 1
    install = done.stderr.strip().partition("; run: ")[2]
    assert install and install in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "workers", "status"), [(signal.SIGINT, 2, 130), (signal.SIGTERM, 1, 143)])
def test_stopping_is_one_line(plugin: str, number: signal.Signals, workers: int, status: int, tmp_path: Path) -> None:
    command = ["run", "smoke", "--methods", "sleeps", "--seeds", "0,1", "--plugin", plugin, "--workers", str(workers)]
    out, err = tmp_path / "out", tmp_path / "err"
    out.touch()
    sweep: Sweep
    if workers > 1:
        sweep = Forked(lambda: run_all.main(command), out, err, tmp_path)
    else:
        with out.open("w") as stream, err.open("w") as errors:
            new = [sys.executable, str(ROOT / "run_all.py"), *command]
            sweep = subprocess.Popen(new, stdout=stream, stderr=errors, start_new_session=True)
    try:
        _wait_until(out, "started ", workers, sweep)
        os.killpg(sweep.pid, number)  # as a terminal does: the parent and its workers alike
        if workers > 1:  # in one process, a method that sleeps cannot be said to be stopping
            _wait_until(out, "stopping ", workers, sweep)
        else:
            time.sleep(0.5)
        assert sweep.poll() is None, "runs are given time to be saved"
        os.killpg(sweep.pid, number)  # these runs cannot be
        assert sweep.wait(300) == status
    finally:
        if sweep.poll() is None:
            os.killpg(sweep.pid, signal.SIGKILL)
            sweep.wait(60)
    assert err.read_text() == "stopped: what was finished is kept, and the same command goes on from there.\n"


def _wait_until(out: Path, word: str, times: int, sweep: Sweep) -> None:
    end = time.monotonic() + 300
    while out.read_text().count(word) < times:
        assert sweep.poll() is None and time.monotonic() < end, f"{word!r} was not said"
        time.sleep(0.05)


def test_a_reader_that_has_seen_enough_meets_no_traceback() -> None:
    code = "import sys; from smope_bench import run_all; sys.exit(run_all.main(sys.argv[1:]))"
    sweep = subprocess.Popen(
        [sys.executable, "-c", code, "list", "suites", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert sweep.stdout is not None and sweep.stderr is not None
    sweep.stdout.close()
    assert sweep.stderr.read() == b""
    sweep.wait()


def verdicts(*passed: bool) -> list[CheckResult]:
    return [CheckResult(f"rule {n}", ok, "[seen]") for n, ok in enumerate(passed)]


@pytest.mark.parametrize(
    ("checked", "status", "words"),
    [
        ({"a": verdicts(True, True)}, 0, "a\n  ✓ rule 0: [seen]\n  ✓ rule 1: [seen]\n  all 2 are met\n"),
        (
            {"a": verdicts(True), "b": verdicts(False)},
            1,
            "a\n  ✓ rule 0: [seen]\n  all 1 are met\nb\n  ✗ rule 0: [seen]\n  1 of 1 are not met\n",
        ),
        ({}, 2, ""),
    ],
)
def test_check_shows_each_verdict(
    checked: dict[str, list[CheckResult]],
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(conformance, "check_target", lambda target, *how: checked)
    assert run_all.main(["check", "anything"]) == status
    assert capsys.readouterr().out == words
