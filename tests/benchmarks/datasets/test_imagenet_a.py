"""``imagenet_a``: split by a list that the user has, known by its hash, or by a seed; archives and lists that do not fit."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import ValidationError

from smope_bench.benchmarks.datasets.published.imagenet_a import ImageNetA, ImageNetAConfig
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.stream import build_stream

Tree = dict[str, bytes]
WNIDS = ("n01498041", "n01531178", "n07768694")
NAMES = [f"{wnid}/0.00{image}_digital clock _ digital clock_0.9.jpg" for wnid in WNIDS for image in range(5)]
SMALL = {"image_size": 32, "test_resize": None, "tasks": 3}


def archive(layouts: ModuleType) -> Tree:
    """As the owners pack it: class folders beside a README.txt; picture j of the c-th class has the colour (40 c, 20 j, 9)."""
    colours = {name: (40 * (row // 5), 20 * (row % 5), 9) for row, name in enumerate(NAMES)}
    pictures = {f"imagenet-a/{name}": layouts.jpeg(colour) for name, colour in colours.items()}
    return {"imagenet-a/README.txt": b"about\n", **pictures}


def made(layouts: ModuleType, tmp_path: Path, tree: Tree | None = None, **config: object) -> ImageNetA:
    file = layouts.tar(tmp_path / "web" / "imagenet-a.tar", archive(layouts) if tree is None else tree)
    kind = layouts.over(ImageNetA, {file.name: file}, class_count=3, image_count=len(NAMES))
    return kind(ImageNetAConfig.model_validate(SMALL | config), tmp_path / "data")


def split_list(path: Path, lines: list[str]) -> str:
    """Write a list and return its hash."""
    text = "".join(f"{line}\n" for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    return hashlib.sha256(text).hexdigest()


LINES = [f"{'test' if row % 5 == 4 else 'train'}/{name}" for row, name in enumerate(NAMES)]


def test_without_a_list_a_seed_splits_every_class(layouts: ModuleType, tmp_path: Path) -> None:
    images = made(layouts, tmp_path)
    assert images.num_classes == 3 and images.task_sizes() == (1, 1, 1), "known before the archive is"
    images.prepare()
    assert images.class_names == WNIDS
    assert [(len(task.train), len(task.test)) for task in build_stream(images, 0).tasks] == [(4, 1)] * 3
    first, other = (
        {p.name for p in one.pictures(print) if p.split == "test"}
        for one in (images, made(layouts, tmp_path, split_seed=1))
    )
    assert first != other and Counter(name.split("/")[0] for name in first) == dict.fromkeys(WNIDS, 1)


@pytest.mark.parametrize("prefix", ["", "./"])
def test_a_list_decides_the_split(layouts: ModuleType, tmp_path: Path, prefix: str) -> None:
    sha256 = split_list(tmp_path / "mine.txt", [prefix + line for line in LINES])
    images = made(layouts, tmp_path, split_list=sha256)
    images.prepare(given=[tmp_path / "mine.txt"])
    assert {picture.name for picture in images.pictures(print) if picture.split == "test"} == set(NAMES[4::5])
    assert images.source() != made(layouts, tmp_path).source()
    again = made(layouts, tmp_path, split_list=sha256)
    assert len(build_stream(again, 0).tasks[0].test) == 1, (
        "a run needs the hash and the prepared pictures, not the file"
    )


def test_a_list_in_the_downloads_folder_is_found(layouts: ModuleType, tmp_path: Path) -> None:
    sha256 = split_list(tmp_path / "data" / "imagenet_a" / "downloads" / "imagenet-a_split.txt", LINES)
    made(layouts, tmp_path, split_list=sha256).prepare()


BAD = {
    "a line of another form": (
        ["val/n01498041/a.jpg"],
        "line 1: 'val/n01498041/a.jpg' is neither train/<wnid>/<file> nor",
    ),
    "a picture twice": (["train/" + NAMES[0], "test/" + NAMES[0]], "line 2: .* is listed twice"),
    "an unknown picture": (["train/n01498041/none.jpg"], "line 1: the archive has no 'n01498041/none.jpg'"),
    "a part of the pictures": (LINES[1:], "does not list 1 pictures: 'n01498041/0.000"),
    "a class without test pictures": (
        ["train/" + name for name in NAMES[:5]] + LINES[5:],
        "no test picture of 'n01498041'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_lists_that_do_not_fit_are_refused(layouts: ModuleType, tmp_path: Path, case: str) -> None:
    lines, said = BAD[case]
    sha256 = split_list(tmp_path / "mine.txt", lines)
    with pytest.raises(BenchmarkError, match=said):
        made(layouts, tmp_path, split_list=sha256).prepare(given=[tmp_path / "mine.txt"])


def test_another_list_than_the_named_one_is_not_read(layouts: ModuleType, tmp_path: Path) -> None:
    split_list(tmp_path / "mine.txt", LINES)
    with pytest.raises(
        BenchmarkError, match=r"imagenet-a_split\.txt could not be downloaded .* leave benchmark.split_list out"
    ):
        made(layouts, tmp_path, split_list="0" * 64).prepare()
    with pytest.raises(BenchmarkError, match=r"mine\.txt is none of its files .*: give imagenet-a\.tar"):
        made(layouts, tmp_path, split_list="0" * 64).prepare(given=[tmp_path / "mine.txt"])
    with pytest.raises(ValidationError, match="give the sha256 of the list"):
        ImageNetAConfig(split_list="mine.txt")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({f"imagenet-a/{NAMES[0]}": None}, "holds 14 pictures of 3 classes and the original 15 of 3"),
        ({"imagenet-a/cats/a.jpg": b"x"}, "holds 'cats', which is no class of ImageNet-A"),
    ],
)
def test_archives_that_do_not_fit_are_refused(
    layouts: ModuleType, tmp_path: Path, changed: dict[str, bytes | None], said: str
) -> None:
    tree = {name: data for name, data in (archive(layouts) | changed).items() if data is not None}
    with pytest.raises(BenchmarkError, match=said):
        made(layouts, tmp_path, tree).prepare()
