"""What a run keeps predicts what the run predicted, for every built-in method, and what is wrong is said in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from smope_bench.benchmarks.datasets.folders.image_folder import ImageFolder, ImageFolderConfig
from smope_bench.benchmarks.image_store.arrays import Raw
from smope_bench.benchmarks.stream import Stream
from smope_bench.harness import provenance
from smope_bench.harness.conformance.fixtures import domain_stream
from smope_bench.harness.errors import UserError
from smope_bench.harness.records.record import MODEL, Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.harness.run_spec import Component, RunSpec
from smope_bench.harness.trained.answers import read_answers
from smope_bench.harness.trained.find import find_model, find_run
from smope_bench.harness.trained.model import TrainedModel, model_of
from smope_bench.harness.training.trainer import Trainer
from smope_bench.methods.common.api import Batch, Method, MethodCard, Phase, TaskInfo
from tests.conftest import MICRO, micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]

METHODS = open_registries().methods.names()
SMALL: dict[str, dict[str, object]] = {"coda_prompt": {"components": 4}}
CPU = torch.device("cpu")


class Growing(Method):
    """Adds a layer a task, notes a number in ``begin_task`` and the phase in ``begin_phase``, and reads all three to predict."""

    name: ClassVar[str] = "growing"
    card = MethodCard("Growing", "a layer a task")
    only_for_training = ("scratch",)
    is_last = False

    def __init__(self, config: Any, backbone: Any, setup: Any) -> None:
        super().__init__(config, backbone, setup)
        self.layers = nn.ModuleList()
        self.register_buffer("scratch", torch.zeros(9))
        self.offset = 0

    def begin_task(self, task: TaskInfo) -> None:
        self.layers.append(nn.Linear(self.backbone.feature_dim, len(task.new_classes)))
        self.offset = 3 + task.index

    def phases(self) -> list[Phase]:
        return [Phase("first", 1), Phase("last", 1)]

    def begin_phase(self, phase: Phase) -> None:
        self.is_last = phase.name == "last"

    def training_step(self, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(self.predict(batch), batch.targets)

    def predict(self, batch: Batch) -> Tensor:
        logits = torch.cat([layer(self.backbone(batch.images)) for layer in self.layers], dim=1)
        return logits * self.offset * (2 if self.is_last else -2)


def two_tasks(method: str, config: dict[str, object] | None = None, **changes: Any) -> RunSpec:
    spec = micro_spec(method, config, **changes)
    benchmark = spec.benchmark.model_copy(update={"config": {"tasks": 2, "image_size": 16}})
    return spec.model_copy(update={"benchmark": benchmark})


def trained(
    spec: RunSpec, registries: Registries, folder: Path, stream: Stream | None = None, **options: Any
) -> tuple[Record, np.ndarray, Tensor]:
    """The record of a run in ``folder``, its test images, and the logits of its method for them before it was kept."""
    record, raw, logits = trained_on(spec, registries, folder, stream, **options)
    return record, np.concatenate([np.array(part) for part in raw]), logits


def trained_on(
    spec: RunSpec, registries: Registries, folder: Path, stream: Stream | None = None, **options: Any
) -> tuple[Record, list[Raw], Tensor]:
    """As ``trained``, with the test images as the benchmark keeps them."""
    with Trainer(spec, *given(folder, folder / "data", **options), registries=registries, stream=stream) as trainer:
        trainer.run_tasks()
        trainer.publish(provenance.now())
        tests = trainer.stream.tests
        with torch.no_grad(), trainer._precision():
            logits = [part for view in tests for part in trainer.evaluator.logits(view)]
    record = Store(folder).load(spec.run_id)
    assert isinstance(record, Record)
    return record, [view.take(slice(None))[0] for view in tests], torch.cat(logits)


def loaded(run: str, registries: Registries, folder: Path) -> TrainedModel:
    return model_of(find_model(run, folder), registries, folder / "data", CPU)


@pytest.mark.parametrize("method", [*METHODS, "growing"])
def test_a_loaded_model_predicts_what_its_run_predicted(method: str, registries: Registries, tmp_path: Path) -> None:
    registries.methods.add("growing", "tests", Growing)
    spec = two_tasks(method, SMALL.get(method))
    _, images, logits = trained(spec, registries, tmp_path)
    before = torch.get_rng_state()
    model, answers = loaded(spec.run_id, registries, tmp_path), read_answers(spec.run_id, tmp_path)
    found = model.predict(images)
    assert found.labels.tolist() == answers.predicted.tolist()
    assert found.classes == [answers.class_names[label] for label in answers.predicted]
    torch.testing.assert_close(model.logits(model.preprocess(images)), logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), before), "loading drew from the caller's random numbers"


@pytest.mark.parametrize("method", ["smope", "ncm", "joint_head"])
def test_a_stream_of_domains(method: str, registries: Registries, tmp_path: Path) -> None:
    spec = micro_spec(method)
    _, images, logits = trained(spec, registries, tmp_path, domain_stream(tmp_path))
    model = loaded(spec.run_id, registries, tmp_path)
    assert model.method.setup.protocol == "domain" and len(model.class_names) == logits.shape[1] == 6
    torch.testing.assert_close(model.logits(model.preprocess(images)), logits, rtol=1e-5, atol=1e-5)


def test_mixed_precision_is_that_of_the_run(registries: Registries, tmp_path: Path) -> None:
    spec = two_tasks("one_prompt", precision="bf16")
    _, images, logits = trained(spec, registries, tmp_path)
    model = loaded(spec.run_id, registries, tmp_path)
    found = model.logits(model.preprocess(images))
    assert torch.equal(found, logits)
    exact = model_of(find_model(spec.run_id, tmp_path), registries, tmp_path / "data", CPU)
    exact.spec = spec.model_copy(update={"precision": "fp32"})
    exact.method.backbone.float()
    assert not torch.equal(exact.logits(exact.preprocess(images)), logits), "mixed precision would not be noticed"


SMALL_LIMIT = "smope_bench.harness.training.kept_model.SMALL_BYTES"


def test_it_is_sealed_and_leaves_out_what_only_training_needs(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SMALL_LIMIT, 0)
    spec = two_tasks("ridge")
    record, *_ = trained(spec, registries, tmp_path)
    file = tmp_path / spec.run_id / MODEL
    assert record.kept_model is not None and record.kept_model["bytes"] == file.stat().st_size < 2_000
    assert Store(tmp_path).state(spec.run_id, None) == "done"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    for damaged in (bytes(content), bytes(content[:-9]), b""):
        file.write_bytes(damaged)
        assert Store(tmp_path).state(spec.run_id, None) == "stale"
        with pytest.raises(UserError, match="is damaged: it does not have the hash"):
            loaded(spec.run_id, registries, tmp_path)
    file.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        loaded(spec.run_id, registries, tmp_path)


def test_keeping_changes_neither_id_nor_numbers_and_can_be_left_out(registries: Registries, tmp_path: Path) -> None:
    spec = two_tasks("ncm")
    kept, *_ = trained(spec, registries, tmp_path / "kept")
    bare, *_ = trained(spec, registries, tmp_path / "bare", keep=False)
    same = ("run_id", "spec", "accuracy_matrix", "predictions_sha256")
    assert [kept.result[key] for key in same] == [bare.result[key] for key in same]
    assert "model" not in bare.result and not (tmp_path / "bare" / spec.run_id / MODEL).exists()
    assert Store(tmp_path / "bare").state(spec.run_id, None) == "done"
    with pytest.raises(UserError, match=r"was stored without its trained model; remove the folder"):
        find_model(spec.run_id, tmp_path / "bare")


def test_a_run_is_found_by_the_beginning_of_its_id(registries: Registries, tmp_path: Path) -> None:
    spec = two_tasks("ncm")
    trained(spec, registries, tmp_path)
    assert find_run(spec.run_id[:4], tmp_path).run_id == spec.run_id
    shutil.copytree(tmp_path / spec.run_id, tmp_path / f"{spec.run_id}b")
    assert find_run(spec.run_id, tmp_path).run_id == spec.run_id, "a whole id is not the beginning of another"
    with pytest.raises(UserError, match=r"2 runs of .* begin with .*; give more of the id"):
        find_run(spec.run_id[:4], tmp_path)
    with pytest.raises(
        UserError, match=r"is a copy, or its folder was renamed: .*; delete .*, or give it back its name"
    ):
        find_run(f"{spec.run_id}b", tmp_path)
    with pytest.raises(UserError, match=rf"no run of .* has the id 'nothing'.*it has {spec.run_id}"):
        find_run("nothing", tmp_path)
    with pytest.raises(UserError, match="no run"):
        find_run("", tmp_path)
    with pytest.raises(UserError, match="there is no results folder"):
        find_run("x", tmp_path / "none")


def test_other_plugins_and_backbones_are_named(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SMALL_LIMIT, 0)
    registries.methods.add("growing", "tests", Growing)
    spec = two_tasks("growing")
    trained(spec, registries, tmp_path)
    with pytest.raises(UserError, match=r"unknown method 'growing'.*--plugin FILE\.py"):
        loaded(spec.run_id, open_registries(), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Registries, "sources_of", lambda *names: {"method": "other"})
        with pytest.raises(UserError, match=r"method 'growing' is not the one that run .* was made with"):
            loaded(spec.run_id, registries, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(type(MICRO), "sha256", "0" * 64)
        with pytest.raises(UserError, match=r"has the weights 0{16}, but run .* was trained on random-"):
            loaded(spec.run_id, registries, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Growing, "only_for_training", ())
        with pytest.raises(UserError, match="does not fit method 'growing' of this version"):
            loaded(spec.run_id, registries, tmp_path)


def test_pictures_come_as_files_folders_arrays_and_pillow_images(registries: Registries, tmp_path: Path) -> None:
    spec = two_tasks("ncm")
    _, images, _ = trained(spec, registries, tmp_path)
    model = loaded(spec.run_id, registries, tmp_path)
    folder = tmp_path / "pictures" / "deep"
    folder.mkdir(parents=True)
    files = [folder / f"{number}.png" for number in range(3)]
    for file, pixels in zip(files, images, strict=False):
        Image.fromarray(pixels).save(file)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_text("no picture")
    expected = model.predict(images[:3])
    for given_as in (
        files,
        folder.parent,
        str(folder),
        [Image.fromarray(each) for each in images[:3]],
        list(images[:3]),
    ):
        found = model.predict(given_as)
        assert found.labels.tolist() == expected.labels.tolist()
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    frame = model.predict(files[0]).frame()
    assert list(frame.columns) == ["image", "class", "probability", *model.class_names] and len(frame) == 1
    assert frame["image"].tolist() == [str(files[0])]
    many = np.concatenate([images] * 40)[:300]  # more than a batch
    assert len(model.predict(many)) == 300


@pytest.mark.parametrize("how", [{"keep": "square"}, {"keep": "whole", "test_resize": 20, "normalize": "imagenet"}])
def test_pictures_are_decoded_and_cut_as_the_benchmark_does(
    how: dict[str, Any], registries: Registries, tmp_path: Path
) -> None:
    rng, folder = np.random.default_rng(0), tmp_path / "mine"
    for split, name, number in [(s, c, n) for s in ("train", "test") for c in ("ants", "bees") for n in range(2)]:
        file = folder / split / name / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (24 + 6 * number, 31, 4), dtype=np.uint8)).save(file)
    benchmark = ImageFolder(ImageFolderConfig(path=str(folder), tasks=2, image_size=16, **how), tmp_path / "data")
    benchmark.prepare()
    config = benchmark.pinned().model_dump(mode="json")
    spec = micro_spec("ncm").model_copy(update={"benchmark": Component(name="imagefolder", config=config)})
    record, raw, logits = trained_on(spec, registries, tmp_path)
    model = loaded(spec.run_id, registries, tmp_path)
    files = [folder / "test" / name / f"{number}.png" for name in record.result["class_names"] for number in range(2)]
    seen = torch.cat([model._transforms.test(part) for part in raw])
    assert torch.equal(model.preprocess(files), seen)
    torch.testing.assert_close(model.logits(seen), logits)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.png", b"no picture", "cannot be used: not an image in one of the formats"),
        ("cut.png", None, "cannot be used: a damaged image"),
        ("empty", "folder", "has no pictures"),
        ("absent.png", "absent", "cannot be read"),
    ],
)
def test_what_is_no_picture_is_named(
    name: str, content: bytes | str | None, message: str, registries: Registries, tmp_path: Path
) -> None:
    spec = two_tasks("ncm")
    _, images, _ = trained(spec, registries, tmp_path)
    file = tmp_path / name
    if content == "folder":
        file.mkdir()
    elif content is None:
        Image.fromarray(images[0]).save(file)
        file.write_bytes(file.read_bytes()[:-30])
    elif isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        loaded(spec.run_id, registries, tmp_path).predict(file)
    assert name in str(raised.value)


def test_other_things_than_pictures_are_refused(registries: Registries, tmp_path: Path) -> None:
    spec = two_tasks("ncm")
    trained(spec, registries, tmp_path)
    model = loaded(spec.run_id, registries, tmp_path)
    for wrong, message in (
        (np.zeros((4, 4, 3)), "must be uint8 of shape"),
        (np.zeros((4, 4), np.uint8), "must be uint8 of shape"),
        (7, "not int"),
        ([], "no picture to predict"),
    ):
        with pytest.raises(UserError, match=message):
            model.predict(wrong)  # pyright: ignore[reportArgumentType]


def test_stored_predictions_are_counted_by_class(registries: Registries, tmp_path: Path) -> None:
    spec = two_tasks("ncm")
    record, *_ = trained(spec, registries, tmp_path)
    answers = read_answers(spec.run_id, tmp_path)
    confusion = answers.confusion()
    correct = (answers.true == answers.predicted).mean()
    assert confusion.sum() == len(answers.true) and confusion.trace() == correct * len(answers.true)
    rows = answers.per_class()
    assert [name for name, *_ in rows] == record.result["class_names"]
    matrix = record.result["accuracy_matrix"]
    assert np.mean([accuracy for *_, accuracy in rows]) == pytest.approx(np.mean(matrix[-1]))
    (tmp_path / spec.run_id / "predictions.npz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"predictions\.npz' is damaged"):
        read_answers(spec.run_id, tmp_path)


def test_a_record_that_was_edited_is_refused(registries: Registries, tmp_path: Path) -> None:
    spec = two_tasks("ncm")
    trained(spec, registries, tmp_path)
    file = tmp_path / spec.run_id / "result.json"
    edited = json.loads(file.read_text())
    edited["model"]["sha256"] = "0" * 64
    file.write_text(json.dumps(edited))
    with pytest.raises(UserError, match="its seal does not fit"):
        find_model(spec.run_id, tmp_path)
