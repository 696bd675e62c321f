"""Avalanche benchmarks for our methods: what is read, what is refused, and plugins that bring them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from smope_bench.benchmarks.avalanche.bridge import AvalancheBenchmark, from_avalanche, to_avalanche
from smope_bench.benchmarks.avalanche.reader import as_pixels
from smope_bench.benchmarks.base import BenchmarkCard
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.stream import View, build_stream

ROOT = Path(__file__).resolve().parents[3]
SIDE = 8


@pytest.fixture(scope="module")
def ava() -> SimpleNamespace:
    """Avalanche's names, imported once: it takes seconds."""
    from avalanche import benchmarks
    from avalanche.benchmarks import utils

    return SimpleNamespace(
        benchmark_from_datasets=benchmarks.benchmark_from_datasets,
        benchmark_with_validation_stream=benchmarks.benchmark_with_validation_stream,
        class_incremental_benchmark=benchmarks.class_incremental_benchmark,
        task_incremental_benchmark=benchmarks.task_incremental_benchmark,
        AvalancheDataset=utils.AvalancheDataset,
        DataAttribute=utils.DataAttribute,
        as_classification_dataset=utils.as_classification_dataset,
    )


def raw(view: View) -> Any:
    return view.take(slice(None))[0]


def generator_states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]


class Shown(Dataset[Any]):
    """Given images and class ids."""

    def __init__(self, images: Any, targets: list[int]) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.targets[index]


def dotted(ava: SimpleNamespace, classes: Sequence[int] = range(7), count: int = 3, grey: bool = True) -> Any:
    """Noise as grey floats in [0, 1], classes interleaved."""
    targets = [c for _ in range(count) for c in classes]
    shape = (len(targets), 1 if grey else 3, SIDE, SIDE)
    pixels = np.random.default_rng(len(targets)).integers(0, 256, shape)
    return ava.as_classification_dataset(Shown(torch.tensor(pixels, dtype=torch.float32) / 255, targets))


def by_experience(ava: SimpleNamespace, train: Sequence[Any], test: Sequence[Any]) -> Any:
    return ava.benchmark_from_datasets(train=train, test=test)


def test_a_benchmark_of_avalanches_own_generator_is_relabelled_in_order_of_arrival(ava: SimpleNamespace) -> None:
    order = [5, 2, 6, 0, 1, 4, 3]
    data = {"train": dotted(ava, count=3), "test": dotted(ava, count=2)}
    scenario = ava.class_incremental_benchmark(data, class_order=order, num_classes_per_exp=[3, 2, 2])
    stream = from_avalanche(scenario, image_size=SIDE)
    assert [task.names for task in stream.tasks] == [("2", "5", "6"), ("0", "1"), ("3", "4")]
    assert [list(task.classes) for task in stream.tasks] == [[0, 1, 2], [3, 4], [5, 6]]
    start = 0
    for task, experience in zip(stream.tasks, scenario.train_stream, strict=True):
        view = task.train
        assert sorted(view.rows.tolist()) == list(range(start, start + len(experience.dataset)))
        for row, label, image in zip(view.rows, view.labels, raw(view), strict=True):
            pixels, class_id = experience.dataset[int(row) - start][:2]
            assert stream.class_names[label] == str(class_id)
            assert np.array_equal(image, np.rint(pixels.numpy()[0] * 255)[..., None].repeat(3, -1))
        start += len(experience.dataset)
    assert stream.image_size == SIDE and stream.config.split == (3, 2, 2)


def test_a_round_trip_of_their_benchmark_keeps_images_and_experiences(ava: SimpleNamespace) -> None:
    train = [dotted(ava, classes, grey=False) for classes in ((4, 9), (0, 2, 3))]
    test = [dotted(ava, classes, count=2, grey=False) for classes in ((4, 9), (0, 2, 3))]
    read = from_avalanche(by_experience(ava, train, test), image_size=SIDE)
    back: Any = to_avalanche(read)
    for one, other in zip(read.tasks, from_avalanche(back, image_size=SIDE).tasks, strict=True):
        for view, again in ((one.train, other.train), (one.test, other.test)):
            assert view.rows.tolist() == again.rows.tolist() and view.labels.tolist() == again.labels.tolist()
            assert np.array_equal(raw(view), raw(again))
    for ours, theirs in zip(back.train_stream, train, strict=True):
        assert sorted(read.class_names[label] for label in ours.dataset.targets) == sorted(map(str, theirs.targets))


def test_one_test_experience_with_all_classes_is_split_by_task(ava: SimpleNamespace) -> None:
    train = [dotted(ava, classes) for classes in ((0, 1), (2,))]
    stream = from_avalanche(by_experience(ava, train, [dotted(ava, range(3))]), image_size=SIDE)
    assert [sorted(set(view.labels.tolist())) for view in stream.tests] == [[0, 1], [2]]


def test_task_labels_are_not_used_and_that_is_said(ava: SimpleNamespace) -> None:
    parts = [dotted(ava, classes) for classes in ((0, 1), (2,))]
    told: list[str] = []
    scenario = ava.task_incremental_benchmark(by_experience(ava, parts, parts))
    assert from_avalanche(scenario, image_size=SIDE, progress=told.append).num_classes == 3
    assert told == ["the benchmark's task labels are not used: methods are tested without knowing the task"]
    from_avalanche(by_experience(ava, parts, parts), image_size=SIDE, progress=told.append)
    assert len(told) == 1


def test_classes_that_come_again_make_domains(ava: SimpleNamespace) -> None:
    train = [dotted(ava, (4, 9), count=3), dotted(ava, (2, 4), count=4)]
    test = [dotted(ava, (4, 9), count=2), dotted(ava, (2, 4), count=1)]
    stream = from_avalanche(by_experience(ava, train, test), image_size=SIDE, holdout=0.25)
    assert stream.domains == ("experience 0", "experience 1") and stream.class_names == ("4", "9", "2")
    assert [sorted(set(task.train.labels.tolist())) for task in stream.tasks] == [[0, 1], [0, 2]]
    assert [(len(task.train), len(task.validation), len(task.test)) for task in stream.tasks] == [(4, 2, 4), (6, 2, 2)]
    assert [list(stream.tests_after(task)) for task in stream.tasks] == [[0], [0, 1]]
    back: Any = to_avalanche(stream)
    again = from_avalanche(by_experience(ava, train, test), image_size=SIDE, holdout=0.25)
    assert again.split_hash == stream.split_hash
    assert [len(experience.dataset) for experience in back.test_stream] == [4, 2]


def test_one_test_experience_for_all_domains_is_tested_on_after_each(ava: SimpleNamespace) -> None:
    from avalanche.benchmarks import ni_benchmark

    scenario = ni_benchmark(dotted(ava, range(3), count=8), dotted(ava, range(3), count=4), n_experiences=3, seed=0)
    stream = from_avalanche(scenario, image_size=SIDE)
    assert stream.protocol == "domain" and sum(len(task.train) for task in stream.tasks) == 24
    assert [len(view) for view in stream.tests] == [12] * 3 and len(set(stream.tests)) == 1
    assert [list(stream.tests_after(task)) for task in stream.tasks] == [[0], [0, 1], [0, 1, 2]]
    assert list(stream.merged().tests_after(stream.merged().tasks[0])) == [0, 1, 2]


REFUSED: list[tuple[str, Callable[[Any], Any], str]] = [
    ("no benchmark", lambda ava: object(), "not an Avalanche benchmark with a train and a test stream"),
    (
        "numbered anew",
        lambda ava: ava.task_incremental_benchmark(
            by_experience(ava, *[[dotted(ava, (0, 1)), dotted(ava, (0, 1))]] * 2)
        ),
        "class 0 of training experience 1 has come before with another task label or meaning",
    ),
    (
        "domains with some tests",
        lambda ava: by_experience(ava, [dotted(ava, (0, 1))] * 3, [dotted(ava, (0, 1))] * 2),
        "has 3 training experiences but 2 test experiences; give one for each, or one for all",
    ),
    (
        "a domain without a test of a class",
        lambda ava: by_experience(
            ava, [dotted(ava, (0, 1)), dotted(ava, (0, 1))], [dotted(ava, (0, 1)), dotted(ava, (0,))]
        ),
        "class '1' of domain 'experience 1' has no test images",
    ),
    (
        "untested class",
        lambda ava: by_experience(ava, [dotted(ava, (0, 1))], [dotted(ava, (0,))]),
        "class 1 is trained on but has no image in the test stream",
    ),
    (
        "untrained class",
        lambda ava: by_experience(ava, [dotted(ava, (0,))], [dotted(ava, (0, 1))]),
        "class 1 is in the test stream but never trained on$",
    ),
    (
        "validation images cut off the end of images sorted by class",
        lambda ava: ava.benchmark_with_validation_stream(by_experience(ava, *[[dotted(ava, (0, 1), 1)]] * 2), 0.5),
        "class 1 is in the test stream but never trained on; its images are all in the valid stream: pass shuffle=True",
    ),
    (
        "no labels",
        lambda ava: by_experience(ava, [ava.AvalancheDataset([TensorDataset(torch.zeros(2, 1))])], [dotted(ava)]),
        "training experience 0 has no class labels",
    ),
    (
        "normalised",
        lambda ava: by_experience(ava, *[[labelled(ava, [torch.full((1, 4, 4), v) for v in (0.5, 2.5)])]] * 2),
        r"image 1 of train experience 0: pixels from 2.5 to 2.5 where \[0, 1\] is understood",
    ),
    (
        "sizes",
        lambda ava: by_experience(ava, *[[labelled(ava, [torch.zeros(1, 4, 6), torch.zeros(1, 4, 5)])]] * 2),
        "image 1 of train experience 0: images of 6x4 and 5x4 pixels; add a resize",
    ),
    (
        "target transform",
        lambda ava: by_experience(ava, *[[labelled(ava, [torch.zeros(1, 4, 4)] * 2, [1, 0])]] * 2),
        "image 0 of train experience 0: an item must be",
    ),
]


def labelled(ava: SimpleNamespace, images: list[torch.Tensor], items: list[int] | None = None) -> Any:
    """Two images of classes 0 and 1; ``items`` are the labels that indexing gives instead."""
    targets = [0, 1]
    attribute = ava.DataAttribute(targets, "targets")
    return ava.AvalancheDataset([Shown(images, items or targets)], data_attributes=[attribute])


@pytest.mark.parametrize(("make", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_run_is_refused(ava: SimpleNamespace, make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        from_avalanche(make(ava), image_size=SIDE)


def test_settings_that_contradict_the_benchmark_are_refused(ava: SimpleNamespace) -> None:
    scenario = by_experience(ava, [dotted(ava)], [dotted(ava)])
    with pytest.raises(BenchmarkError, match="tasks=5 but the Avalanche benchmark has tasks=1"):
        from_avalanche(scenario, image_size=SIDE, tasks=5)
    with pytest.raises(BenchmarkError, match="normalise"):
        from_avalanche(scenario, image_size=SIDE, normalise="none")


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
RGB = np.stack([GREY, GREY // 2, 255 - GREY], axis=-1)


@pytest.mark.parametrize(
    ("image", "pixels"),
    [
        (Image.fromarray(GREY), np.stack([GREY] * 3, -1)),
        (Image.fromarray(RGB), RGB),
        (GREY, np.stack([GREY] * 3, -1)),
        (RGB, RGB),
        (RGB / 255, RGB),
        (torch.from_numpy(GREY), np.stack([GREY] * 3, -1)),
        (torch.from_numpy(GREY)[None], np.stack([GREY] * 3, -1)),
        (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1).float() / 255, RGB),
    ],
)
def test_images_of_every_kind_become_the_same_pixels(image: Any, pixels: np.ndarray) -> None:
    got = as_pixels(image)
    assert got.dtype == np.uint8 and np.array_equal(got, pixels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("CMYK", (4, 4)), "mode 'CMYK'"),
        (np.full((4, 4), 200.0), "from 200 to 200"),
        (np.full((4, 4), np.nan), "from nan to nan"),
        (torch.zeros(4, 4, dtype=torch.int64), "type int64"),
        (torch.zeros(2, 4, 4), r"shape \(2, 4, 4\)"),
        ("a path", "type str"),
    ],
)
def test_other_images_are_refused(image: Any, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        as_pixels(image)


# -- plugins ---------------------------------------------------------------------------------------------------------


class Split3(AvalancheBenchmark):
    name = "split3"
    card = BenchmarkCard("Split", "made here", "none", "noise")
    shift = 0.0

    def scenario(self) -> Any:
        torch.manual_seed(0)
        images = torch.rand(12, 1, SIDE, SIDE) + self.shift
        data = [self.data(images[part], [label, label + 1] * 3) for part, label in ((slice(6), 2), (slice(6, 12), 0))]
        return self.ava.benchmark_from_datasets(train=data, test=data)

    def data(self, images: Any, targets: list[int]) -> Any:
        return self.ava.as_classification_dataset(Shown(images, targets))

    ava: Any = None


def opened(benchmark: type[Split3], folder: Path, **settings: Any) -> Split3:
    return benchmark(benchmark.Config.model_validate({"image_size": SIDE, **settings}), folder)  # type: ignore[arg-type]


class Domains2(Split3):
    """The same two classes in two experiences; with ``one_test``, one test experience for both."""

    name = "domains2"
    one_test = False

    def scenario(self) -> Any:
        torch.manual_seed(0)
        images = torch.rand(12, 1, SIDE, SIDE)
        data = [self.data(images[part], [2, 3] * 3) for part in (slice(6), slice(6, 12))]
        return self.ava.benchmark_from_datasets(train=data, test=data[:1] if self.one_test else data)


@pytest.mark.parametrize("one_test", [False, True])
def test_a_plugin_of_domains_is_found_again_by_its_content(
    ava: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_test: bool
) -> None:
    monkeypatch.setattr(Split3, "ava", ava)
    monkeypatch.setattr(Domains2, "one_test", one_test)
    first = opened(Domains2, tmp_path)
    first.prepare()
    pinned = first.pinned()
    assert (pinned.tasks, pinned.split, first.protocol, first.class_names) == (2, None, "domain", ("2", "3"))
    monkeypatch.setattr(Domains2, "scenario", lambda self: pytest.fail("a pinned benchmark needs only its cache"))
    again = Domains2(pinned, tmp_path)
    again.prepare()
    stream = build_stream(again, order_seed=4)
    assert stream.domains == ("experience 0", "experience 1") and again.task_sizes() == (2, 2)
    assert stream.split_hash == build_stream(first, 0).split_hash
    assert (stream.tests[0] is stream.tests[1]) == one_test


def test_a_plugin_is_pinned_by_its_content(
    ava: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Split3, "ava", ava)
    before = generator_states()
    first = opened(Split3, tmp_path)
    first.prepare()
    assert generator_states() == before
    pinned = first.pinned()
    assert (pinned.tasks, pinned.split, first.task_sizes(), first.class_names) == (
        2,
        (2, 2),
        (2, 2),
        ("2", "3", "0", "1"),
    )
    monkeypatch.setattr(Split3, "scenario", lambda self: pytest.fail("a pinned benchmark needs only its cache"))
    again = Split3(pinned, tmp_path)
    again.prepare()
    stream = build_stream(again, order_seed=4)
    assert stream.class_names == first.class_names and stream.split_hash == build_stream(first, 0).split_hash
    with pytest.raises(BenchmarkError, match="no intact images"):
        Split3(pinned, tmp_path / "elsewhere").prepare()


def test_a_changed_plugin_is_another_benchmark(
    ava: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Split3, "ava", ava)
    content = opened(Split3, tmp_path).pinned().content
    assert content == opened(Split3, tmp_path).pinned().content
    monkeypatch.setattr(
        Split3, "data", lambda self, images, targets: ava.as_classification_dataset(Shown(images / 2, targets))
    )
    assert content != opened(Split3, tmp_path).pinned().content


def test_mistakes_in_a_plugin_are_one_sentence(
    ava: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BenchmarkError, match=r"split3: scenario\(\) failed with AttributeError"):
        opened(Split3, tmp_path).prepare()
    monkeypatch.setattr(Split3, "ava", ava)
    monkeypatch.setattr(Split3, "shift", 0.5)
    with pytest.raises(BenchmarkError, match=r"where \[0, 1\] is understood"):
        opened(Split3, tmp_path).prepare()
    assert not list(tmp_path.rglob("*.images"))
    with pytest.raises(ValueError, match="the order of classes is that of the Avalanche benchmark"):
        opened(Split3, tmp_path, class_order="shuffled")


def test_images_that_change_between_readings_are_refused(
    ava: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Restless(Shown):
        def __getitem__(self, index: int) -> Any:
            return np.random.default_rng().random((SIDE, SIDE)), self.targets[index]

    monkeypatch.setattr(Split3, "ava", ava)
    monkeypatch.setattr(
        Split3, "data", lambda self, images, targets: ava.as_classification_dataset(Restless(images, targets))
    )
    with pytest.raises(BenchmarkError, match="differ from one reading to the next"):
        opened(Split3, tmp_path).prepare()


def test_the_documented_plugin_runs(ava: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smope_bench import run_all
    from smope_bench.harness.records.record import Record
    from smope_bench.harness.records.store import Store

    page = (ROOT / "docs" / "avalanche.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(# split_digits\.py\n.*?)```", page, re.DOTALL)
    assert found is not None and found[1].count("\n") < 25
    monkeypatch.chdir(tmp_path)
    Path("split_digits.py").write_text(found[1], encoding="utf-8")
    options = ["--methods", "ncm", "--seeds", "0", "--workers", "1", "--device", "cpu"]
    assert run_all.main(["run", "smoke", "--benchmarks", "split_digits", "--plugin", "split_digits.py", *options]) == 0
    (record,) = Store(Path("results")).scan()
    assert isinstance(record, Record)
    assert record.result["class_names"] == ["8", "9", "6", "7", "4", "5", "2", "3", "0", "1"]
    assert record.result["spec"]["benchmark"]["config"]["split"] == [2] * 5
    assert np.mean(record.result["accuracy_matrix"][-1]) > 50
