"""``imagefolder``: users' folders as they really are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smope_bench.benchmarks.datasets.folders.image_folder import ImageFolder, ImageFolderConfig
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.stream import build_stream

MakeFolder = Callable[..., Path]


def benchmark(root: Path, path: Path | None, **config: object) -> ImageFolder:
    settings = {"tasks": 3, "image_size": 8, "path": path and str(path), **config}
    return ImageFolder(ImageFolderConfig.model_validate(settings), root)


def prepared(root: Path, path: Path, **config: object) -> ImageFolder:
    made = benchmark(root, path, **config)
    made.prepare()
    return made


def test_classes_images_and_split(tmp_path: Path, make_folder: MakeFolder) -> None:
    images = prepared(tmp_path / "data", make_folder())
    assert images.class_names == ("ant", "bee", "cat")
    train, test = images.image_set("train"), images.image_set("test")
    assert train.images.shape == (12, 8, 8, 3) and test.images.shape == (3, 8, 8, 3)
    seen = [tuple(pixel) for part in (train, test) for pixel in part.images[:, 4, 4].tolist()]
    assert sorted(seen) == sorted((40 * c + 10, 20 * j + 5, 8) for c in range(3) for j in range(5))
    for part in (train, test):
        assert ((part.images[:, 0, 0, 0] - 10) // 40 == part.labels).all()
    stream = build_stream(images, 0)
    assert [len(task.train) for task in stream.tasks] == [4, 4, 4]


def test_a_split_of_the_folder_is_kept(tmp_path: Path, make_folder: MakeFolder) -> None:
    make_folder(count=4, under="both/train")
    make_folder(count=2, under="both/test")
    images = prepared(tmp_path / "data", tmp_path / "both")
    assert images.class_names == ("ant", "bee", "cat")
    assert np.bincount(images.image_set("train").labels).tolist() == [4, 4, 4]
    assert (images.image_set("train").images[..., 2] == len("both/train")).all()
    assert (images.image_set("test").images[..., 2] == len("both/test")).all()


def test_train_and_test_can_be_classes(tmp_path: Path, make_folder: MakeFolder) -> None:
    images = prepared(tmp_path / "data", make_folder(classes=("test", "train", "tram")))
    assert images.class_names == ("test", "train", "tram")


def test_a_moved_folder_is_the_same_data_and_a_changed_one_is_not(tmp_path: Path, make_folder: MakeFolder) -> None:
    path = make_folder()
    pinned = benchmark(tmp_path, path).pinned()
    assert pinned.path is None and pinned.content
    moved = path.rename(tmp_path / "moved")
    assert benchmark(tmp_path, moved).pinned() == pinned
    (moved / "ant" / "0.png").rename(moved / "ant" / "new.png")
    renamed = benchmark(tmp_path, moved).pinned()
    Image.new("RGB", (12, 10)).save(moved / "ant" / "new.png")
    repainted = benchmark(tmp_path, moved).pinned()
    (moved / "ant").rename(moved / "aunt")
    reclassed = benchmark(tmp_path, moved).pinned()
    assert len({pinned.content, renamed.content, repainted.content, reclassed.content}) == 4


def test_a_pinned_configuration_finds_the_images_without_the_folder(tmp_path: Path, make_folder: MakeFolder) -> None:
    path = make_folder()
    first = prepared(tmp_path / "data", path)
    path.rename(tmp_path / "elsewhere")
    pinned = ImageFolder(first.pinned(), tmp_path / "data")
    pinned.prepare()
    assert pinned.pinned() == first.pinned()
    assert build_stream(pinned, 1).split_hash == build_stream(first, 1).split_hash
    assert pinned.class_names == ("ant", "bee", "cat")


def test_a_pinned_configuration_without_images_says_what_is_needed(tmp_path: Path, make_folder: MakeFolder) -> None:
    first = prepared(tmp_path / "data", make_folder())
    lost = ImageFolder(first.pinned(), tmp_path / "empty")
    for use in (lost.prepare, lambda: lost.class_names, lambda: lost.image_set("train")):
        with pytest.raises(BenchmarkError, match=r"no intact images with content .* give --set benchmark.path=FOLDER"):
            use()
    os.truncate(first.opened().folder / "test.images", 5)
    with pytest.raises(BenchmarkError, match="no intact images"):
        ImageFolder(first.pinned(), tmp_path / "data").prepare()


def test_a_damaged_cache_is_made_anew_and_said_so(tmp_path: Path, make_folder: MakeFolder) -> None:
    first = prepared(tmp_path / "data", make_folder())
    content = first.content_hash()
    path = first.opened().folder / "train.images"
    path.write_bytes(bytes(path.stat().st_size))
    said: list[str] = []
    first.prepare(said.append)
    assert "made anew" in said[0]
    assert first.content_hash() == content


def test_a_folder_that_changed_since_planning_is_refused(tmp_path: Path, make_folder: MakeFolder) -> None:
    path = make_folder()
    content = benchmark(tmp_path, path).pinned().content
    (path / "ant" / "0.png").unlink()
    with pytest.raises(BenchmarkError, match="restore the folder or plan anew"):
        benchmark(tmp_path / "data", path, content=content).prepare()


def test_a_file_that_changes_between_hashing_and_decoding_is_noticed(tmp_path: Path, make_folder: MakeFolder) -> None:
    path = make_folder()
    images = benchmark(tmp_path / "data", path)
    images.pinned()
    Image.new("RGB", (9, 9)).save(path / "bee" / "3.png")
    with pytest.raises(BenchmarkError, match=r"3\.png.* has changed while it was being read"):
        images.prepare()


def test_the_kept_size_may_exceed_the_tested_one(tmp_path: Path, make_folder: MakeFolder) -> None:
    images = prepared(tmp_path / "data", make_folder(), cache_size=10, test_resize=10)
    assert images.image_set("train").images.shape[1:] == (10, 10, 3)
    stream = build_stream(images, 0)
    assert stream.image_size == 8


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_whole_pictures_are_kept_where_that_is_asked_for(tmp_path: Path, make_folder: MakeFolder, mode: str) -> None:
    settings = {"keep": "whole", "image_mode": mode, "store_size": 16}
    images = prepared(tmp_path / "data", make_folder(), **settings)
    pinned = ImageFolder(images.pinned(), tmp_path / "data")
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    stream = build_stream(pinned, 0)
    assert pinned.upright and pinned.class_names == ("ant", "bee", "cat")
    for task in stream.tasks:
        pixels = stream.transforms.test(task.train.take(slice(None))[0])
        assert pixels.shape == (4, 3, 8, 8)
        classes = [stream.class_order[label] for label in task.train.labels]
        assert ((pixels[:, 0, 4, 4] * 255 - 10) / 40).round().tolist() == classes


def test_hidden_files_are_ignored(tmp_path: Path, make_folder: MakeFolder) -> None:
    path = make_folder()
    (path / ".DS_Store").write_bytes(b"x")
    (path / "ant" / "._0.png").write_bytes(b"x")
    (path / ".git").mkdir()
    assert prepared(tmp_path / "data", path).class_names == ("ant", "bee", "cat")


@pytest.mark.parametrize("name", ["a b", "-rf", "naïve 猫", "quote'\"", "new\nline", "<script>", "$(x)", "%s{0}"])
def test_hostile_names_are_only_names(tmp_path: Path, make_folder: MakeFolder, name: str) -> None:
    path = make_folder(classes=(name, "zz1", "zz2"))
    (path / name / "0.png").rename(path / name / f"{name}.png")
    assert name in prepared(tmp_path / "data", path).class_names
    (path / name / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(BenchmarkError) as error:
        benchmark(tmp_path / "data", path).prepare()
    assert "\n" not in str(error.value)


def test_names_that_are_not_text(tmp_path: Path, make_folder: MakeFolder) -> None:
    path = make_folder()
    try:
        (path / "ant").rename(path / os.fsdecode(b"\xff\xfe"))
    except OSError:
        pytest.skip("this file system takes only text")
    images = prepared(tmp_path / "data", path)
    assert images.class_names == ("bee", "cat", "\\xff\\xfe")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.rename(path.parent / "gone"), "pictures' does not exist"),
    "no classes": (lambda path: [folder.rename(path.parent / folder.name) for folder in path.iterdir()], "no classes"),
    "loose file": (lambda path: (path / "0.png").touch(), "0.png' lies beside the class folders"),
    "empty class": (lambda path: (path / "dog").mkdir(), "dog' is empty"),
    "only hidden": (lambda path: ((path / "dog").mkdir(), (path / "dog" / ".x").touch()), "dog' is empty"),
    "nested": (lambda path: (path / "ant" / "more").mkdir(), "more' is a folder inside a class folder"),
    "not an image": (lambda path: (path / "ant" / "notes.txt").write_text("x"), "notes.txt': not an image"),
    "no bytes": (lambda path: (path / "ant" / "e.png").touch(), "e.png': not an image"),
    "truncated": (lambda path: os.truncate(path / "ant" / "0.png", 50), "0.png': a damaged image"),
    "dangling link": (lambda path: (path / "ant" / "l.png").symlink_to("nowhere"), "l.png' is neither a file"),
    "pipe": (lambda path: os.mkfifo(path / "ant" / "p.png"), "p.png' is neither a file"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_folders_are_named(tmp_path: Path, make_folder: MakeFolder, bad: str) -> None:
    path = make_folder()
    spoil, named = BAD[bad]
    spoil(path)
    with pytest.raises(BenchmarkError) as error:
        benchmark(tmp_path / "data", path).prepare()
    assert named in str(error.value)
    assert not list((tmp_path / "data").glob("*/*"))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "one.png").touch()
    with pytest.raises(BenchmarkError, match=r"one.png' is not a folder"):
        benchmark(tmp_path, tmp_path / "one.png").prepare()


def test_no_path_at_all(tmp_path: Path) -> None:
    for use in (lambda b: b.prepare(), lambda b: b.pinned(), lambda b: b.class_names):
        with pytest.raises(BenchmarkError, match=r"give --set benchmark\.path=FOLDER"):
            use(benchmark(tmp_path, None))


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path, make_folder: MakeFolder) -> None:
    path = make_folder()
    for image in range(1, 5):
        (path / "bee" / f"{image}.png").unlink()
    with pytest.raises(BenchmarkError, match="class 'bee' has one image"):
        benchmark(tmp_path / "data", path).prepare()


def test_all_bad_files_are_counted_and_the_first_named(tmp_path: Path, make_folder: MakeFolder) -> None:
    path = make_folder()
    for image in range(4):
        for name in ("ant", "cat"):
            (path / name / f"{image}.png").write_bytes(b"spoilt")
    with pytest.raises(BenchmarkError, match=r"^8 of 15 files cannot be used: .* and 3 more; repair them") as error:
        benchmark(tmp_path / "data", path).prepare()
    assert str(error.value).count("spoilt") == 0 and str(error.value).count(".png") == 5


@pytest.mark.parametrize(("lacking", "other"), [("train", "test"), ("test", "train")])
def test_a_class_in_one_part_only(tmp_path: Path, make_folder: MakeFolder, lacking: str, other: str) -> None:
    make_folder(under=f"both/{lacking}")
    make_folder(classes=("ant", "bee", "cat", "dog"), under=f"both/{other}")
    with pytest.raises(BenchmarkError, match=f"class 'dog' of .* is in {other} but not in {lacking}"):
        benchmark(tmp_path / "data", tmp_path / "both").prepare()


def test_parts_may_be_called_as_people_call_them(tmp_path: Path, make_folder: MakeFolder) -> None:
    """What each layout trains and tests on, told by the blue of its pixels, and what is said of it."""
    layouts = {
        ("Train", "Test"): ("Train", "Test", ""),
        ("training", "testing"): ("training", "testing", ""),
        ("train", "val"): ("train", "val", "val/ is tested on, since there is no test part"),
        ("train", "validation", "test"): ("train", "test", "validation/ is left out: neither trained nor tested on"),
        ("train",): ("train", "train", "no test part: a fraction of 0.2 of each class is tested on"),
    }
    for number, (parts, (trained, tested, note)) in enumerate(layouts.items()):
        for part in parts:
            make_folder(under=f"layout {number}/{part}")
        images = prepared(tmp_path / "data", tmp_path / f"layout {number}")
        train, test = images.image_set("train"), images.image_set("test")
        counts = (12, 3) if len(parts) == 1 else (15, 15)
        assert (len(train.labels), len(test.labels)) == counts
        assert (train.images[..., 2] == len(f"layout {number}/{trained}")).all()
        assert (test.images[..., 2] == len(f"layout {number}/{tested}")).all()
        assert note in "; ".join(images.notes())


def test_parts_that_are_unclear_are_refused(tmp_path: Path, make_folder: MakeFolder) -> None:
    for part in ("train", "test", "extra"):
        make_folder(under=f"both/{part}")
    with pytest.raises(BenchmarkError, match="extra' lies beside train and test"):
        benchmark(tmp_path / "data", tmp_path / "both").prepare()
    (tmp_path / "both/extra").rename(tmp_path / "both/training")
    with pytest.raises(BenchmarkError, match=r"train' and .*training' are both called train"):
        benchmark(tmp_path / "data", tmp_path / "both").prepare()
    make_folder(under="unsorted/train")
    (tmp_path / "unsorted/test").mkdir()
    (tmp_path / "both/train/ant/0.png").rename(tmp_path / "unsorted/test/0.png")
    with pytest.raises(
        BenchmarkError, match=r"test' has no class folders, .* move it away to hold a part of train out"
    ):
        benchmark(tmp_path / "data", tmp_path / "unsorted").prepare()


def test_a_folder_around_the_folder_is_looked_into(tmp_path: Path, make_folder: MakeFolder) -> None:
    plain = benchmark(tmp_path, make_folder(under="zip/imagenet-r/pictures"))
    around = benchmark(tmp_path, tmp_path / "zip")
    around.pinned()
    assert "holds the folder 'pictures' alone" in around.notes()[0]
    assert around.pinned() == plain.pinned()


def test_what_systems_leave_behind_is_ignored_and_said_once(tmp_path: Path, make_folder: MakeFolder) -> None:
    path = make_folder()
    clean = benchmark(tmp_path, path).pinned()
    junk = "ant/Thumbs.db bee/Thumbs.db desktop.ini __MACOSX/ant/._0.png ant/@eaDir/0.png lost+found/x .DS_Store"
    texts = "classes.txt README README.md LICENSE labels.csv meta.json"
    for name in (*junk.split(), *texts.split()):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("x")
    images = benchmark(tmp_path, path)
    assert images.pinned() == clean
    said = [note for note in images.notes() if note.startswith("not read in")]
    assert len(said) == 1 and "'.DS_Store'" in said[0] and said[0].endswith(" and 6 more")
    (path / "ant" / "labels.csv").write_text("x")
    with pytest.raises(BenchmarkError, match=r"labels.csv': not an image"):
        benchmark(tmp_path / "data", path).prepare()


def test_numbers_rise_as_numbers(tmp_path: Path, make_folder: MakeFolder) -> None:
    images = benchmark(tmp_path, make_folder(classes=("10", "9", "0", "2", "01")))
    assert images.class_names == ("0", "01", "2", "9", "10")
    assert "class names are numbers and rise as such: 0, 01, 2, ..., 10" in images.notes()
    mixed = benchmark(tmp_path, make_folder(classes=("10", "9", "x2"), under="mixed"))
    assert mixed.class_names == ("10", "9", "x2") and "numbers" not in "".join(mixed.notes())


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path: Path, make_folder: MakeFolder) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    make_folder(classes=(composed, "dog"), under="both/train")
    make_folder(classes=(decomposed, "dog"), under="both/test")
    images = benchmark(tmp_path, tmp_path / "both")
    assert images.class_names == (composed, "dog")
    assert "class 'café' is written in 2 Unicode forms, which are read as one class" in images.notes()
    joined = benchmark(tmp_path, make_folder(classes=(composed, decomposed, "dog"), under="one"))
    assert joined.class_names == (composed, "dog")
    assert np.bincount([file.label for file in joined.folder.files]).tolist() == [10, 5]


def test_a_test_part_that_repeats_training_pictures_is_refused_unless_allowed(
    tmp_path: Path, make_folder: MakeFolder
) -> None:
    make_folder(under="both/train")
    make_folder(under="both/testing")
    path, before = tmp_path / "both", benchmark(tmp_path, tmp_path / "both").pinned()
    (path / "testing/bee/copy.png").write_bytes((path / "train/ant/3.png").read_bytes())
    with pytest.raises(
        BenchmarkError, match=r"bee/copy.png' is the same picture as .*ant/3.png': 1 of 16 .*repeats=allow"
    ):
        benchmark(tmp_path / "data", path).prepare()
    assert not list((tmp_path / "data").glob("*/*"))
    images = prepared(tmp_path / "data", path, repeats="allow")
    assert "1 of 16 test pictures are copies of training pictures" in images.notes()
    assert images.pinned().repeats == before.repeats, "the setting is no part of a run's identity: the content is"


def test_warnings_of_pillow_are_named_with_their_files(
    tmp_path: Path, make_folder: MakeFolder, recwarn: pytest.WarningsRecorder
) -> None:
    path = make_folder()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0"  # an entry of five, cut off
    Image.new("RGB", (12, 10), (1, 2, 3)).save(path / "bee" / "cut.jpg", exif=exif)
    said: list[str] = []
    benchmark(tmp_path / "data", path).prepare(said.append)
    note = next(note for note in benchmark(tmp_path / "data", path).notes() if "Pillow" in note)
    assert note.startswith("Pillow warns of 1 of 16 files, which are used: ") and "cut.jpg': Corrupt EXIF" in note
    assert note in "\n".join(said) and not recwarn.list


def test_an_impossible_split_is_said_when_preparing(tmp_path: Path, make_folder: MakeFolder) -> None:
    with pytest.raises(BenchmarkError, match="3 classes cannot be split evenly into 2 tasks"):
        benchmark(tmp_path / "data", make_folder(), tasks=2).prepare()
