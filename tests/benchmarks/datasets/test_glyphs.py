"""The rendered benchmark: same seed same pixels, every image with a seed of its own, classes that can be told apart."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from smope_bench.benchmarks.datasets.glyph_rendering import (
    CANVAS,
    INK,
    RENDITIONS,
    Draws,
    Mix,
    faces_with,
    glyph_mask,
    mask_stack,
    render,
    similarity,
)
from smope_bench.benchmarks.datasets.glyphs import CHARACTERS, RENDITIONS_MIX, Glyphs, GlyphsConfig, class_images
from smope_bench.benchmarks.errors import BenchmarkError


def only(name: str, **settings: Any) -> Mix:
    """A mix of one rendition."""
    return Mix(kinds=cast("Any", tuple(float(name == other) for other in RENDITIONS)), **settings)


def masks(count: int, character: str = "A") -> torch.Tensor:
    return torch.from_numpy(mask_stack([("DejaVuSans", character)] * count)).float() / 255


def rendered(mix: Mix, count: int = 4, seed: int = 0) -> torch.Tensor:
    return render(masks(count), Draws.batch(count, 32, torch.Generator().manual_seed(seed)), mix)


def test_there_are_100_classes_each_in_many_faces() -> None:
    assert len(CHARACTERS) == len(set(CHARACTERS)) == 100
    assert min(len(faces_with(character)) for character in CHARACTERS) >= 12
    assert not any(character.isdigit() for character in CHARACTERS)


@pytest.mark.parametrize("face", ["DejaVuSans", "DejaVuSerif"])
def test_no_two_classes_look_alike(face: str) -> None:
    found = similarity(face, CHARACTERS, CHARACTERS) - 2 * np.eye(100)
    assert found.max() < 0.86


def test_similarity_finds_homoglyphs() -> None:
    assert similarity("DejaVuSans", "A", "А")[0, 0] == pytest.approx(1, abs=1e-4)
    assert similarity("DejaVuSans", "c", "C")[0, 0] > 0.9
    assert similarity("DejaVuSans", "A", "H")[0, 0] < 0.7


def test_masks_share_one_size_and_the_centre() -> None:
    for character in "A.|m":
        ink = glyph_mask("DejaVuSans", character) > 0
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(INK, abs=2)
        assert rows.mean() == pytest.approx(CANVAS / 2, abs=1.5)
        assert columns.mean() == pytest.approx(CANVAS / 2, abs=1.5)


def test_a_missing_character_and_face_are_named() -> None:
    with pytest.raises(BenchmarkError, match=r"'STIXGeneral' has no character U\+0531"):
        glyph_mask("STIXGeneral", "Ա")
    with pytest.raises(BenchmarkError, match="font face 'Comic'"):
        glyph_mask("Comic", "A")


def test_one_image_does_not_depend_on_the_others() -> None:
    few, many = (class_images(3, "train", count, 32, 0) for count in (2, 7))
    assert np.abs(few.astype(int) - many[:2]).max() <= 1  # sums in another order may round the other way


def test_images_depend_on_split_class_and_seed() -> None:
    first = class_images(3, "train", 2, 32, 0)
    assert np.array_equal(first, class_images(3, "train", 2, 32, 0))
    for other in (
        class_images(3, "test", 2, 32, 0),
        class_images(4, "train", 2, 32, 0),
        class_images(3, "train", 2, 32, 1),
    ):
        assert np.abs(first.astype(int) - other).mean() > 10


@pytest.mark.parametrize("name", RENDITIONS[1:])
def test_every_rendition_changes_the_picture(name: str) -> None:
    plain = rendered(only("plain", strength=(1, 1)))
    assert (rendered(only(name, strength=(1, 1))) - plain).abs().mean() > 0.01


def test_inversion_and_tint() -> None:
    straight, inverted = (rendered(only("plain", invert=invert, grain=0)) for invert in (0.0, 1.0))
    assert torch.allclose(straight, 1 - inverted, atol=1e-6)
    assert torch.equal(straight[:, 0], straight[:, 1])
    tinted = rendered(only("plain", tint=0.5))
    assert not torch.allclose(tinted[:, 0], tinted[:, 1], atol=0.02)


def test_pictures_stay_in_range_at_other_sizes() -> None:
    for size in (16, 48, 64, 80):
        pictures = render(masks(3), Draws.batch(3, size, torch.Generator().manual_seed(0)), RENDITIONS_MIX)
        assert pictures.shape == (3, 3, size, size)
        assert 0 <= pictures.min() < pictures.max() <= 1


def test_prepare_keeps_all_images_and_renders_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smope_bench.benchmarks.datasets.glyphs.CHARACTERS", "AB&Ж♫")
    glyphs = Glyphs(GlyphsConfig(tasks=5, train_per_class=3, test_per_class=2), tmp_path)
    said: list[str] = []
    glyphs.prepare(said.append)
    glyphs.prepare(said.append)
    assert len(said) == 1
    train, test = glyphs.image_set("train"), glyphs.image_set("test")
    assert train.images.shape == (15, 32, 32, 3)
    assert np.bincount(train.labels).tolist() == [3] * 5
    assert np.bincount(test.labels).tolist() == [2] * 5
    assert glyphs.class_names[0] == "A latin capital letter a"


def test_ten_even_tasks_and_no_remainder(tmp_path: Path) -> None:
    assert Glyphs(GlyphsConfig(), tmp_path).task_sizes() == (10,) * 10
    assert Glyphs(GlyphsConfig(tasks=20), tmp_path).task_sizes() == (5,) * 20
    with pytest.raises(BenchmarkError, match="7"):
        Glyphs(GlyphsConfig(tasks=7), tmp_path).task_sizes()
