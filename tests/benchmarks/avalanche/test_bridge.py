"""Our streams as Avalanche benchmarks: equal indices, labels and pixels, and none of the traps of its generators."""

from __future__ import annotations

import gc
import io
import pickle
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from smope_bench.benchmarks.augmentation import RandomResizedCrop
from smope_bench.benchmarks.avalanche.bridge import from_avalanche, to_avalanche
from smope_bench.benchmarks.base import (
    Benchmark,
    BenchmarkCard,
    BenchmarkConfig,
    ImageSet,
    ProgressCallback,
    Split,
    silent,
)
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.arrays import StoredArray
from smope_bench.benchmarks.stream import Stream, View, build_stream

ROOT = Path(__file__).resolve().parents[3]
SIDE = 8
COUNTS: dict[Split, int] = {"train": 10, "test": 4}


@pytest.fixture(scope="module")
def ava() -> SimpleNamespace:
    """Avalanche's names, imported once: it takes seconds."""
    from avalanche import benchmarks, logging, training
    from avalanche.benchmarks import utils
    from avalanche.evaluation import metrics
    from avalanche.training import plugins

    return SimpleNamespace(
        class_incremental_benchmark=benchmarks.class_incremental_benchmark,
        ClassificationDataset=utils.classification_dataset.ClassificationDataset,
        DataAttribute=utils.DataAttribute,
        accuracy_metrics=metrics.accuracy_metrics,
        TextLogger=logging.TextLogger,
        EvaluationPlugin=plugins.EvaluationPlugin,
        ReplayPlugin=plugins.ReplayPlugin,
        Naive=training.Naive,
    )


class Blots(Benchmark[BenchmarkConfig]):
    """Seven classes of noise around a colour of their own."""

    name = "blots"
    card = BenchmarkCard("Blots", "made here", "none", "noise")

    def __init__(self, config: BenchmarkConfig) -> None:
        super().__init__(config, Path("unused"))

    def prepare(self, progress: ProgressCallback = silent, given: Sequence[Path] = ()) -> None:
        pass

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(f"blot {i}" for i in range(7))

    def image_set(self, split: Split) -> ImageSet:
        labels = np.tile(np.arange(7), COUNTS[split])  # classes interleaved: rows and positions differ
        noise = np.random.default_rng(len(split)).integers(0, 60, (len(labels), SIDE, SIDE, 3))
        colours = np.random.default_rng(0).integers(0, 190, (7, 3))
        return ImageSet((colours[labels][:, None, None] + noise).astype(np.uint8), labels.astype(np.int64))


def blots(**settings: Any) -> Stream:
    config = BenchmarkConfig.model_validate({"split": (3, 2, 2), "image_size": SIDE, **settings})
    return build_stream(Blots(config), order_seed=3)


def shown(dataset: Any) -> tuple[torch.Tensor, list[int], set[int]]:
    """(images, labels, task labels) of a dataset's items."""
    images, labels, tasks = zip(*dataset, strict=True)
    return torch.stack(images), [int(label) for label in labels], {int(task) for task in tasks}


def raw(view: View) -> Any:
    return view.take(slice(None))[0]


def generator_states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]


def same_views(first: Stream, second: Stream) -> None:
    for one, other in zip(first.tasks, second.tasks, strict=True):
        for name in ("train", "validation", "test"):
            view, again = getattr(one, name), getattr(other, name)
            assert view.rows.tolist() == again.rows.tolist() and view.labels.tolist() == again.labels.tolist()
            assert not len(view) or np.array_equal(raw(view), raw(again))


def test_nothing_imports_avalanche_before_a_stream_is_handed_over() -> None:
    code = "import sys, smope_bench.benchmarks.avalanche.bridge; sys.exit('avalanche' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_experiences_mirror_views(ava: SimpleNamespace) -> None:
    stream = blots(holdout=0.2)
    scenario: Any = to_avalanche(stream)
    assert (scenario.n_classes, scenario.n_experiences, scenario.class_names) == (7, 3, stream.class_names)
    for name, part in (("train", "train"), ("valid", "validation"), ("test", "test")):
        assert len(scenario.streams[name]) == 3
        for task, experience in zip(stream.tasks, scenario.streams[name], strict=True):
            view, dataset = getattr(task, part), experience.dataset
            assert list(dataset.targets) == view.labels.tolist() and list(dataset.rows) == view.rows.tolist()
            assert experience.classes_in_this_experience == set(task.classes)
            assert experience.classes_seen_so_far == set(range(task.classes.stop))
            assert experience.task_labels == [0] and set(dataset.targets_task_labels) == {0}
            images, labels, tasks = shown(dataset)
            assert labels == view.labels.tolist() and tasks == {0} and images.dtype == torch.float32
            assert torch.equal(images, torch.from_numpy(raw(view)).permute(0, 3, 1, 2) / 255)
    assert [len(experience.classes_in_this_experience) for experience in scenario.train_stream] == [3, 2, 2]


def test_without_holdout_there_is_no_empty_validation_stream(ava: SimpleNamespace) -> None:
    assert set(to_avalanche(blots()).streams) == {"train", "test"}
    merged = to_avalanche(blots().merged())
    assert [len(merged.streams[name]) for name in ("train", "test")] == [1, 3]


def test_no_generator_is_seeded_or_drawn_from(ava: SimpleNamespace) -> None:
    before = generator_states()
    scenario = to_avalanche(blots(augment=RandomResizedCrop()))
    shown(next(iter(scenario.streams["train"])).dataset)
    assert generator_states() == before
    # The trap that this avoids: Avalanche's own generator reseeds torch and leaves the remainder of the classes out.
    items = [(torch.zeros(1), label) for label in range(7)]
    data = ava.ClassificationDataset([items], data_attributes=[ava.DataAttribute(list(range(7)), "targets")])
    theirs = ava.class_incremental_benchmark({"train": data, "test": data}, num_experiences=3, seed=1)
    assert generator_states() != before
    assert sum(len(experience.classes_in_this_experience) for experience in theirs.train_stream) == 6


def test_augmentation_follows_its_seed_and_only_in_training(ava: SimpleNamespace) -> None:
    stream = blots(augment=RandomResizedCrop())

    def first(name: str = "train", **options: Any) -> Any:
        return next(iter(to_avalanche(stream, **options).streams[name])).dataset

    one = shown(first(seed=1))[0]
    assert torch.equal(one, shown(first(seed=1))[0]) and not torch.equal(one, shown(first(seed=2))[0])
    dataset = first()
    assert not torch.equal(shown(dataset)[0], shown(dataset)[0])
    plain = torch.from_numpy(raw(stream.tasks[0].train)).permute(0, 3, 1, 2) / 255
    for fixed in (dataset.eval(), first(train_transform=False)):
        assert torch.equal(shown(fixed)[0], plain)
    assert torch.equal(shown(first("test"))[0], shown(first("test"))[0])


def test_workers_and_epochs_augment_differently(ava: SimpleNamespace) -> None:
    stream = blots(augment=RandomResizedCrop())
    dataset: Any = next(iter(to_avalanche(stream).streams["train"])).dataset.subset([0] * 16)

    def two_epochs() -> torch.Tensor:
        torch.manual_seed(5)
        loader = DataLoader(dataset, batch_size=4, num_workers=2)
        return torch.cat([images for _ in range(2) for images, *_ in loader])

    images = two_epochs()
    batches = images.view(8, -1)  # of the same image: two batches from each of two workers in each of two epochs
    assert len({batch.numpy().tobytes() for batch in batches}) == 8
    assert torch.equal(images, two_epochs())


def test_a_pickled_dataset_opens_its_file_anew(ava: SimpleNamespace, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, SIDE, SIDE, 3)).astype(np.uint8)
    (tmp_path / "pixels").write_bytes(pixels.tobytes())

    def pickled() -> bytes:
        stream = blots()
        stored = StoredArray(tmp_path / "pixels", "uint8", pixels.shape)
        tasks = [replace(task, train=View(stored, task.train.rows, task.train.labels)) for task in stream.tasks]
        return pickle.dumps(next(iter(to_avalanche(replace(stream, tasks=tuple(tasks))).streams["train"])).dataset)

    sent = pickled()
    gc.collect()  # the file that was open is closed now, as it is in a worker that was spawned
    received = pickle.loads(sent)
    expected = torch.from_numpy(pixels[list(received.rows)]).permute(0, 3, 1, 2) / 255
    assert torch.equal(shown(received)[0], expected)


def test_a_batch_is_read_at_once_and_equals_its_items(ava: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario: Any = to_avalanche(blots())
    first, second, _ = (experience.dataset for experience in scenario.train_stream)
    order = [7, 0, 3, 3, 19]
    trees = [first, first.eval(), first.subset(range(20)), first.subset(range(5, 28)).subset(range(20)).train()]
    trees += [first.concat(second), second.subset(range(9)).concat(first.subset(range(12))), first.freeze_transforms()]
    trees.append(first.replace_current_transform_group(lambda image: torch.ones(2)))
    for dataset in trees:
        for got, item in zip(dataset.__getitems__(order), (dataset[index] for index in order), strict=True):
            assert torch.equal(got[0], item[0]) and list(got[1:]) == list(item[1:])
    reads: list[int] = []
    take = View.take
    monkeypatch.setattr(View, "take", lambda view, positions: (reads.append(len(positions)), take(view, positions))[1])
    for dataset in trees[:4]:
        dataset.__getitems__(order)
    assert reads == [5] * 4


@pytest.mark.parametrize("task_labels", [True, False])
def test_an_avalanche_strategy_learns_and_its_metrics_are_logged(ava: SimpleNamespace, task_labels: bool) -> None:
    torch.manual_seed(0)
    scenario: Any = to_avalanche(blots(holdout=0.2), task_labels=task_labels)
    told = io.StringIO()
    evaluation = ava.EvaluationPlugin(
        ava.accuracy_metrics(minibatch=True, experience=True, stream=True), loggers=[ava.TextLogger(told)]
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, 7))
    strategy = ava.Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=8,
        train_epochs=3,
        eval_mb_size=16,
        evaluator=evaluation,
        plugins=[ava.ReplayPlugin(mem_size=20)],
    )
    results: dict[str, float] = {}
    for number, experience in enumerate(scenario.train_stream):
        strategy.train(experience, eval_streams=[scenario.valid_stream[number]])
        results = strategy.eval(scenario.test_stream)
    task = "Task000/" if task_labels else ""
    accuracies = [results[f"Top1_Acc_Exp/eval_phase/test_stream/{task}Exp{number:03}"] for number in range(3)]
    assert accuracies[2] > 0.4  # two classes just learnt, out of seven
    assert np.mean(accuracies) > 1 / 7
    assert all(f"Exp{number:03}" in told.getvalue() for number in range(3))


def test_a_round_trip_keeps_indices_labels_and_pixels(ava: SimpleNamespace) -> None:
    for stream in (blots(), blots(holdout=0.2)):
        again = from_avalanche(to_avalanche(stream), image_size=SIDE)
        same_views(stream, again)
        assert again.class_names == stream.class_names


def test_a_held_out_stream_stays_apart(ava: SimpleNamespace) -> None:
    stream, plain = (from_avalanche(to_avalanche(blots(holdout=part)), image_size=SIDE) for part in (0.2, 0))
    assert [len(task.validation) for task in stream.tasks] == [6, 4, 4]
    assert stream.split_hash != plain.split_hash
    with pytest.raises(BenchmarkError, match="valid stream; leave out holdout"):
        from_avalanche(to_avalanche(blots(holdout=0.2)), image_size=SIDE, holdout=0.1)
