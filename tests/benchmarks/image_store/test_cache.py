"""The image cache: published whole or not at all, and never trusted."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store import cache as image_cache
from smope_bench.benchmarks.image_store.arrays import StoredArray
from smope_bench.benchmarks.image_store.cache import (
    CacheWriter,
    ImageCache,
    Part,
    build_caches,
    cache_folder,
    open_cache,
    verify_caches,
)
from smope_bench.benchmarks.image_store.stores import USE, note_use

RECIPE = {"benchmark": "test", "seed": 0}
PART = Part(RECIPE)
NAMES = ("a", "b")


def build_cache(parent: Path, part: Part, names: tuple[str, ...], fill: Callable[[CacheWriter], None]) -> ImageCache:
    return build_caches(parent, [part], names, lambda writers: fill(writers[0]))[0]


def images(count: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + count * 12, dtype=np.int64).astype(np.uint8).reshape(count, 2, 2, 3)


def fill(writer: CacheWriter) -> None:
    writer.add("train", images(3), np.array([0, 1, 0]))
    writer.add("train", images(1, 50), np.array([1]))
    writer.add("test", images(2, 100), np.array([1, 0]))


def build(parent: Path) -> ImageCache:
    return build_cache(parent, PART, NAMES, fill)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    built = build(tmp_path)
    opened = open_cache(tmp_path, PART, verify=True)
    assert opened is not None and opened == built and opened.folder == cache_folder(tmp_path, RECIPE)
    train, test = opened.image_set("train"), opened.image_set("test")
    np.testing.assert_array_equal(train.images, np.concatenate([images(3), images(1, 50)]))
    assert train.labels.tolist() == [0, 1, 0, 1] and train.labels.dtype == np.int64
    np.testing.assert_array_equal(test.images, images(2, 100))
    assert isinstance(train.images, StoredArray) and train.images.shape == (4, 2, 2, 3)
    assert opened.class_names == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == [built.folder.name]


def test_the_content_hash_follows_the_content_alone(tmp_path: Path) -> None:
    def other(writer: CacheWriter) -> None:
        fill(writer)
        writer.add("test", images(1), np.array([0]))

    first = build(tmp_path / "one").content_hash
    assert build_cache(tmp_path / "two", Part({"recipe": 2}), NAMES, fill).content_hash == first
    assert build_cache(tmp_path / "three", PART, NAMES, other).content_hash != first
    assert build_cache(tmp_path / "four", PART, ("a", "c"), fill).content_hash != first


def test_nothing_is_opened_where_nothing_is(tmp_path: Path) -> None:
    assert open_cache(tmp_path, PART) is None
    build(tmp_path)
    assert open_cache(tmp_path, Part({**RECIPE, "seed": 1})) is None


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: (folder / "manifest.json").write_text('{"schema_'),
    "a list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "not text": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "another schema": lambda folder: edit_manifest(folder, schema_version=0),
    "another recipe": lambda folder: edit_manifest(folder, recipe={"seed": 1}),
    "other counts": lambda folder: edit_manifest(folder, counts={"train": 5, "test": 2}),
    "no files": lambda folder: edit_manifest(folder, files={}),
    "missing images": lambda folder: (folder / "train.images").unlink(),
    "truncated images": lambda folder: os.truncate(folder / "train.images", 40),
    "grown labels": lambda folder: (folder / "test.labels").write_bytes(bytes(24)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_cache_that_does_not_fit_is_refused_and_made_anew(tmp_path: Path, damage: str) -> None:
    whole = build(tmp_path)
    DAMAGE[damage](whole.folder)
    assert open_cache(tmp_path, PART) is None
    assert build(tmp_path).content_hash == whole.content_hash
    assert open_cache(tmp_path, PART, verify=True) is not None
    assert [path.name for path in tmp_path.iterdir()] == [whole.folder.name]


@pytest.mark.parametrize("name", ["train.images", "test.labels"])
def test_one_wrong_bit_is_found_when_verifying(tmp_path: Path, name: str) -> None:
    folder = build(tmp_path).folder
    flip_byte(folder / name)
    assert open_cache(tmp_path, PART, verify=True) is None
    build(tmp_path)
    assert open_cache(tmp_path, PART, verify=True) is not None


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def broken(writer: CacheWriter) -> None:
        fill(writer)
        raise BenchmarkError("picture 7 is damaged")

    with pytest.raises(BenchmarkError, match="picture 7"):
        build_cache(tmp_path, PART, NAMES, broken)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_is_not_taken_for_a_cache_and_is_swept_later(tmp_path: Path) -> None:
    old, recent = (tmp_path / f".{cache_folder(tmp_path, RECIPE).name}-{name}" for name in ("old", "new"))
    for folder in (old, recent):
        folder.mkdir()
        (folder / "train.images").write_bytes(b"half")
    os.utime(old, (0, time.time() - 2 * image_cache.ABANDONED_AFTER_S))
    assert open_cache(tmp_path, PART) is None
    build(tmp_path)
    assert not old.exists() and recent.exists()


def test_the_second_of_two_builders_takes_what_the_first_has_published(tmp_path: Path) -> None:
    def overtaken(writer: CacheWriter) -> None:
        build(tmp_path)
        fill(writer)

    inode = []

    def watched(writer: CacheWriter) -> None:
        overtaken(writer)
        inode.append(cache_folder(tmp_path, RECIPE).stat().st_ino)

    cache = build_cache(tmp_path, PART, NAMES, watched)
    assert cache.folder.stat().st_ino == inode[0]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BenchmarkError, match=r"^no space is left to keep images under .*another data folder$"):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_writing_to_a_full_device_raises_and_does_not_kill(tmp_path: Path) -> None:
    def onto_full(writer: CacheWriter) -> None:
        (tmp_folder,) = tmp_path.iterdir()
        (tmp_folder / "train.images").unlink()
        writer._files["train.images"]._file.close()
        writer._files["train.images"]._file = Path("/dev/full").open("wb")  # noqa: SIM115 - the writer closes it
        fill(writer)

    with pytest.raises(BenchmarkError, match="no space is left"):
        build_cache(tmp_path, PART, NAMES, onto_full)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(BenchmarkError, match=r"cannot be kept under .* choose another data folder"):
        build(tmp_path / "data" / "test")


def test_a_split_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="there are no test images"):
        build_cache(tmp_path, PART, NAMES, lambda writer: writer.add("train", images(1), np.array([0])))


@pytest.mark.parametrize(
    ("batch", "labels", "named"),
    [
        (images(1).astype(np.float32), [0], "float32"),
        (images(1)[..., :1], [0], r"\(1, 2, 2, 1\)"),
        (images(2), [0], "1 labels"),
        (images(1), [2], "outside the 2 classes"),
        (images(1), [-1], "outside the 2 classes"),
        (np.zeros((1, 3, 2, 3), np.uint8), [0], "beside images of"),
    ],
)
def test_a_writer_takes_only_images_with_labels(tmp_path: Path, batch: np.ndarray, labels: list, named: str) -> None:
    def wrong(writer: CacheWriter) -> None:
        fill(writer)
        writer.add("train", batch, np.array(labels))

    with pytest.raises(ValueError, match=named):
        build_cache(tmp_path, PART, NAMES, wrong)


def test_two_caches_are_filled_in_one_pass_and_published_apart(tmp_path: Path) -> None:
    parts = [Part({**RECIPE, "part": split}, splits=(split,)) for split in ("train", "test")]

    def both(writers: Sequence[CacheWriter]) -> None:
        for writer in writers:
            writer.add(writer.part.splits[0], images(3), np.array([0, 1, 0]))

    caches = build_caches(tmp_path, parts, NAMES, both)
    assert [sorted(cache.manifest["files"]) for cache in caches] == [
        ["train.images", "train.labels"],
        ["test.images", "test.labels"],
    ]
    (caches[0].folder / "manifest.json").unlink()
    assert open_cache(tmp_path, parts[0]) is None and open_cache(tmp_path, parts[1], verify=True) is not None


def test_every_cache_is_read_through_whatever_it_is_of(tmp_path: Path) -> None:
    whole, spoilt = build(tmp_path), build_cache(tmp_path, Part({"other": 1}), NAMES, fill)
    flip_byte(spoilt.folder / "test.images")
    (tmp_path / "downloads").mkdir()
    states = {state.name: state for state in verify_caches(tmp_path)}
    assert {name: state.state for name, state in states.items()} == {
        whole.folder.name: "intact",
        spoilt.folder.name: "damaged",
    }
    assert states[whole.folder.name].bytes == sum(path.stat().st_size for path in whole.folder.iterdir())
    (spoilt.folder / "manifest.json").write_text("[]")
    assert [state.state for state in verify_caches(tmp_path)].count("damaged") == 1
    whole.folder.rename(tmp_path / ("0" * 16))
    assert [state.state for state in verify_caches(tmp_path)] == ["damaged", "damaged"]
    assert list(verify_caches(tmp_path / "nothing")) == []


def test_images_are_for_all_whom_the_user_s_mask_lets_read(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = build(tmp_path).folder
        note_use(folder, tmp_path)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644} and (folder / USE).exists()


def test_a_store_that_may_not_be_entered_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path)

    def refuse(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(BenchmarkError, match=r"cannot be read \(Permission denied\); make it readable, or choose"):
        list(verify_caches(tmp_path))
