"""``fashion_mnist``: IDX files from wherever people have them, read strictly."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from smope_bench.benchmarks.datasets.published.fashion_mnist import (
    FashionMnist,
    FashionMnistConfig,
    check_pair,
    read_idx,
    unpacked,
)
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.stream import build_stream

Tree = dict[str, bytes]


@pytest.fixture(scope="module")
def tree(layouts: ModuleType) -> Tree:
    return layouts.fashion_mnist()


def made(layouts: ModuleType, tmp_path: Path, tree: Tree, **config: object) -> FashionMnist:
    kind = layouts.fashion_mnist_over(FashionMnist, tmp_path / "web", tree)
    return kind(FashionMnistConfig.model_validate(config), tmp_path / "data")


def offline(tmp_path: Path) -> None:
    for path in (tmp_path / "web").iterdir():
        path.unlink()


def test_pixels_and_labels(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    images.prepare()
    train, test = images.image_set("train"), images.image_set("test")
    assert train.images.shape == (10, 28, 28, 3) and train.labels.tolist() == list(range(10))
    assert train.images[3, 20, 5].tolist() == [35, 35, 35] and test.images[3, 20, 5].tolist() == [36, 36, 36]
    tasks = build_stream(images, 0).tasks
    assert [len(task.classes) for task in tasks] == [2] * 5 and images.class_names[9] == "Ankle boot"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", ["", "raw", "FashionMNIST/raw"])
def test_folders_of_torchvision(layouts: ModuleType, tmp_path: Path, tree: Tree, below: str, packed: bool) -> None:
    images = made(layouts, tmp_path, tree)
    offline(tmp_path)
    layouts.unpack(tmp_path / "tv" / below, layouts.zipped(tree) if packed else tree)
    images.prepare(given=[tmp_path / "tv"])
    assert len(images.image_set("test").labels) == 10


def test_four_files_by_name(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    offline(tmp_path)
    layouts.unpack(tmp_path / "mine", tree)
    images.prepare(given=sorted((tmp_path / "mine").iterdir()))


def test_the_package_of_debian_is_found_and_holds_to_the_content(
    layouts: ModuleType, tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian compresses the files anew: other bytes, the same content."""
    images = made(layouts, tmp_path, tree)
    offline(tmp_path)
    packed = {f"{name}.gz": gzip.compress(data, 1, mtime=7) for name, data in tree.items()}
    assert packed != layouts.zipped(tree)
    monkeypatch.setattr(type(images), "packaged", (layouts.unpack(tmp_path / "usr", packed),))
    said: list[str] = []
    images.prepare(said.append)
    assert sum("is intact" in line and str(tmp_path / "usr") in line for line in said) == 4


def test_files_packed_anew_are_no_damaged_downloads(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    """What ``prepare`` accepts from the downloads folder, ``verify`` does not call damaged."""
    kind = type(made(layouts, tmp_path, tree))
    name = "t10k-labels-idx1-ubyte"
    remote = next(remote for remote in kind.remotes if remote.name == f"{name}.gz")
    for content, words in ((tree[name], ""), (tree[name] + b"x", "expected sha256:")):
        layouts.unpack(tmp_path / "downloads", {remote.name: gzip.compress(content, 1, mtime=7)})
        fault = kind.download_fault(tmp_path / "downloads" / remote.name, remote, tmp_path / "downloads")
        assert words in fault and bool(fault) is bool(words)


def test_a_bad_file_placed_by_hand_is_replaced_by_a_download(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    images.downloads.mkdir(parents=True)
    (images.downloads / "t10k-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8bnonsense")
    images.prepare()
    assert images.image_set("test").labels.tolist() == list(range(10))


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08\x00cut", gzip.compress(b"other", mtime=0), b""])
def test_a_given_file_that_is_not_it(layouts: ModuleType, tmp_path: Path, tree: Tree, content: bytes) -> None:
    images = made(layouts, tmp_path, tree)
    mine = layouts.unpack(tmp_path / "mine", {"train-images-idx3-ubyte.gz": content})
    with pytest.raises(
        BenchmarkError, match=r"train-images-idx3-ubyte\.gz (cannot be read|does not hold the published)"
    ):
        images.prepare(given=[mine])
    assert [path.name for path in images.cache_parent.iterdir() if path.name != "downloads"] == []


def test_a_file_that_unpacks_without_end(tmp_path: Path) -> None:
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(65 << 20), 1))
    with pytest.raises(BenchmarkError, match=r"bomb\.gz unpacks to more than 64 MiB"):
        unpacked(tmp_path / "bomb.gz")


def test_idx_files_are_read_strictly(layouts: ModuleType) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    data = layouts.idx(array)
    assert (read_idx("it", data, 3) == array).all()
    bad: list[tuple[bytes, int, str]] = [
        (data, 1, "not an IDX file of bytes with 1 axes"),
        (b"\0\0\x0d\x03" + data[4:], 3, "not an IDX file of bytes"),
        (b"\x1f\x8b" + data[2:], 3, "not an IDX file"),
        (data[:10], 3, "not an IDX file"),
        (data[:-1], 3, "it says|says 2 x 3 x 4, which takes 40 bytes, and has 39"),
        (data + b"\0", 3, "and has 41"),
        (b"\0\0\x08\x03" + b"\xff" * 12, 3, "and has 16"),
        (b"", 1, "not an IDX file"),
    ]
    for content, axes, message in bad:
        with pytest.raises(BenchmarkError, match=message):
            read_idx("it", content, axes)


def test_images_and_labels_must_belong_together() -> None:
    images, labels = np.zeros((10, 28, 28), np.uint8), np.arange(10, dtype=np.uint8)
    check_pair("train", images, labels)
    bad: list[tuple[Any, Any, str]] = [
        (images[:, :27], labels, "27 x 28 pixels"),
        (images[:9], labels, "9 train images have 10 labels"),
        (images, labels + np.uint8(1), "a train label is 10; there are 10 classes"),
        (images, np.minimum(labels, 8), "no train image shows class 9, 'Ankle boot'"),
    ]
    for pixels, ids, message in bad:
        with pytest.raises(BenchmarkError, match=message):
            check_pair("train", pixels, ids)


def test_published_digests_are_those_of_torchvision() -> None:
    from torchvision.datasets import FashionMNIST

    theirs = {name: f"md5:{md5}" for name, md5 in FashionMNIST.resources}
    assert {remote.name: remote.digest for remote in FashionMnist.remotes} == theirs
    assert list(FashionMnist(FashionMnistConfig(), Path()).class_names) == FashionMNIST.classes
    assert all(remote.urls[0].startswith(FashionMNIST.mirrors[0]) for remote in FashionMnist.remotes)


def test_the_real_files_where_they_are_installed(tmp_path: Path) -> None:
    if not FashionMnist.packaged[0].is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    images = FashionMnist(FashionMnistConfig(), tmp_path)
    images.prepare()
    assert [len(images.image_set(split).labels) for split in ("train", "test")] == [60_000, 10_000]


def test_what_is_said_without_images(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError) as said:
        FashionMnist(FashionMnistConfig(), tmp_path).image_set("train")
    for part in (
        "data prepare fashion_mnist",
        "30.9 MB",
        "dataset-fashion-mnist",
        "t10k-labels-idx1-ubyte",
        "--from PATH",
    ):
        assert part in str(said.value)
