"""Benchmarks of pictures in both modes: what is kept, what it depends on, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from smope_bench.benchmarks.augmentation import RandomResizedCrop
from smope_bench.benchmarks.base import BenchmarkCard, BenchmarkConfig, ProgressCallback, Split
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.arrays import Encoded, Finished, Squeezed
from smope_bench.benchmarks.image_store.picture_benchmark import Picture, PictureBenchmark, PictureConfig
from smope_bench.benchmarks.image_store.pictures import Frame, framed, open_picture, squeezed
from smope_bench.benchmarks.stream import build_stream

SHAPES = [(40, 60), (64, 48), (33, 33), (90, 50)]


def jpeg(height: int, width: int, seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Photos(PictureBenchmark[PictureConfig]):
    """Two classes of four pictures a split."""

    name: ClassVar[str] = "photos"
    Config: ClassVar[type[BenchmarkConfig]] = PictureConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard("Photos", "made here", "none", "pictures")
    spoilt: tuple[str, ...] = ()
    passes = 0

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("cat", "dog")

    def source(self) -> dict[str, Any]:
        return {"digest": "abc"}

    def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
        self.passes += 1
        splits: tuple[Split, Split] = ("test", "train")
        for split in splits:
            for number, shape in enumerate(SHAPES * 2):
                name = f"{split}/{number}.jpg"
                data = jpeg(*shape, number + 100 * (split == "test"))
                yield Picture(split, number // 4, name, data[: len(data) // 2] if name in self.spoilt else data)


def photos(root: Path, **config: object) -> Photos:
    settings = {"tasks": 2, "image_size": 24, "test_resize": 30, "store_size": 32, **config}
    return Photos(PictureConfig.model_validate(settings), root)


def prepared(root: Path, **config: object) -> Photos:
    made = photos(root, **config)
    made.prepare()
    return made


def whole(benchmark: Photos, split: Split) -> Any:
    return benchmark.image_set(split).images[np.arange(8)]


def test_exact_mode_keeps_the_files(tmp_path: Path) -> None:
    benchmark = prepared(tmp_path)
    raw = benchmark.image_set("train").images[np.array([5, 0])]
    assert isinstance(raw, Encoded) and raw.files == (jpeg(*SHAPES[1], 5), jpeg(*SHAPES[0], 0)) and not raw.upright
    assert benchmark.image_set("test").labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_fast_mode_keeps_squeezed_training_pictures_and_finished_test_pictures(tmp_path: Path) -> None:
    benchmark = prepared(tmp_path, image_mode="fast", test_interpolation="bicubic")
    train, test = whole(benchmark, "train"), whole(benchmark, "test")
    assert isinstance(train, Squeezed) and isinstance(test, Finished)
    assert train.sizes.tolist() == [list(shape) for shape in SHAPES * 2]
    for number, shape in enumerate(SHAPES * 2):
        original = open_picture(jpeg(*shape, number))
        np.testing.assert_array_equal(train.pixels[number], squeezed(original, 32))
        original = open_picture(jpeg(*shape, number + 100))
        np.testing.assert_array_equal(test.pixels[number], framed(original, Frame(24, 30, "bicubic")))


def test_test_pictures_are_the_same_in_both_modes(tmp_path: Path) -> None:
    streams = [build_stream(prepared(tmp_path, image_mode=mode), 0) for mode in ("exact", "fast")]
    exact, fast = ([s.transforms.test(view.take(slice(None))[0]) for view in s.tests] for s in streams)
    assert all(torch.equal(one, two) for one, two in zip(exact, fast, strict=True))
    assert streams[0].split_hash != streams[1].split_hash


def test_training_boxes_are_the_same_in_both_modes_and_pixels_close(tmp_path: Path) -> None:
    augment = {"kind": "random_resized_crop", "scale": (0.3, 1.0)}
    made = [prepared(tmp_path, image_mode=mode, augment=augment, store_size=64) for mode in ("exact", "fast")]
    views = [build_stream(benchmark, 0).tasks[0].train for benchmark in made]
    transforms = build_stream(made[0], 0).transforms
    exact, fast = (
        transforms.train(view.take([0, 1, 2, 3])[0], torch.Generator().manual_seed(1), torch.device("cpu"))
        for view in views
    )
    assert isinstance(transforms.augment, RandomResizedCrop)
    assert 0 < (exact - fast).abs().mean() < 0.03
    seen = [transforms.test(view.take([0, 1, 2, 3])[0]) for view in views]
    assert 0 < (seen[0] - seen[1]).abs().mean() < 0.03


def test_a_batch_is_what_its_pictures_are_alone(tmp_path: Path) -> None:
    for mode in ("exact", "fast"):
        view = build_stream(prepared(tmp_path, image_mode=mode), 0).tasks[0].train
        transforms = build_stream(prepared(tmp_path, image_mode=mode), 0).transforms
        together = transforms.test(view.take([0, 1, 2])[0])
        alone = torch.cat([transforms.test(view.take([row])[0]) for row in range(3)])
        assert torch.equal(together, alone)


def test_another_test_transform_does_not_keep_the_training_pictures_twice(tmp_path: Path) -> None:
    first = prepared(tmp_path, image_mode="fast")
    second = prepared(tmp_path, image_mode="fast", test_resize=28)
    assert first.opened("train").folder == second.opened("train").folder
    assert first.opened("test").folder != second.opened("test").folder
    assert len(list((tmp_path / "photos").iterdir())) == 3
    assert len({first.content_hash(), second.content_hash(), prepared(tmp_path).content_hash()}) == 3
    third = prepared(tmp_path, image_mode="fast", augment={"kind": "random_resized_crop"}, normalize="half")
    assert third.content_hash() == first.content_hash() and third.passes == 0
    assert third.images_key() == first.images_key() == photos(tmp_path, image_mode="fast", tasks=1).images_key()
    assert len({first.images_key(), second.images_key(), photos(tmp_path).images_key()}) == 3


def test_both_parts_are_made_in_one_pass_and_only_what_is_lacking_is_made(tmp_path: Path) -> None:
    benchmark = prepared(tmp_path, image_mode="fast")
    assert benchmark.passes == 1
    content = benchmark.content_hash()
    path = benchmark.opened("train").folder / "train.sizes"
    test_part = benchmark.opened("test").folder.stat().st_ino
    path.write_bytes(bytes(path.stat().st_size))
    assert [state.state for state in benchmark.verify()].count("damaged") == 1
    said: list[str] = []
    benchmark.prepare(said.append)
    assert "made anew" in said[0] and benchmark.content_hash() == content
    assert benchmark.opened("test").folder.stat().st_ino == test_part
    assert [state.state for state in benchmark.verify()] == ["intact", "intact"]


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_pictures_that_do_not_decode_are_refused_by_name(tmp_path: Path, mode: str) -> None:
    benchmark = photos(tmp_path, image_mode=mode)
    benchmark.spoilt = ("test/1.jpg", *(f"train/{number}.jpg" for number in range(6)))
    with pytest.raises(BenchmarkError, match=r"^7 of 16 files cannot be used: test/1\.jpg: a damaged image .* 2 more;"):
        benchmark.prepare()
    assert not list((tmp_path / "photos").iterdir())


def test_what_is_not_prepared_is_said(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no prepared images"):
        photos(tmp_path).image_set("train")


def test_a_sliver_does_not_fill_the_memory() -> None:
    sliver = Image.new("RGB", (60_000, 1), (9, 8, 7))
    pixels = framed(sliver, Frame(24, 30))
    assert pixels.shape == (24, 24, 3) and (pixels == (9, 8, 7)).all()


class Shuffled(Photos):
    """The same pictures from a source that lists them in another order."""

    def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
        found = list(super().pictures(progress))
        yield from (found[number] for number in (9, 4, 15, 0, 11, 2, 8, 13, 1, 6, 14, 3, 10, 5, 12, 7))


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_rows_do_not_depend_on_the_order_in_which_pictures_come(tmp_path: Path, mode: str) -> None:
    first = prepared(tmp_path / "first", image_mode=mode)
    other = Shuffled(photos(tmp_path, image_mode=mode).config, tmp_path / "other")
    other.prepare()
    for split in ("train", "test"):
        one, two = first.image_set(split), other.image_set(split)
        np.testing.assert_array_equal(one.labels, two.labels)
        for field in vars(raw := whole(first, split)).keys() - {"names", "remedy"}:  # where it lies, in messages
            np.testing.assert_array_equal(getattr(raw, field), getattr(whole(other, split), field))
    assert first.content_hash() == other.content_hash()


def test_the_content_hash_is_that_of_the_pictures(tmp_path: Path) -> None:
    class Other(Photos):
        def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
            for picture in super().pictures(progress):
                yield picture if picture.name != "train/3.jpg" else replace(picture, data=jpeg(90, 50, 77))

    first = prepared(tmp_path / "first")
    other = Other(first.config, tmp_path / "other")
    other.prepare()
    assert first.content_hash() != other.content_hash()


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_pictures_that_are_published_twice_are_stated(tmp_path: Path, mode: str) -> None:
    class Twice(Photos):
        def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
            yield from (found := list(super().pictures(progress)))
            yield replace(found[-1], split="test", name="test/again.jpg")

    benchmark, said = Twice(PictureConfig(tasks=2, image_mode=mode), tmp_path), list[str]()  # pyright: ignore[reportArgumentType]
    benchmark.prepare(said.append)
    stated = "1 of 9 test images are copies of training images, as published"
    assert stated in said[-1] and benchmark.notes() == (stated,)
