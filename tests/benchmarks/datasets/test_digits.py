"""``digits`` from scikit-learn, prepared in a temporary folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from smope_bench.benchmarks.datasets.digits import Digits, DigitsConfig, enlarged
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.stream import build_stream


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    Digits(DigitsConfig.model_validate({}), root).prepare()
    return root


def digits(root: Path, **config: object) -> Digits:
    return Digits(DigitsConfig.model_validate(config), root)


def test_five_tasks_of_two_digits(root: Path) -> None:
    stream = build_stream(digits(root), order_seed=0)
    assert stream.class_order == (7, 8, 1, 5, 3, 4, 2, 0, 9, 6)
    assert stream.tasks[0].names == ("7", "8")
    assert [len(task.train) for task in stream.tasks] == [282, 292, 291, 284, 289]
    assert [len(task.test) for task in stream.tasks] == [71, 72, 73, 71, 72]
    assert sum(len(task.train) + len(task.test) for task in stream.tasks) == 1797
    assert stream.image_size == 32


@pytest.mark.parametrize("fraction", [0.2, 0.333])
def test_the_number_of_images_is_known_before_they_are_made(fraction: float, tmp_path: Path) -> None:
    data = digits(tmp_path, test_fraction=fraction)
    expected = data.expected_counts()
    data.prepare()
    assert expected == tuple(len(data.image_set(split).labels) for split in ("train", "test"))


def test_pixels_and_split_stay_what_they_are(root: Path) -> None:
    assert digits(root).content_hash() == "3e7c06717dd2f8d3130342c3d665270c7e1f9bf3f5592f5c5c325d398e2b5abb"


def test_enlarging_is_bilinear() -> None:
    ink = np.random.default_rng(0).integers(0, 17, (4, 8, 8))
    expected = functional.interpolate(torch.tensor(ink[:, None] * 255 / 16), size=32, mode="bilinear")
    images = enlarged(ink, 32)
    assert images.shape == (4, 32, 32, 3)
    np.testing.assert_array_equal(images, expected.round().permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy())


def test_every_image_is_there_once_under_its_label(root: Path) -> None:
    ink, labels = load_digits(return_X_y=True)
    known = {(image.tobytes(), label) for image, label in zip(enlarged(ink.reshape(-1, 8, 8), 32), labels, strict=True)}
    found = [digits(root).image_set(split) for split in ("train", "test")]
    pairs = [(image.tobytes(), label) for part in found for image, label in zip(part.images, part.labels, strict=True)]
    assert set(pairs) == known and len(pairs) == 1797


def test_the_split_is_stratified(root: Path) -> None:
    counts = [np.bincount(digits(root).image_set(split).labels) for split in ("train", "test")]
    assert (np.abs(counts[1] / (counts[0] + counts[1]) - 0.2) < 0.01).all()


def test_another_split_seed_is_another_cache(tmp_path: Path) -> None:
    hashes = []
    for seed in (0, 1):
        benchmark = digits(tmp_path, split_seed=seed, image_size=8)
        benchmark.prepare()
        hashes.append(benchmark.content_hash())
    assert hashes[0] != hashes[1]
    assert len(list((tmp_path / "digits").iterdir())) == 2


def test_a_second_preparation_makes_nothing(root: Path) -> None:
    said: list[str] = []
    digits(root).prepare(said.append)
    assert said == []


def test_unprepared_images_are_not_made_in_passing(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no prepared images under"):
        digits(tmp_path).image_set("train")
    assert list(tmp_path.iterdir()) == []


def test_an_uneven_split_is_refused_when_preparing(root: Path) -> None:
    with pytest.raises(
        BenchmarkError, match=r"give --set benchmark.split=3x2,2x2 or --set benchmark.tasks=5 \(or 1, 2, 10\)"
    ):
        digits(root, tasks=4).prepare()
    digits(root, split="3,3,2,2").prepare()
