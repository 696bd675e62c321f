"""Extended runs: the bits of the longer run where nothing depends on the number of tasks, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.settings import parse_setting
from smope_bench.harness.records.record import MODEL
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.harness.run_spec import Component, RunSpec
from smope_bench.harness.trained.extend import plan_extension
from smope_bench.harness.trained.find import find_model
from smope_bench.harness.trained.model import model_of
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.resumed import OFTEN, Hoarder, Outcome, assert_same, cut, finish  # pyright: ignore[reportMissingImports]

METHODS = open_registries().methods
CANNOT = {name for name in METHODS.names() if METHODS.load(name).not_extended_because}
SAME = {"ncm", "ridge", "ranpac"}
"""Methods that draw nothing whose size depends on the number of classes or tasks. The classifiers of the others are drawn with a
row for each class of the run, after or before their prompts, so that a longer run begins with other numbers."""


def longer(method: str, config: dict[str, object] | None = None, **changes: Any) -> RunSpec:
    return micro_spec(method, config, **changes)


def stopped(spec: RunSpec, tasks: int = 2) -> RunSpec:
    config = spec.benchmark.config | {"stop_after": tasks}
    return spec.model_copy(update={"benchmark": spec.benchmark.model_copy(update={"config": config})})


def extension(run: str, results: Path, registries: Registries, *settings: str, **given: Any) -> RunSpec:
    parsed = tuple(map(parse_setting, settings))
    return plan_extension(run, results, results, registries, settings=parsed, **given).spec


def extended(parent: RunSpec, registries: Registries, folder: Path) -> tuple[RunSpec, Outcome, Outcome]:
    """The child of a run, both trained."""
    first = finish(parent, registries, folder)
    child = extension(parent.run_id, folder, registries)
    return child, first, finish(child, registries, folder)


@pytest.mark.parametrize("method", sorted(set(METHODS.names()) - CANNOT))
def test_rows_are_taken_over_and_more_are_trained(method: str, registries: Registries, tmp_path: Path) -> None:
    spec = longer(method)
    child, first, found = extended(stopped(spec), registries, tmp_path)
    whole = finish(spec, registries, tmp_path / "whole")
    assert child.parent is not None and child.parent.tasks == 2
    assert [row[:2] for row in found.matrix[:2]] == first.matrix and len(found.matrix) == len(whole.matrix) == 3
    assert [row[2] for row in found.matrix[:2]] == [None, None] and None not in found.matrix[2]
    assert found.costs == whole.costs, "images and parameters of the parent's tasks belong to the run"
    assert found.state.keys() == whole.state.keys()
    if method in SAME:
        assert found.matrix == whole.matrix and found.predictions == whole.predictions
        assert all(torch.equal(found.state[name], whole.state[name]) for name in whole.state)


def test_the_tuned_prompt_of_a_first_task_is_kept(registries: Registries, tmp_path: Path) -> None:
    _, first, found = extended(stopped(longer("ranpac", {"first_task_tuning": True})), registries, tmp_path)
    assert any(name.startswith("prefix") for name in found.state)
    for name in found.state:
        if name.startswith("prefix"):
            assert torch.equal(found.state[name], first.state[name])


@pytest.mark.parametrize("method", sorted(CANNOT))
def test_methods_that_divide_in_advance_are_refused(method: str, registries: Registries, tmp_path: Path) -> None:
    spec = stopped(longer(method, {"components": 4} if method == "coda_prompt" else None))
    finish(spec, registries, tmp_path)
    reason = registries.methods.load(method).not_extended_because
    assert reason
    with pytest.raises(UserError, match=re.escape(f"run {spec.run_id} of {method} cannot be extended: {reason}")):
        extension(spec.run_id, tmp_path, registries)


@pytest.mark.parametrize("saves", [1, 2, 5])
def test_killed_inside_it_goes_on_with_the_same_bits(saves: int, registries: Registries, tmp_path: Path) -> None:
    registries.methods.add("hoarder", "tests", Hoarder)
    spec = stopped(longer("hoarder"), 1)
    child, _, found = extended(spec, registries, tmp_path)
    again = tmp_path / "again"
    finish(spec, registries, again)
    cut(child, registries, again, saves)
    assert Store(again).state(child.run_id, None) == "new"
    assert_same(finish(child, registries, again, **OFTEN), found)


def test_an_extended_run_is_extended_and_predicts(registries: Registries, tmp_path: Path) -> None:
    spec = longer("ncm")
    finish(stopped(spec, 1), registries, tmp_path)
    child = extension(stopped(spec, 1).run_id, tmp_path, registries, "benchmark.stop_after=2")
    finish(child, registries, tmp_path)
    last = extension(child.run_id, tmp_path, registries)
    found = finish(last, registries, tmp_path)
    assert found.matrix == finish(spec, registries, tmp_path / "whole").matrix
    model = model_of(find_model(last.run_id, tmp_path), registries, tmp_path, torch.device("cpu"))
    assert len(model.class_names) == 6
    assert len({spec.run_id, child.run_id, last.run_id}) == 3


def test_more_domains_of_the_same_classes(registries: Registries, tmp_path: Path) -> None:
    small = {"classes": 3, "train_per_class": 4, "test_per_class": 2, "image_size": 16}
    spec = longer("ncm").model_copy(update={"benchmark": Component(name="glyph_domains", config=small)})
    kind = registries.benchmarks.load("glyph_domains")
    for folder in (tmp_path, tmp_path / "whole"):
        kind(kind.Config(**small), folder).prepare()
    _, first, found = extended(stopped(spec), registries, tmp_path)
    whole = finish(spec, registries, tmp_path / "whole")
    assert found.matrix[2:] == whole.matrix[2:] and len(whole.matrix) > 3
    assert [row[:2] for row in found.matrix[:2]] == first.matrix, "later domains are not tested before they arrive"
    with pytest.raises(UserError, match="a stream of domains cannot be joined"):
        extension(stopped(spec).run_id, tmp_path, registries, folder=pictures(tmp_path / "more", ["plum"]))


def pictures(folder: Path, names: list[str], seed: int = 0) -> Path:
    """A folder with six pictures a class, each class in its own colour."""
    draw = np.random.default_rng(seed)
    for name in names:
        colour = draw.integers(0, 200, 3)
        (folder / name).mkdir(parents=True)
        for number in range(6):
            noise = colour + draw.integers(0, 50, (16, 16, 3))
            Image.fromarray(noise.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("method", ["ncm", "one_prompt", "hash_prompt"])
def test_a_folder_of_new_classes(method: str, registries: Registries, tmp_path: Path) -> None:
    spec = longer(method)
    first = finish(spec, registries, tmp_path)
    more = pictures(tmp_path / "more", ["kiwi", "plum", "pear"])
    child = extension(spec.run_id, tmp_path, registries, folder=more)
    found = finish(child, registries, tmp_path)
    assert child.parent is not None and [one.name for one in child.benchmarks] == [spec.benchmark.name, "imagefolder"]
    assert [row[:3] for row in found.matrix[:3]] == first.matrix and len(found.matrix) == 4
    assert None not in found.matrix[3], "old tasks are evaluated, too"
    model = model_of(find_model(child.run_id, tmp_path), registries, tmp_path, torch.device("cpu"))
    assert model.class_names[6:] == tuple(sorted(model.class_names[6:], key=model.class_names.index))
    assert set(model.class_names[6:]) == {"kiwi", "plum", "pear"}
    if method == "ncm":
        assert model.predict(more / "plum").classes == ["plum"] * 6
    further = extension(child.run_id, tmp_path, registries, folder=pictures(tmp_path / "third", ["fig", "lime"]))
    assert len(finish(further, registries, tmp_path).matrix) == 5
    with pytest.raises(UserError, match=r"cannot be extended by imagefolder: class 'plum' comes again"):
        extension(child.run_id, tmp_path, registries, folder=pictures(tmp_path / "twice", ["plum", "date"]))


def test_two_extensions_of_a_run_are_two_columns(registries: Registries, tmp_path: Path) -> None:
    spec = longer("ncm")
    finish(spec, registries, tmp_path)
    folders = pictures(tmp_path / "fruit", ["kiwi", "plum"]), pictures(tmp_path / "more", ["fig", "lime"])
    planned = [plan_extension(spec.run_id, tmp_path, tmp_path, registries, folder=folder) for folder in folders]
    assert len({(one.row, one.benchmark, one.spec.order_seed, one.spec.train_seed) for one in planned}) == 2


def test_what_cannot_be_extended_is_said_in_a_sentence(registries: Registries, tmp_path: Path) -> None:
    spec = longer("ncm")
    finish(spec, registries, tmp_path)
    run = spec.run_id
    for words, settings, given in (
        ("has learnt all tasks of", (), {}),
        ("has learnt all tasks of", ("benchmark.stop_after=2",), {}),
        ("needs a benchmark that is added", ("benchmark.limit=2",), {}),
        ("everything else is as", ("metric=cosine",), {}),
        ("unknown benchmark 'digit'", (), {"benchmark": "digit"}),
        ("is not a setting", ("benchmark.colour=2",), {"benchmark": "digits"}),
        ("are shown to the network as the first ones", ("benchmark.normalize=half",), {"benchmark": "digits"}),
        ("does not exist", (), {"folder": tmp_path / "none"}),
    ):
        with pytest.raises((UserError, BenchmarkError), match=words):
            extension(run, tmp_path, registries, *settings, **given)
    part = stopped(spec)
    finish(part, registries, tmp_path)
    with pytest.raises(UserError, match=r"stop_after=2: run \w+ has learnt 2 tasks already"):
        extension(part.run_id, tmp_path, registries, "benchmark.stop_after=2")
    with pytest.raises(UserError, match=r"stop_after=9 but .* has 3 tasks"):
        extension(part.run_id, tmp_path, registries, "benchmark.stop_after=9")


def test_a_parent_that_has_changed_is_refused(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = stopped(longer("ridge"))
    finish(spec, registries, tmp_path)
    child = extension(spec.run_id, tmp_path, registries)
    file = tmp_path / spec.run_id / MODEL
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(UserError, match="which is extended, has changed"):
        finish(child, registries, tmp_path)
    file.unlink()
    with pytest.raises(UserError, match="which is extended, cannot be read"):
        finish(child, registries, tmp_path)
    file.write_bytes(whole)
    assert finish(child, registries, tmp_path).matrix[0][0] is not None
    with monkeypatch.context() as patch:
        patch.setattr("smope_bench.harness.training.kept_model.SMALL_BYTES", 0)
        finish(spec, registries, tmp_path / "small")
        with pytest.raises(UserError, match=r"kept without what training goes on from.*--extendable"):
            extension(spec.run_id, tmp_path / "small", registries)
        finish(spec, registries, tmp_path / "large", extendable=True)
        assert extension(spec.run_id, tmp_path / "large", registries).parent is not None
    record = json.loads((tmp_path / spec.run_id / "result.json").read_text())
    assert record["model"]["bytes"] == len(whole)
