"""``smope_bench.run`` and ``plan`` as scripts and notebooks call them: the command line's engine, with values of Python."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import smope_bench
from smope_bench import run_all
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.harness.cli.commands import listing
from smope_bench.methods.baselines.ncm import Ncm
from tests.forked import forked_workers  # pyright: ignore[reportMissingImports]

ONE = {"methods": "ncm", "benchmarks": "digits", "seeds": 0, "limit": 10, "workers": 1, "quiet": True}
METHOD = """
import os, signal
from pathlib import Path
import torch.nn.functional as F
from torch import nn
from smope_bench.api import Method, MethodCard

class HeadOnly(Method):
    name = "head_only"
    card = MethodCard("Head only", "a linear head on the class token")

    def __init__(self, config, backbone, setup):
        super().__init__(config, backbone, setup)
        self.head = nn.Linear(backbone.feature_dim, setup.num_classes)

    def training_step(self, batch):
        BODY
        return F.cross_entropy(self.predict(batch), batch.targets)

    def predict(self, batch):
        return self.head(self.backbone(batch.images))[:, : self.seen_classes]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: Path) -> Path:
    """An empty folder that is the current one; images are prepared already."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(prepared)
    return tmp_path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def write_method(name: str, body: str = "pass") -> Path:
    file = Path(name).absolute()
    file.write_text(METHOD.replace("BODY", body), encoding="utf-8")
    return file


def imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def small(**more: Any) -> dict[str, Any]:
    return {**ONE, "methods": "head_only", "settings": {"schedule.epochs": 1}, **more}


def test_run_gives_the_runs_and_the_commands_read_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = smope_bench.run(**ONE)
    (run,) = done.runs
    assert (run.state, run.method, run.benchmark, run.error) == ("done", "ncm", "digits", None)
    assert run.folder == Path("results") / run.run_id and (run.folder / "result.json").is_file()
    assert capsys.readouterr().out == "", "quiet prints nothing"
    (row,) = smope_bench.results("results", "smoke").runs.to_dict("records")
    assert row["run_id"] == run.run_id and row["faa"] == run.metrics["faa"] and row["column"] == run.column
    assert done.frame().loc[0, "faa"] == run.metrics["faa"] and "<table" in done._repr_html_()
    assert run_all.main(["report", "smoke"]) == 0 and Path("report/index.html").is_file()
    asked = ["run", "smoke", "--methods", "ncm", "--benchmarks", "digits", "--seeds", "0", "--limit", "10"]
    assert run_all.main(asked) == 0 and "1 of 1 runs are already done" in capsys.readouterr().out


def test_what_the_caller_set_in_torch_changes_no_bit_and_is_there_afterwards(folder: Path) -> None:
    write_method("mine.py")
    first = smope_bench.run(**small(methods="mine.py", results="a")).runs[0]
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    drawn = torch.random.get_rng_state(), random.getstate(), str(np.random.get_state())
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            second = smope_bench.run(**small(methods="mine.py", results="b")).runs[0]
            assert torch.is_inference_mode_enabled() and torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.random.get_rng_state(), drawn[0])
    assert (random.getstate(), str(np.random.get_state())) == drawn[1:]
    files = [(run.folder / "model.safetensors").read_bytes() for run in (first, second)]
    assert files[0] == files[1]


def test_a_method_is_given_as_file_or_class_and_used_later(folder: Path) -> None:
    file = write_method("mine_too.py")
    by_class = smope_bench.run(**small(methods=["ncm", imported(file).HeadOnly]))
    assert [run.state for run in by_class.runs] == ["done", "done"]
    by_file = smope_bench.plan(
        methods=[file], benchmarks="digits", seeds=0, limit=10, settings={"schedule": {"epochs": 1}}
    )
    assert by_file[["run_id", "state"]].to_numpy().tolist() == [[by_class.runs[1].run_id, "done"]]
    assert len(smope_bench.load_model(by_class.runs[1].run_id, plugins=[file]).class_names) == 10
    assert set(smope_bench.plan(methods=Ncm, benchmarks="digits").method) == {"ncm"}
    asked = ["run", "smoke", "--methods", "mine_too.py", "--benchmarks", "digits", "--seeds", "0", "--limit", "10"]
    assert run_all.main([*asked, "--set", "schedule.epochs=1"]) == 0


def test_values_of_python_mean_what_texts_of_the_command_line_mean(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs: list[tuple[dict[str, Any], list[str]]] = [
        ({"seeds": range(2)}, ["--seeds", "0-1"]),
        ({"seeds": [1, (2, 3), "4:5", np.int64(6)]}, ["--seeds", "1,2:3,4:5,6"]),
        (
            {"settings": {"schedule": {"epochs": 3, "lr": np.float64(0.5)}}},
            words("schedule.epochs=3", "schedule.lr=0.5"),
        ),
        ({"settings": {"benchmark.split": "4,3x2"}}, words("benchmark.split=4,3x2")),
        ({"settings": ["benchmark.tasks=2"]}, words("benchmark.tasks=2")),
        ({"settings": {"tap": {"enabled": True, "epochs": 1}}}, words("tap.enabled=true", "tap.epochs=1")),
    ]
    for given, texts in pairs:
        mine = smope_bench.plan(methods="linear_probe", benchmarks=["digits"], **given)
        assert (
            run_all.main(["plan", "smoke", "--methods", "linear_probe", "--benchmarks", "digits", "--json", *texts])
            == 0
        )
        theirs = json.loads(capsys.readouterr().out)
        assert mine.to_dict("records") == pd.DataFrame(theirs).to_dict("records"), texts


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"suites": "smok"}, "did you mean 'smoke'"),
        ({"suites": 3}, "suites=3 is of type int"),
        ({"methods": "nmc"}, "did you mean 'ncm'"),
        ({"methods": 3}, "'3' is of type int"),
        ({"methods": [None]}, "'None' is of type NoneType"),
        ({"methods": dict}, "dict: it is of type type, not a subclass of"),
        ({"methods": "no_such_file.py"}, "no_such_file.py' cannot be read"),
        ({"benchmarks": ["digit"]}, "did you mean 'digits'"),
        ({"seeds": -1}, "-1 is not a seed"),
        ({"seeds": True}, "True is not a seed"),
        ({"seeds": 0.5}, "0.5 is not a seed"),
        ({"seeds": []}, "seeds=[] names nothing"),
        ({"methods": ()}, "methods=[] names nothing"),
        ({"suites": []}, "suites=[] names nothing"),
        ({"settings": {"epsilom": 1}}, "epsilom"),
        ({"settings": {3: 1}}, "the name 3 is not a text"),
        ({"settings": {"schedule.lr": Ellipsis}}, "of type ellipsis, which no setting takes"),
        ({"settings": 3}, "settings=3 is of type int"),
        ({"workers": 0}, "workers=0: Input should be greater than or equal to 1"),
        ({"workers": "2"}, "workers='2': Input should be a valid integer"),
        ({"limit": 0}, "leaves no image"),
        ({"device": "gpu"}, "device='gpu': Input should be 'auto', 'cpu'"),
        ({"gpus": [0, 0]}, "write distinct numbers"),
        ({"gpus": "x"}, "--gpus 'x'"),
        ({"executor": "laptop"}, "laptop"),
        ({"precision": "fp16"}, "precision='fp16'"),
        ({"recipe": "best"}, "recipe='best'"),
        ({"keep": None}, "keep=None"),
        ({"plugins": "no_such_file.py"}, "no_such_file.py' cannot be read"),
        ({"results": 3}, "results=3 is of type int"),
        ({"results": "taken"}, "results folder 'taken' cannot be written"),
        ({"checkpoint_every": float("nan")}, "checkpoint_every=nan"),
    ],
    ids=str,
)
def test_a_mistake_is_one_sentence(given: dict[str, Any], sentence: str, folder: Path) -> None:
    Path("taken").touch()
    with pytest.raises(smope_bench.UserError) as error:
        smope_bench.run(**{**ONE, **given})
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_class_that_no_worker_would_find_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = imported(write_method("here.py")).HeadOnly
    monkeypatch.setattr(made, "__module__", "__main__")
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # as in a notebook
    with pytest.raises(smope_bench.UserError, match=r"%%writefile head_only\.py"):
        smope_bench.run(**small(methods=made))


def test_a_run_that_fails_is_returned_with_its_reason_and_the_next_call_works(folder: Path) -> None:
    write_method("wrong.py", "raise ValueError('no gradient today')")
    (run,) = smope_bench.run(**small(methods="wrong.py")).failed
    assert run.state == "failed" and "no gradient today" in str(run.error) and run.metrics == {}
    assert smope_bench.run(**ONE).failed == ()


def test_commands_in_an_error_can_be_pasted_from_either_door(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Benchmarks and methods name a command without the plugins, and without a data folder that they do not know."""
    file = write_method(
        "my own.py", "raise MethodError('images end too early; `smope-bench data verify digits` names a remedy')"
    )
    file.write_text(file.read_text(encoding="utf-8").replace("import Method,", "import Method, MethodError,"), "utf-8")
    Path("my data").symlink_to("data")
    whole = f"`smope-bench data verify digits --plugin '{file}' --data 'my data'`"
    asked = small(methods="my own.py", data="my data")
    (run,) = smope_bench.run(**asked).failed
    kept = json.loads((run.folder / "failure.json").read_text(encoding="utf-8"))
    assert whole in str(run.error) and whole in kept["error"]

    def refuse(*_: object, **__: object) -> None:
        raise BenchmarkError("no images; call `smope-bench data verify digits`")

    monkeypatch.setattr("smope_bench.harness.execution.launcher.plan", refuse)
    calls: list[tuple[Any, dict[str, Any]]] = [
        (smope_bench.run, asked),
        (smope_bench.plan, {"methods": "my own.py", "data": "my data"}),
    ]
    for call, options in calls:
        with pytest.raises(smope_bench.UserError) as error:
            call(**options)
        assert str(error.value) == f"no images; call {whole}"
    assert run_all.main(["plan", "smoke", "--methods", "my own.py", "--data", "my data"]) == 2
    assert f"no images; call {whole}" in capsys.readouterr().err
    monkeypatch.setattr("smope_bench.harness.trained.model.find_model", refuse)
    with pytest.raises(smope_bench.UserError) as error:
        smope_bench.load_model("0", data="my data", plugins=file)
    assert str(error.value) == f"no images; call {whole}"


def test_a_stop_saves_the_run_and_the_same_call_goes_on(folder: Path) -> None:
    send = "Path('sent').exists() or (Path('sent').touch(), os.kill(os.getpid(), signal.SIGINT))"
    write_method("stopped.py", send)
    before = signal.getsignal(signal.SIGINT)
    asked = small(methods="stopped.py", settings={"schedule.epochs": 2})
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        smope_bench.run(**asked)
    assert signal.getsignal(signal.SIGINT) is before and not list(Path("results").glob("*/result.json"))
    (run,) = smope_bench.run(**asked).runs
    assert run.state == "done"


def test_it_runs_inside_a_loop_and_in_a_thread_but_not_twice_at_a_time(folder: Path) -> None:
    async def call() -> int:
        return len(smope_bench.run(**ONE).runs)

    # In a thread of its own: Playwright's loop keeps running in the main thread of a process that tested pages before.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: asyncio.run(call())).result() == 1
    errors: list[str] = []
    body = "import threading, sys; sys.modules['test_threads'].second()"
    write_method("nested.py", body)

    def second() -> None:
        try:
            smope_bench.run(**ONE)
        except smope_bench.UserError as error:
            errors.append(str(error))

    sys.modules["test_threads"] = module = ModuleType("test_threads")
    vars(module)["second"] = second
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(smope_bench.run(**small(methods="nested.py"))))
    thread.start()
    thread.join()
    assert found[0].runs[0].state == "done"
    assert errors and all("in progress in this process" in error for error in errors)


def test_a_script_without_a_main_guard_is_answered_before_torch_is_imported(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(
        "import sys, smope_bench\n"
        "try:\n    smope_bench.run(methods='ncm', workers=2)\n"
        "finally:\n    print('torch' in sys.modules)\n"
    )
    asked = [sys.executable, str(script)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.stdout == "False\n" and not (tmp_path / "results").exists()
    assert "study.py line 3 starts workers" in done.stderr.splitlines()[-1]


def test_a_program_from_standard_input_has_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType("__main__")
    vars(main)["__file__"] = "<stdin>"  # as Python names it
    monkeypatch.setitem(sys.modules, "__main__", main)
    with forked_workers():
        done = smope_bench.run(**{**ONE, "seeds": [7, 8], "workers": 2})
    assert [run.state for run in done.runs] == ["done", "done"] and vars(main)["__file__"] == "<stdin>"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"run": 3}, "not by 3"),
        ({"device": "gpu"}, "device='gpu' is none of auto, cpu"),
        ({"plugins": "none.py"}, "none.py' cannot be read"),
        ({"run": "0"}, "it has no finished run"),
        ({"results": "nowhere"}, "there is no results folder 'nowhere'"),
    ],
    ids=str,
)
def test_a_model_that_is_not_there_is_one_sentence(given: dict[str, Any], sentence: str, folder: Path) -> None:
    Path("results").mkdir()
    asked = {"run": "half", **given}
    if "plugins" in given:
        asked["run"] = smope_bench.run(**ONE).runs[0].run_id
    with pytest.raises(smope_bench.UserError) as error:
        smope_bench.load_model(**asked)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("ours", "command"), [(smope_bench.run, run_all.run), (smope_bench.plan, listing.plan)])
def test_every_option_of_the_commands_is_an_argument(ours: Any, command: Any) -> None:
    renamed = {"plugin": "plugins"}
    only_commands = {"as_json", "expect", "power"}  # output of commands beside the rows, and their exit status
    theirs = {renamed.get(name, name) for name in inspect.signature(command).parameters} - only_commands
    assert set(inspect.signature(ours).parameters) - {"quiet"} == theirs
    for name, parameter in inspect.signature(ours).parameters.items():
        assert name == "suites" or parameter.kind is parameter.KEYWORD_ONLY
