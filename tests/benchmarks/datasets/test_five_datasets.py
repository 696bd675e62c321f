"""``five_datasets`` and ``small_sets``: five files' formats to the pixel, whole sets as tasks, and nothing damaged accepted."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from smope_bench.benchmarks.datasets.published.five_datasets import REMOTES, SETS, FiveDatasets, FiveDatasetsConfig
from smope_bench.benchmarks.datasets.small_sets import SmallSets, SmallSetsConfig
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.stream import build_stream

Tree = dict[str, bytes]
SMALL = {"image_size": 32, "test_resize": None, "augment": {"kind": "none"}}


@pytest.fixture(scope="module")
def tree(layouts: ModuleType) -> Tree:
    return layouts.five_datasets()


def made(layouts: ModuleType, tmp_path: Path, tree: Tree, **config: object) -> FiveDatasets:
    kind = layouts.five_datasets_over(FiveDatasets, tmp_path / "web", tree)
    return kind(FiveDatasetsConfig.model_validate(SMALL | config), tmp_path / "data")


def test_the_digests_are_those_that_torchvision_checks() -> None:
    from torchvision.datasets import CIFAR10, MNIST, SVHN, FashionMNIST

    known = {remote.name: remote.digest for remote in REMOTES}
    for split in ("train", "test"):
        _, name, md5 = SVHN.split_list[split]
        assert known[name] == f"md5:{md5}"
    assert known[CIFAR10.filename] == f"md5:{CIFAR10.tgz_md5}"
    for prefix, kind in (("mnist-", MNIST), ("fashion-", FashionMNIST)):
        assert all(known[prefix + name] == f"md5:{md5}" for name, md5 in kind.resources)


def test_pixels_labels_and_names_of_all_five(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    said: list[str] = []
    images = made(layouts, tmp_path, tree)
    images.prepare(said.append)
    train, test = images.image_set("train"), images.image_set("test")
    # Ten images a set to train on, fifty of CIFAR-10; one a class to test on.
    assert np.bincount(train.labels).tolist() == [1] * 20 + [5] * 10 + [1] * 20
    assert np.bincount(test.labels).tolist() == [1] * 50
    shown = {label: torch.from_numpy(_pixels(images, row)) for row, label in enumerate(train.labels.tolist())}
    assert shown[1][4, 9].tolist() == [4] * 3, "SVHN's first image is of digit 1"
    assert shown[0][4, 9].tolist() == [13] * 3, "SVHN's label 10 is the digit 0"
    assert shown[10].shape == (28, 28, 3) and shown[20].shape == (32, 32, 3)
    assert shown[27][5, 9].tolist() == [75, 5, 9], "channel-major rows; the last batch comes last"
    assert shown[32][0, 0].tolist() == [40] * 3, "notMNIST's C"
    assert images.class_names[9] == "SVHN 9" and images.class_names[30] == "notMNIST A"
    assert images.class_names[40] == "Fashion-MNIST T-shirt/top"
    notes = " ".join(images.notes())
    assert all(name in notes for name in layouts.UNREADABLE_LETTERS) and "left out" in notes
    assert "10 pictures to train and 10 to test on; the literature has 16,853 and 1,873" in notes
    assert any("reading CIFAR-10" in line for line in said)


def _pixels(images: FiveDatasets, row: int) -> np.ndarray:
    import io

    from PIL import Image

    (file,) = images.image_set("train").images[np.array([row])].files
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).copy()


def test_tasks_are_whole_sets_in_a_fixed_or_a_seeded_order(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    images.prepare()
    for seed in (0, 42):
        tasks = build_stream(images, seed).tasks
        assert [task.names[0].split(" ")[0] for task in tasks] == list(SETS)
        assert [len(task.train) for task in tasks] == [10, 10, 50, 10, 10], "unequal tasks, each whole"
    seeded = made(layouts, tmp_path, tree, task_order="seeded")
    firsts = {seed: [SETS[label // 10] for label in seeded.class_order(seed)[::10]] for seed in (40, 42, 44)}
    assert firsts[42] == ["notMNIST", "MNIST", "CIFAR-10", "Fashion-MNIST", "SVHN"]
    assert firsts[40] == firsts[44] == ["CIFAR-10", "MNIST", "Fashion-MNIST", "SVHN", "notMNIST"]
    assert seeded.class_order(42)[:3] == (30, 31, 32), "classes inside a set are never shuffled"
    with pytest.raises(BenchmarkError, match="negative"):
        seeded.class_order(-1)


def test_the_published_slip_normalises_some_sets_only(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    plain, slipped = (made(layouts, tmp_path, tree, normalize_slip=slip) for slip in (False, True))
    plain.prepare()
    slipped.prepare()
    assert plain.content_hash() != slipped.content_hash()
    whole, marked = build_stream(plain, 0), build_stream(slipped, 0)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)))
    for place, (one, other) in enumerate(zip(whole.tests, marked.tests, strict=True)):
        raw, same = (view.take(slice(0, 10))[0] for view in (one, other))
        expected, seen = whole.transforms.test(raw), marked.transforms.test(same)
        torch.testing.assert_close(seen, (expected - mean) / std if place >= 2 else expected, rtol=0, atol=1e-6)
        drawn = marked.transforms.train(same, torch.Generator().manual_seed(0))
        assert torch.equal(drawn, seen), "training images are normalised alike"


@pytest.mark.parametrize("way", ["folder", "torchvision", "by hand"])
def test_ways_in(layouts: ModuleType, tmp_path: Path, tree: Tree, way: str) -> None:
    images = made(layouts, tmp_path, tree)
    there = images.downloads if way == "by hand" else tmp_path / "mine"
    for name, data in tree.items():
        moved = name.replace("mnist-", "MNIST/raw/").replace("fashion-", "FashionMNIST/raw/")
        path = there / (moved if way == "torchvision" else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        (tmp_path / "web" / name).unlink()  # nothing can be downloaded
    images.prepare(given=[] if way == "by hand" else [there])
    assert len(images.image_set("train").labels) == 90


def swapped(layouts: ModuleType, tree: Tree, name: str, data: bytes) -> Tree:
    return {**tree, name: data}


BAD = {
    "SVHN without labels": ("train_32x32.mat", lambda lay: lay.svhn([1, 2]), "SVHN: the train labels are 1, 2"),
    "no MATLAB file": ("test_32x32.mat", lambda lay: b"MATLAB no more", "cannot be read as a MATLAB file"),
    "a batch is lacking": (
        "cifar-10-python.tar.gz",
        lambda lay: lay.packed_tar({"cifar-10-batches-py/data_batch_1": lay.cifar10(1)}),
        "holds no cifar-10-batches-py/data_batch_2",
    ),
    "a pickle with a program": (
        "cifar-10-python.tar.gz",
        lambda lay: lay.packed_tar({"cifar-10-batches-py/data_batch_1": b"cos\nsystem\n(S'true'\ntR."}),
        "asks for os.system",
    ),
    "no letters": ("notMNIST.zip", lambda lay: lay.packed_zip({"notMNIST/x.txt": b"x"}), "has no pictures below"),
    "another unreadable letter": (
        "notMNIST.zip",
        lambda lay: lay.packed_zip(
            {
                "notMNIST/Train/A/a.png": lay.png(1),
                "notMNIST/Test/A/a.png": lay.png(2),
                "notMNIST/Test/B/b.png": b"\x89PNG",
            }
        ),
        "notMNIST/test/B/b.png",
    ),
    "other labels": (
        "mnist-t10k-labels-idx1-ubyte.gz",
        lambda lay: lay.zipped({"x": lay.idx(np.zeros(10, np.uint8))})["x.gz"],
        "MNIST: the test labels are 0, not 0 to 9",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_content_that_does_not_fit_is_refused_by_name(
    layouts: ModuleType, tmp_path: Path, tree: Tree, case: str
) -> None:
    name, data, said = BAD[case]
    images = made(layouts, tmp_path, {**tree, name: data(layouts)})
    with pytest.raises(BenchmarkError, match=said.replace("(", r"\(")):
        images.prepare()
    assert not [path for path in images.cache_parent.iterdir() if path.name != "downloads"]


def test_a_changed_archive_of_letters_is_known_by_its_git_blob(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    (tmp_path / "web" / "notMNIST.zip").write_bytes(layouts.packed_zip({"notMNIST/Train/A/a.png": layouts.png(0)}))
    with pytest.raises(BenchmarkError, match=r"has gitblob:[0-9a-f]{40}, expected gitblob:[0-9a-f]{40}"):
        images.prepare()


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (FiveDatasetsConfig, {"tasks": 4}, "greater than or equal to 5"),
        (FiveDatasetsConfig, {"split": [10] * 5}, "leave split out"),
        (FiveDatasetsConfig, {"class_order": "shuffled"}, "order the tasks by task_order"),
        (FiveDatasetsConfig, {"image_mode": "fast"}, "51 GB"),
        (FiveDatasetsConfig, {"normalize_slip": True, "task_order": "seeded"}, "fixed task_order"),
        (FiveDatasetsConfig, {"normalize_slip": True, "normalize": "half"}, "takes the place of normalize"),
        (SmallSetsConfig, {"tasks": 2}, "greater than or equal to 3"),
        (SmallSetsConfig, {"class_order": "numpy"}, "order the tasks by task_order"),
    ],
)
def test_settings_that_a_set_a_task_excludes(kind: type, values: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        kind(**values)


def test_small_sets_are_three_domains_of_unequal_size(tmp_path: Path) -> None:
    config = SmallSetsConfig(letters_per_class=3, symbols_per_class=2, test_per_class=1)
    images = SmallSets(config, tmp_path)
    images.prepare()
    train, test = images.image_set("train"), images.image_set("test")
    assert (len(train.labels), len(test.labels)) == images.expected_counts()
    assert np.bincount(train.labels)[10:].tolist() == [3] * 10 + [2] * 10
    stream = build_stream(images, 3)
    assert [len(task.train) for task in stream.tasks] == [len(train.labels) - 50, 30, 20]
    assert [task.names[0] for task in stream.tasks] == ["digits 0", "letters A", "renditions &"]
    order = [0, 1, 2]
    random.Random(3).shuffle(order)
    seeded = SmallSets(config.model_copy(update={"task_order": "seeded"}), tmp_path)
    assert [label // 10 for label in seeded.class_order(3)[::10]] == order
