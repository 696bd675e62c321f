"""What a file that is refused may not leave behind, and what is said of files that the user meant to be used."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from smope_bench.benchmarks.datasets.published.imagenet_r import ImageNetR, ImageNetRConfig, listed_wnids
from smope_bench.benchmarks.download.fetch import Remote, downloads_folder, fetch, pin_of, unpinned_on_error
from smope_bench.benchmarks.errors import BenchmarkError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return downloads_folder(tmp_path, "toy")


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    """A file that nobody vouches for, at an address where there is nothing."""
    return Remote("file.bin", ((tmp_path / "web" / "file.bin").as_uri(),), None, 7)


@pytest.mark.parametrize("error", [BenchmarkError, KeyboardInterrupt])
def test_a_pin_is_kept_only_where_the_file_was_of_use(
    remote: Remote, folder: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    mine = tmp_path / "file.bin"
    mine.write_bytes(b"a wrong one")
    with pytest.raises(error), unpinned_on_error(folder, [remote.name]):
        fetch(remote, folder, [mine])
        assert pin_of(remote, folder) is not None
        raise error
    assert pin_of(remote, folder) is None
    mine.write_bytes(b"content")
    with unpinned_on_error(folder, [remote.name]):
        fetch(remote, folder, [mine])
    pinned = pin_of(remote, folder)
    with pytest.raises(error), unpinned_on_error(folder, [remote.name]):
        raise error
    assert pin_of(remote, folder) == pinned is not None, "a pin of before stays"


def test_a_wrong_archive_does_not_bar_the_right_one(layouts: ModuleType, tmp_path: Path) -> None:
    tree = layouts.imagenet_r(listed_wnids())
    images = layouts.imagenet_r_over(ImageNetR, tmp_path / "web", tree, listed_wnids())(
        ImageNetRConfig(), tmp_path / "data"
    )
    page = layouts.unpack(tmp_path / "mine", {"imagenet-r.tar": b"<html>not found</html>"})
    with pytest.raises(BenchmarkError, match="is not a tar"):
        images.prepare(given=[page])
    assert not list(images.downloads.glob("*.pin"))
    images.prepare()
    assert len(images.image_set("test").labels) == 200


def test_an_impossible_split_costs_no_download(layouts: ModuleType, tmp_path: Path) -> None:
    tree = layouts.imagenet_r(listed_wnids())
    kind = layouts.imagenet_r_over(ImageNetR, tmp_path / "web", tree, listed_wnids())
    with pytest.raises(BenchmarkError, match="200 classes cannot be split evenly into 7 tasks"):
        kind(ImageNetRConfig(tasks=7), tmp_path / "data").prepare()
    assert not (tmp_path / "data").exists()


def test_a_given_path_without_the_file_is_named(remote: Remote, folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(BenchmarkError) as caught:
        fetch(remote, folder, [tmp_path], said.append)
    told = f"no published file.bin is in what --from gave ({tmp_path})"
    assert said[0] == told and told in str(caught.value) and "(about 0.0 kB)" in str(caught.value)


def test_a_bad_file_placed_by_hand_is_named_where_no_other_comes(folder: Path, tmp_path: Path) -> None:
    known = Remote("file.bin", ((tmp_path / "web" / "file.bin").as_uri(),), f"md5:{'0' * 32}")
    folder.mkdir(parents=True)
    (folder / "file.bin").write_bytes(b"cut off")
    with pytest.raises(BenchmarkError, match=r"had the wrong digest and is kept as file\.bin\.bad, not used; file:"):
        fetch(known, folder)


def test_a_folder_in_the_place_of_the_file_costs_no_download(remote: Remote, folder: Path) -> None:
    (folder / "file.bin").mkdir(parents=True)
    with pytest.raises(BenchmarkError, match=r"file\.bin is a folder, not the file file\.bin: take it away"):
        fetch(remote, folder)
    assert [path.name for path in folder.iterdir()] == ["file.bin"]
