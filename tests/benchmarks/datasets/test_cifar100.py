"""``cifar100``: the original archive to the pixel, whatever way it comes in, and nothing else."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from smope_bench.benchmarks.datasets.published.cifar100 import ARCHIVE, Cifar100, Cifar100Config
from smope_bench.benchmarks.download.safe_pickle import load_plain
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.writer import CacheWriter
from smope_bench.benchmarks.stream import build_stream

Tree = dict[str, bytes]


@pytest.fixture(scope="module")
def tree(layouts: ModuleType) -> Tree:
    return layouts.cifar100()


def made(layouts: ModuleType, tmp_path: Path, tree: Tree, **config: object) -> Cifar100:
    kind = layouts.cifar100_over(Cifar100, tmp_path / "web", tree)
    return kind(Cifar100Config.model_validate(config), tmp_path / "data")


def changed(layouts: ModuleType, tree: Tree, split: str, **entries: object) -> Tree:
    name = f"cifar-100-python/{split}"
    batch = pickle.loads(tree[name], encoding="latin1")
    return {**tree, name: layouts.python2_pickle(batch | entries)}


def test_the_fixture_is_a_pickle_of_python_2(layouts: ModuleType, tree: Tree) -> None:
    batch = pickle.loads(tree["cifar-100-python/train"], encoding="latin1")
    assert batch["data"].shape == (100, 3072) and batch["data"].dtype == np.uint8
    ours = load_plain(tree["cifar-100-python/train"], "train")
    assert (ours.pop("data") == batch.pop("data")).all() and ours == batch
    assert b"\x8c" not in tree["cifar-100-python/meta"][:60], "text as byte strings, not as unicode"


def test_pixels_labels_and_names(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    images.prepare()
    assert images.class_names == layouts.CIFAR_NAMES
    for split, (row, column) in (("train", (5, 9)), ("test", (9, 5))):
        part = images.image_set(split)  # type: ignore[arg-type]
        assert part.images.shape == (100, 32, 32, 3)
        assert part.labels.tolist() == list(range(100))
        # Channel-major rows: red first, each channel row by row.
        assert part.images[17, 5, 9].tolist() == [17, row, column]
    tasks = build_stream(images, 0).tasks
    assert [len(task.classes) for task in tasks] == [10] * 10
    assert tasks[0].names[:3] == ("thing_23", "thing_08", "thing_11")


@pytest.mark.parametrize("way", ["archive", "renamed", "folder of the archive", "unpacked", "beside", "by hand"])
def test_ways_in(layouts: ModuleType, tmp_path: Path, tree: Tree, way: str) -> None:
    images = made(layouts, tmp_path, tree)
    archive, there = tmp_path / "web" / ARCHIVE.name, tmp_path / "mine"
    there.mkdir()
    if way in ("unpacked", "beside"):
        layouts.unpack(there, tree)
    else:
        place = images.downloads if way == "by hand" else there
        place.mkdir(parents=True, exist_ok=True)
        (place / ("cifar.bin" if way == "renamed" else archive.name)).write_bytes(archive.read_bytes())
    archive.unlink()  # nothing can be downloaded
    given = {
        "archive": [there / archive.name],
        "renamed": [there / "cifar.bin"],
        "folder of the archive": [there],
        "unpacked": [there / "cifar-100-python"],
        "beside": [there],
        "by hand": [],
    }
    images.prepare(given=given[way])
    assert images.image_set("test").images[3, 1, 2].tolist() == [3, 2, 1]


def test_a_download_is_kept_and_the_second_call_needs_none(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    images.prepare()
    assert (images.downloads / ARCHIVE.name).is_file()
    content = images.content_hash()
    (images.downloads / ARCHIVE.name).unlink()
    (tmp_path / "web" / ARCHIVE.name).unlink()
    again = type(images)(images.config, images.root)
    again.prepare()
    assert again.content_hash() == content


def test_a_changed_file_of_an_unpacked_folder_is_refused(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    other = changed(layouts, tree, "test", batch_label="other")
    layouts.unpack(tmp_path / "mine", other)
    with pytest.raises(BenchmarkError, match=r"test in .*cifar-100-python is not the published file"):
        images.prepare(given=[tmp_path / "mine"])
    nothing_is_kept(images)


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "label out of range": ("train", {"fine_labels": [*range(99), 100]}, "label 100 lies outside 0..99"),
    "negative label": ("test", {"fine_labels": [*range(1, 100), -1]}, "label -1 lies outside"),
    "text for a label": ("test", {"fine_labels": [*range(99), "7"]}, "label '7' lies outside"),
    "a class without images": ("train", {"fine_labels": [*range(99), 0]}, "no image has the fine label 99"),
    "too few labels": ("train", {"fine_labels": list(range(99))}, "100 images do not have as many fine_labels"),
    "other rows": ("test", {"data": np.zeros((100, 3000), np.uint8)}, "3072 a row"),
    "no array": ("test", {"data": [1, 2, 3]}, "data is not an array"),
    "names": ("meta", {"fine_label_names": ["a"]}, "meta does not name 100 fine labels"),
}


@pytest.mark.parametrize("case", BAD)
def test_content_that_does_not_fit(layouts: ModuleType, tmp_path: Path, tree: Tree, case: str) -> None:
    split, entries, message = BAD[case]
    images = made(layouts, tmp_path, changed(layouts, tree, split, **entries))
    with pytest.raises(BenchmarkError, match=message):
        images.prepare()
    nothing_is_kept(images)


def nothing_is_kept(images: Cifar100) -> None:
    left = [path.name for path in images.cache_parent.iterdir() if path.name != "downloads"]
    assert left == []
    with pytest.raises(BenchmarkError, match="no prepared images"):
        images.image_set("train")


@pytest.mark.parametrize("lost", ["train", "meta"])
def test_a_file_is_lacking(layouts: ModuleType, tmp_path: Path, tree: Tree, lost: str) -> None:
    rest = {name: data for name, data in tree.items() if not name.endswith(f"/{lost}")}
    with pytest.raises(BenchmarkError, match=f"holds no cifar-100-python/{lost}; fetch the archive again"):
        made(layouts, tmp_path, rest).prepare()


def test_an_archive_that_is_cut_off(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    kind = layouts.cifar100_over(Cifar100, tmp_path / "web", tree)
    archive = tmp_path / "web" / ARCHIVE.name
    archive.write_bytes(archive.read_bytes()[:3000])
    cut = layouts.over(kind, {archive.name: archive})  # its digest fits, so that the reader has to notice
    images = cut(Cifar100Config(), tmp_path / "data")
    with pytest.raises(BenchmarkError, match=r"cifar-100-python\.tar\.gz is cut off or damaged"):
        images.prepare()
    nothing_is_kept(images)


def test_another_archive_is_refused(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    other = layouts.tar(tmp_path / "other" / ARCHIVE.name, {"cifar-100-python/train": b"?"})
    with pytest.raises(BenchmarkError, match=r"is not the published cifar-100-python\.tar\.gz"):
        images.prepare(given=[other])


@pytest.mark.parametrize("name", ["other.txt", "other.gz", "folder"])
def test_what_is_none_of_its_files_starts_no_download(
    layouts: ModuleType, tmp_path: Path, tree: Tree, name: str
) -> None:
    images, other = made(layouts, tmp_path, tree), tmp_path / "mine" / name
    layouts.unpack(tmp_path / "mine", {f"{name}/other.txt" if name == "folder" else name: b"?"})
    with pytest.raises(
        BenchmarkError, match=rf"{name} is none of its files and holds none: give cifar-100-python\.tar\.gz"
    ):
        images.prepare(given=[other])
    assert not images.downloads.exists()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must never be printed",))


EVIL = {
    "a call": (pickle.dumps({"data": Evil()}, 2), r"asks for __builtin__\.print"),
    "a huge array": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(J\xff\xff\xff\x7ftU\x01bt" + b"R.",
        "builds an array in an unknown way",
    ),
    "objects in an array": (b"\x80\x02cnumpy\ndtype\n(U\x01OK\x00K\x01tR.", "array of 'O' and not of bytes"),
    "the array type called": (b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.", "damaged"),
    "a persistent id": (b"\x80\x02U\x01xQ.", "refers to something outside"),
    "nothing": (b"", "damaged"),
    "half": (b"\x80\x02}(U\x04dat", "damaged"),
}


@pytest.mark.parametrize("case", EVIL)
def test_pickles_that_want_more_than_data(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, message = EVIL[case]
    with pytest.raises(BenchmarkError, match=f"^train .*{message}"):
        load_plain(data, "train")
    assert capsys.readouterr().out == ""


def test_reading_an_array_leaves_numpy_as_it_is(layouts: ModuleType) -> None:
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = load_plain(layouts.python2_pickle({"data": rows}), "it")["data"]
    assert (found == rows).all() and found.dtype == np.uint8
    assert np.dtype("u1") == np.dtype(np.uint8) and np.dtype(np.uint8).byteorder == "|"


def test_a_full_disk(layouts: ModuleType, tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    images = made(layouts, tmp_path, tree)
    monkeypatch.setattr(CacheWriter, "add", full)
    with pytest.raises(BenchmarkError, match=r"no space is left to keep images under .*; free some or choose another"):
        images.prepare()
    monkeypatch.undo()
    nothing_is_kept(images)


def test_what_is_said_without_images(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError) as said:
        Cifar100(Cifar100Config(), tmp_path).image_set("train")
    for part in (
        "data prepare cifar100",
        "169.0 MB",
        "cs.toronto.edu",
        "--from",
        str(tmp_path / "cifar100" / "downloads"),
    ):
        assert part in str(said.value)


def test_published_digests_are_those_of_torchvision() -> None:
    from torchvision.datasets import CIFAR100

    assert ARCHIVE.urls[0] == CIFAR100.url and ARCHIVE.digest == f"md5:{CIFAR100.tgz_md5}"
    assert Cifar100.digests == {**dict([*CIFAR100.train_list, *CIFAR100.test_list]), "meta": CIFAR100.meta["md5"]}


def test_torchvision_reads_the_same(layouts: ModuleType, tmp_path: Path, tree: Tree, monkeypatch: Any) -> None:
    from torchvision.datasets import CIFAR100

    images = made(layouts, tmp_path, tree)
    images.prepare()
    layouts.unpack(tmp_path / "tv", tree)
    for name, split in (("train_list", "train"), ("test_list", "test")):
        monkeypatch.setattr(CIFAR100, name, [[split, hashlib.md5(tree[f"cifar-100-python/{split}"]).hexdigest()]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": type(images).digests["meta"]})
    theirs = CIFAR100(tmp_path / "tv", train=True)
    assert (np.asarray(images.image_set("train").images) == theirs.data).all()
    assert theirs.targets == images.image_set("train").labels.tolist()
    assert tuple(theirs.classes) == images.class_names
