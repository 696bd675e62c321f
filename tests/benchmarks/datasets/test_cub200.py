"""``cub200``: the official split to the picture, and text files that do not agree."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from smope_bench.benchmarks.base import Split
from smope_bench.benchmarks.datasets.published.cub200 import Cub200
from smope_bench.benchmarks.download.published_files import PaperPictureConfig
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.writer import CacheWriter
from smope_bench.benchmarks.stream import build_stream

Tree = dict[str, bytes]


@pytest.fixture(scope="module")
def tree(layouts: ModuleType) -> Tree:
    return layouts.cub200(per_class=3)


def made(layouts: ModuleType, tmp_path: Path, tree: Tree, **config: object) -> Cub200:
    kind = layouts.cub200_over(Cub200, tmp_path / "web", tree)
    return kind(PaperPictureConfig.model_validate(config), tmp_path / "data")


def colours(images: Cub200, split: Split) -> list[tuple[int, int, int]]:
    part = images.image_set(split)
    files = part.images[np.arange(len(part.labels))].files
    pixels = [np.asarray(Image.open(io.BytesIO(file)))[0, 0].astype(int).tolist() for file in files]
    return [(label, red, green) for label, (red, green, _) in zip(part.labels.tolist(), pixels, strict=True)]


def test_ids_names_and_split(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    images.prepare()
    assert images.class_names[0] == "001.Bird_1" and len(images.class_names) == 200
    for split, greens in (("train", {0}), ("test", {40, 80})):
        seen = colours(images, split)  # type: ignore[arg-type]
        assert len(seen) == 200 * len(greens)
        for label, red, green in seen:
            assert abs(red - (label + 1)) <= 4, "the id is the official one less one"
            assert min(abs(green - wanted) for wanted in greens) <= 4
    tasks = build_stream(images, 0).tasks
    assert len(tasks) == 10 and tasks[0].names[0] == "132.Bird_132"


@pytest.mark.parametrize("way", ["given folder", "given parent", "given archive", "by hand"])
def test_ways_in(layouts: ModuleType, tmp_path: Path, tree: Tree, way: str) -> None:
    images = made(layouts, tmp_path, tree)
    archive = tmp_path / "web" / "CUB_200_2011.tgz"
    moved = tmp_path / "mine" / "my birds.tgz"
    moved.parent.mkdir()
    archive.rename(moved)
    place = images.downloads if way == "by hand" else moved.parent
    layouts.unpack(place, tree)
    ways = {"given folder": [place / "CUB_200_2011"], "given parent": [place], "given archive": [moved], "by hand": []}
    images.prepare(given=ways[way])
    assert len(images.image_set("train").labels) == 200


def text(tree: Tree, name: str, old: str, new: str) -> Tree:
    key = f"CUB_200_2011/{name}.txt"
    assert tree[key].count(old.encode()) >= 1
    return {**tree, key: tree[key].replace(old.encode(), new.encode(), 1)}


PICTURE = "CUB_200_2011/images/001.Bird_1/Bird_1_0000_796001.jpg"
BROKEN = {
    "label 0": (lambda tree: text(tree, "image_class_labels", "1 1\n", "1 0\n"), "gives picture 1 the class '0'"),
    "label 201": (lambda tree: text(tree, "image_class_labels", "600 200", "600 201"), "picture 600 the class '201'"),
    "another class": (lambda tree: text(tree, "image_class_labels", "1 1\n", "1 2\n"), "which is '002.Bird_2'"),
    "split 2": (lambda tree: text(tree, "train_test_split", "1 1\n", "1 2\n"), "gives picture 1 '2' and not 0 or 1"),
    "an id twice": (lambda tree: text(tree, "train_test_split", "\n2 0", "\n1 0"), "number 1 has been there before"),
    "an id missing": (lambda tree: text(tree, "images", "\n2 ", "\n1002 "), "images.txt has no line for number 2"),
    "a label missing": (lambda tree: text(tree, "image_class_labels", "600 200\n", ""), "picture 600 is not in both"),
    "a split missing": (lambda tree: text(tree, "train_test_split", "600 0\n", ""), "picture 600 is not in both"),
    "an odd line": (lambda tree: text(tree, "train_test_split", "\n2 0", "\ntwo 0"), "line 2: 'two 0' is not a number"),
    "199 classes": (lambda tree: text(tree, "classes", "200 200.Bird_200\n", ""), "does not name 200 classes"),
    "a path that is not there": (
        lambda tree: {name: data for name, data in tree.items() if name != PICTURE},
        "lacks 1 pictures of images.txt: '001.Bird_1/Bird_1_0000_796001.jpg'",
    ),
    "a path that leads out": (
        lambda tree: text(tree, "images", "001.Bird_1/Bird_1_0000_796001.jpg", "001.Bird_1/../../x.jpg"),
        "lacks 1 pictures of images.txt",
    ),
    "no split file": (
        lambda tree: {name: data for name, data in tree.items() if "train_test" not in name},
        "has no 'train_test_split.txt' in its folder CUB_200_2011",
    ),
    "a picture that does not decode": (
        lambda tree: {**tree, PICTURE: tree[PICTURE][: len(tree[PICTURE]) // 2]},
        "1 of 600 files cannot be used: 001.Bird_1/Bird_1_0000_796001.jpg",
    ),
    "a member that leads out": (lambda tree: {**tree, "../evil": b"?"}, "'../evil' is refused: its name leads out"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_archives_that_do_not_fit(layouts: ModuleType, tmp_path: Path, tree: Tree, case: str) -> None:
    change, message = BROKEN[case]
    images = made(layouts, tmp_path, change(tree))
    with pytest.raises(BenchmarkError, match=message):
        images.prepare()
    nothing_is_kept(images)


def nothing_is_kept(images: Cub200) -> None:
    assert [path.name for path in images.cache_parent.iterdir() if path.name != "downloads"] == []
    with pytest.raises(BenchmarkError, match="no prepared images"):
        images.image_set("train")


def test_the_number_of_pictures_is_known(layouts: ModuleType, tmp_path: Path, tree: Tree) -> None:
    images = made(layouts, tmp_path, tree)
    type(images).image_count = Cub200.image_count  # type: ignore[misc]
    with pytest.raises(BenchmarkError, match=r"images\.txt in .*CUB_200_2011\.tgz names 600 pictures and not 11,788"):
        images.prepare()


def test_a_full_disk(layouts: ModuleType, tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    images = made(layouts, tmp_path, tree)
    monkeypatch.setattr(CacheWriter, "add_file", full)
    with pytest.raises(BenchmarkError, match="no space is left to keep images under"):
        images.prepare()
    monkeypatch.undo()
    nothing_is_kept(images)


def test_what_is_said_without_images(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError) as said:
        Cub200(PaperPictureConfig(), tmp_path).image_set("train")
    for part in (
        "data prepare cub200",
        "1.2 GB",
        "data.caltech.edu",
        "mirrors: ",
        "train_test_split.txt",
        "--from PATH",
    ):
        assert part in str(said.value)
