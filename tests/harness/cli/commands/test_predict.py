"""The commands ``predict``, ``predictions`` and ``export``, in this process, on one run of the command line."""

from __future__ import annotations

import csv
import errno
import io
import json
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import smope_bench
from smope_bench import run_all
from smope_bench.harness import provenance
from smope_bench.harness.errors import UserError

PLUGIN = """
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
        return F.cross_entropy(self.predict(batch), batch.targets)

    def predict(self, batch):
        return self.head(self.backbone(batch.images))[:, : self.seen_classes]
"""
Say = Callable[..., str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of a built-in method and one of a plugin, and pictures of digits."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("head_only.py").write_text(PLUGIN)
        small = ["--benchmarks", "digits", "--seeds", "0", "--limit", "20", "--executor", "serial"]
        assert run_all.main(["run", "smoke", "--methods", "ncm", *small]) == 0
        more = ["--plugin", "head_only.py", "--set", "schedule.epochs=1"]
        assert run_all.main(["run", "smoke", "--methods", "head_only", *small, *more]) == 0
        for place in ("mine/README.md", "half exported/model.safetensors"):
            Path(place).parent.mkdir()
            Path(place).touch()
        Path("pictures").mkdir()
        images, _ = load_digits(return_X_y=True)
        for number in range(6):
            ink = np.asarray(images)[number].reshape(8, 8) * 15.9
            Image.fromarray(ink.astype(np.uint8)).save(f"pictures/{number}.png")
    return folder


@pytest.fixture
def say(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command in ``home``; returns what it printed, errors included."""
    monkeypatch.chdir(home)

    def run(*arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        assert run_all.main(arguments) == status
        printed = capsys.readouterr()
        assert not (status and printed.out), "an error printed a result"
        return printed.out + printed.err

    return run


def run_of(method: str) -> str:
    return next(
        file.parent.name
        for file in Path("results").glob("*/result.json")
        if json.loads(file.read_text())["spec"]["method"]["name"] == method
    )


def test_predict_names_the_classes_of_pictures(say: Say) -> None:
    run = run_of("ncm")
    table = say("predict", run[:6], "pictures/3.png")
    assert "pictures/3.png" in table and "3 " in table and "%" in table
    as_json = json.loads(say("predict", run, "pictures", "--json"))
    assert [each["class"] for each in as_json].count("0") >= 1 and len(as_json) == 6
    assert sum(as_json[0]["probabilities"].values()) == pytest.approx(1)
    rows = list(csv.DictReader(io.StringIO(say("predict", run, "pictures/0.png", "pictures", "--csv"))))
    assert [row["image"] for row in rows[:2]] == ["pictures/0.png", "pictures/0.png"] and len(rows) == 7
    assert rows[0]["class"] == as_json[0]["class"] and float(rows[0][rows[0]["class"]]) == float(rows[0]["probability"])
    right = sum(row["class"] == Path(row["image"]).stem for row in rows)
    assert right >= 5, "digits are not recognised"


def test_a_model_of_other_code_is_said_and_used(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("predict", run_of("ncm"), "pictures/3.png", "--csv")
    same = say(*command)
    monkeypatch.setattr(provenance, "code_fingerprint", lambda: "other")
    said = say(*command)
    assert (
        said
        == f"{same}note: run {run_of('ncm')} was trained by another version of the code; its predictions may differ a little\n"
    )


def test_predictions_are_shown_by_class_image_and_confusion(say: Say) -> None:
    run = run_of("ncm")
    record = json.loads(Path("results", run, "result.json").read_text())
    listed = say("predictions")
    assert run in listed and "ncm" in listed and "head_only" in listed and " kB" in listed and "0.0 MB" not in listed
    rows = list(csv.DictReader(io.StringIO(say("predictions", run, "--as", "csv"))))
    assert len(rows) == sum(record["test_counts"]) and set(rows[0]) == {"image", "task", "true", "predicted", "correct"}
    tasks = [*csv.reader(io.StringIO(say("predictions", run, "--as", "tasks")))]
    assert tasks[0][1:] == ["1", "2", "3", "4", "5"] and [row[0] for row in tasks[1:]] == tasks[0][1:]
    assert [sum(map(int, row[1:])) for row in tasks[1:]] == record["test_counts"]
    assert sum(int(row[int(row[0])]) for row in tasks[1:]) >= sum(int(row["correct"]) for row in rows)
    assert [row["task"] for row in rows].count("2") == record["test_counts"][1]
    head, *confusion = csv.reader(io.StringIO(say("predictions", run, "--as", "confusion")))
    assert head[1:] == record["class_names"]
    correct = sum(int(row["correct"]) for row in rows)
    assert correct == sum(int(row[place + 1]) for place, row in enumerate(confusion))
    as_json = json.loads(say("predictions", run, "--as", "json"))
    assert as_json["accuracy_of_classes"].keys() == set(record["class_names"])
    shown = say("predictions", run)
    assert all(f"{value:.1f} %" in shown for value in as_json["accuracy_of_classes"].values())


@pytest.mark.parametrize("method", ["ncm", "head_only"])
def test_an_export_works_without_results_and_plugin(
    method: str, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, plugin = run_of(method), ["--plugin", "head_only.py"] if method == "head_only" else []
    said = say("export", run, "--to", str(tmp_path / "out"), *plugin)
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert all(name in said for name in files)
    assert files >= {"README.md", "classes.txt", "model.json", "model.safetensors", "predict.py", "preprocessing.json"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert run in card and "CC BY 4.0" in card and "% on the test images" in card and "limit 20" in card
    assert "needs an environment with smope-bench" in card and "The backbone comes with it." in card
    assert all(file.stat().st_mode & 0o044 for file in (tmp_path / "out").iterdir()), "others cannot read it"
    program = tmp_path / "out" / "predict.py"
    assert len(program.read_text().splitlines()) <= 18
    picture = str(Path("pictures/3.png").resolve())
    expected = json.loads(say("predict", run, picture, "--json", *plugin))[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program), picture])
    capsys.readouterr()
    runpy.run_path(str(program), run_name="__main__")
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setitem(sys.modules, "smope_bench", None)
        runpy.run_path(str(program), run_name="__main__")
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and printed.err.startswith("error: install smope-bench ")
    assert f"{picture}: {expected['class']} ({expected['probability']:.1%})" in printed.out
    monkeypatch.setattr(sys, "argv", [str(program), "none.png"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(program), run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: picture 'none.png' cannot be read")
    kept = (tmp_path / "out" / "model.safetensors").read_bytes()
    (tmp_path / "out" / "model.safetensors").write_bytes(kept[:-1])
    with pytest.raises(UserError, match=r"is damaged: .*; export it again"):
        smope_bench.load_model(tmp_path / "out")
    assert say("export", run, "--to", str(tmp_path / "out"), "--results", str(tmp_path), status=2).count("no run") == 1
    described = tmp_path / "out" / "model.json"
    described.write_text(described.read_text().replace('"run_id"', '"run_Id"'))
    with pytest.raises(UserError, match="its seal does not fit; export it again"):
        smope_bench.load_model(tmp_path / "out")


def test_a_run_is_named_by_its_folder(say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run, home = run_of("ncm"), Path.cwd()
    assert say("predictions", f"results/{run}") == say("predictions", run)
    monkeypatch.chdir(tmp_path)
    picture = str(home / "pictures" / "3.png")
    assert run_all.main(["predict", f"{home}/results/{run}/", picture, "--data", str(home / "data")]) == 0


def test_the_library_loads_a_model_by_the_beginning_of_an_id(home: Path) -> None:
    results, data = home / "results", home / "data"
    run = next(home.glob("results/*/result.json")).parent.name
    with pytest.raises(UserError, match="no run of"):
        smope_bench.load_model("zzzz", results=results, data=data)
    model = smope_bench.load_model(run[:8], plugins=[home / "head_only.py"], results=results, data=data)
    assert sorted(model.class_names) == [str(digit) for digit in range(10)]
    assert model.preprocess(home / "pictures").shape == (6, 3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "zz", "pictures"], "no run of 'results' has the id 'zz'"),
        (["predict", "z" * 300, "pictures"], "no run of 'results' has the id 'zzz"),
        (["export", "~nosuchuser/r", "--to", "new"], "no run of 'results' has the id '~nosuchuser/r'"),
        (["predict", "NCM", "none.png"], "picture 'none.png' cannot be read"),
        (["predict", "NCM", "head_only.py"], "picture 'head_only.py' cannot be used: not an image"),
        (["predict", "NCM", "data"], "folder 'data' has no pictures"),
        (["predict", "NCM", "pictures", "--csv", "--json"], "--csv and --json contradict each other"),
        (["predict", "NCM", "pictures", "--results", "none"], "there is no results folder 'none'"),
        (["predict", "HEAD", "pictures"], "unknown method 'head_only'"),
        (["predictions", "zz"], "no run of 'results' has the id 'zz'"),
        (["predictions", "--results", "pictures"], "'pictures' has no finished run"),
        (["export", "NCM", "--to", "pictures"], "folder 'pictures' is not empty: it has '0.png'"),
        (["export", "NCM", "--to", "mine"], "folder 'mine' is not empty: it has 'README.md'"),
        (["predict", "half exported", "pictures"], "the exported folder 'half exported' has lost its model.json"),
        (["export", "NCM", "--to", "head_only.py"], "'head_only.py' cannot be written"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], message: str, say: Say) -> None:
    names = {"NCM": "ncm", "HEAD": "head_only"}
    said = say(*[run_of(names[each]) if each in names else each for each in arguments], status=2)
    assert message in said and said.startswith("error: ") and len(said.splitlines()) == 1


def test_runs_that_failed_or_are_not_finished_are_named(say: Say, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    (folder / "ab12").mkdir(parents=True)
    (folder / "ab12" / "events.jsonl").write_text("")
    said = say("predict", "ab1", "pictures", "--results", str(folder), status=2)
    assert "run ab12 of" in said and "is not finished" in said and f"status --results {folder}" in said
    (folder / "ab12" / "failure.json").write_text('{"error": "no"}')
    for command in (
        ["predict", "ab12", "pictures"],
        ["predictions", "ab12"],
        ["extend", "ab12"],
        ["export", "ab", "--to", "x"],
    ):
        said = say(*command, "--results", str(folder), status=2)
        assert "run ab12 of" in said and "failed, so that it has no model" in said and len(said.splitlines()) == 1


def test_every_part_of_a_kept_file_is_verified(say: Say, tmp_path: Path) -> None:
    run = run_of("ncm")
    say("export", run, "--to", str(tmp_path / "out"))
    shutil.copytree("results", tmp_path / "results")
    kept = tmp_path / "results" / run / "model.safetensors"
    whole = kept.read_bytes()
    places = (0, 7, 8, 40, len(whole) // 2, len(whole) - 1)  # length of the header, header, tensors
    damaged = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in places]
    for content in (*damaged, whole[:4], whole[:30], whole[:-1], whole + b"x", b""):
        kept.write_bytes(content)
        (tmp_path / "out" / "model.safetensors").write_bytes(content)
        for where in ([run, "pictures", "--results", str(tmp_path / "results")], [str(tmp_path / "out"), "pictures"]):
            said = say("predict", *where, status=2)
            assert "is damaged: it does not have the hash" in said and len(said.splitlines()) == 1
    said = say("extend", run, "--results", str(tmp_path / "results"), status=2)
    assert "is damaged" in said and len(said.splitlines()) == 1


def test_results_that_cannot_be_written_are_read_and_not_extended(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    run, before = run_of("ncm"), sorted(Path("results").rglob("*"))
    say("predict", run, "pictures/0.png")
    say("predictions", run)
    assert sorted(Path("results").rglob("*")) == before, "looking at a run wrote something"
    Path("more/kiwi").mkdir(parents=True, exist_ok=True)
    for number in range(3):
        Image.new("RGB", (32, 32), (9, 200, 60 * number)).save(f"more/kiwi/{number}.png")

    def refuse(**options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(options))

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "NamedTemporaryFile", refuse)
        said = say("extend", run, "--from", "more", status=2)
        assert "the results folder 'results' cannot be written (Permission denied)" in said.splitlines()[-1]
    said = say("extend", run, "--from", "more", "--executor", "serial")
    assert f"extends run {run} from 5 to 6 tasks: final average accuracy" in said


def test_an_edited_plugin_is_another_one(say: Say, tmp_path: Path) -> None:
    edited = tmp_path / "head_only.py"
    edited.write_text(PLUGIN.replace("* ", "*").replace("cross_entropy(", "nll_loss("))
    said = say("predict", run_of("head_only"), "pictures", "--plugin", str(edited), status=2)
    assert "method 'head_only' is not the one that run" in said and "its source has changed" in said
