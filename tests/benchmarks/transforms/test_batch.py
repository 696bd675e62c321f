"""Batches, augmentation and normalisation; the transforms of single pictures are in test_recipe_transforms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from smope_bench.benchmarks.augmentation import Affine, NoAugmentation, RandomResizedCrop
from smope_bench.benchmarks.base import BenchmarkConfig
from smope_bench.benchmarks.image_store.arrays import Finished, Squeezed
from smope_bench.benchmarks.image_store.pictures import Frame
from smope_bench.benchmarks.transforms.batch import Transforms, crops_of_arrays, frames_of_arrays, random_affine
from smope_bench.benchmarks.transforms.crops import draw_crops, random_boxes
from smope_bench.benchmarks.transforms.resample import Parts, resized


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def uint8(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=seeded(1), dtype=torch.uint8)


def unit(*shape: int) -> Tensor:
    return torch.rand(shape, generator=seeded(2))


def sized(count: int, height: int, width: int) -> Tensor:
    return torch.tensor([[height, width]]).repeat(count, 1)


BOXES = torch.tensor([[3, 4, 40, 30], [0, 0, 50, 60], [49, 59, 1, 1], [10, 20, 24, 24], [0, 3, 9, 57]])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [7, 24, 64])
def test_boxes_are_resized_as_torchvision_does_it_but_for_roundings(size: int, interpolation: str) -> None:
    images = uint8(5, 50, 60, 3)
    kind = functional.InterpolationMode(interpolation)
    ours = resized(images, Parts.of(BOXES, size), size, interpolation)  # pyright: ignore[reportArgumentType]
    for index, (top, left, height, width) in enumerate(BOXES.tolist()):
        pixels = images[index].permute(2, 0, 1).float()
        theirs = functional.resized_crop(pixels, top, left, height, width, [size, size], kind, antialias=True)
        # Clipping to whole numbers after the first axis is Pillow's: it moves bicubic overshoots.
        off = (ours[index] - theirs.clamp(0, 255)).abs()
        assert off.mean() < (0.4 if interpolation == "bilinear" else 1.5)
        assert interpolation == "bicubic" or off.max() < 1.01


def test_flipped_boxes_are_mirrored() -> None:
    images, boxes = uint8(2, 20, 20, 3), torch.tensor([[2, 3, 11, 13], [0, 0, 20, 20]])
    plain, mixed = (resized(images, Parts.of(boxes, 16, flip), 16) for flip in (None, torch.tensor([True, False])))
    assert torch.equal(mixed[0], plain[0].flip(-1)) and torch.equal(mixed[1], plain[1])


def test_boxes_lie_inside_and_keep_their_ranges() -> None:
    top, left, height, width = random_boxes(sized(4000, 64, 96), RandomResizedCrop(), seeded()).T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 64).all() and (left + width <= 96).all()
    area = (height * width) / (64 * 96)
    assert area.min() > 0.07 and area.max() <= 1.0
    ratio = width / height
    assert ratio.min() > 0.7 and ratio.max() < 1.4
    # Every position that a box may take is taken, the first and the last included.
    low, narrow = height < 64, width < 96
    assert (top[low] == 0).any() and ((top + height)[low] == 64).any()
    assert (left[narrow] == 0).any() and ((left + width)[narrow] == 96).any()


@pytest.mark.parametrize(("height", "width"), [(48, 48), (30, 90)])
def test_boxes_are_distributed_as_torchvision_draws_them(height: int, width: int) -> None:
    config = RandomResizedCrop(scale=(0.05, 1.0))
    ours = random_boxes(sized(4000, height, width), config, seeded()).double()
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    draw = v2.RandomResizedCrop(48, scale=config.scale, ratio=config.ratio)
    params = [draw.make_params([image]) for _ in range(1500)]
    theirs = torch.tensor([[p[k] for k in ("top", "left", "height", "width")] for p in params]).double()
    error = ours.std(0) * math.sqrt(1 / 4000 + 1 / 1500)
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    assert ((ours.std(0) / theirs.std(0) - 1).abs() < 0.1).all()


@pytest.mark.parametrize(("height", "width"), [(10, 200), (200, 10), (33, 100)])
def test_where_no_draw_fits_the_centre_is_taken(height: int, width: int) -> None:
    boxes = random_boxes(sized(3, height, width), RandomResizedCrop(scale=(1, 1)), seeded())
    theirs = v2.RandomResizedCrop(8, scale=(1, 1)).make_params([torch.zeros(3, height, width)])
    assert boxes.tolist() == [[theirs[key] for key in ("top", "left", "height", "width")]] * 3


def test_boxes_of_one_batch_follow_each_pictures_own_size() -> None:
    sizes = torch.tensor([[40, 90], [500, 300], [7, 7]])
    mixed = random_boxes(sizes, RandomResizedCrop(), seeded())
    for index in range(3):
        alone = random_boxes(sizes[index].repeat(3, 1), RandomResizedCrop(), seeded())
        assert torch.equal(mixed[index], alone[index])


def test_brightness_is_uniform_and_drawn_last() -> None:
    config = RandomResizedCrop(brightness=0.25)
    drawn = draw_crops(sized(2000, 32, 32), config, seeded())
    plain = draw_crops(sized(2000, 32, 32), RandomResizedCrop(), seeded())
    assert drawn.brightness is not None and plain.brightness is None
    assert drawn.brightness.min() >= 0.75 and drawn.brightness.max() <= 1.25
    assert abs(drawn.brightness.mean() - 1) < 0.02 and abs(drawn.brightness.std() - 0.25 / math.sqrt(3)) < 0.01
    assert torch.equal(drawn.boxes, plain.boxes)


def test_crops_mirror_half_of_the_images_or_none() -> None:
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).view(1, 1, 32, 1).expand(400, 32, 32, 3)

    def mirrored(flip: bool) -> int:
        out = Transforms(8, RandomResizedCrop(flip=flip)).train(ramp, seeded())
        return int((out[:, 0, 0, 0] > out[:, 0, 0, -1]).sum())

    assert 160 < mirrored(True) < 240
    assert mirrored(False) == 0


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [32, 60])
def test_accelerators_compute_what_pillow_computes_here(side: int, interpolation: str) -> None:
    config = RandomResizedCrop.model_validate({"interpolation": interpolation, "brightness": 0.25})
    images, sizes = uint8(8, side, side, 3), sized(8, side, side)
    squeezed = Squeezed(images.numpy(), torch.tensor([[90, 70], [40, 200]] * 4).numpy())
    for raw, drawn_from in ((images, sizes), (squeezed, torch.from_numpy(squeezed.sizes))):
        here = Transforms(48, config).train(raw, seeded())
        crops = draw_crops(drawn_from, config, seeded())
        scale = torch.tensor([side, side]).double() / drawn_from
        edges = torch.cat([crops.boxes[:, :2], crops.boxes[:, :2] + crops.boxes[:, 2:]], 1) * scale.repeat(1, 2)
        edges = (edges * 256).round() / 256
        boxes = torch.cat([edges[:, :2], edges[:, 2:] - edges[:, :2]], 1)
        there = (
            crops_of_arrays(images, type(crops)(boxes, crops.flip, crops.brightness), 48, config.interpolation) / 255
        )
        assert torch.equal(here, there)
    for frame in (Frame(24, None, config.interpolation), Frame(24, 31, config.interpolation)):
        here = Transforms(24, config, "none", frame.resize, config.interpolation).test(squeezed)
        assert torch.equal(here, frames_of_arrays(images, torch.from_numpy(squeezed.sizes), frame) / 255)


def test_affine_equals_torchvision_inside() -> None:
    config = Affine(shift=0.1, scale=0.2, rotate=30)
    pixels = functional.gaussian_blur(unit(6, 3, 40, 40), [5, 5])
    ours = random_affine(pixels, config, seeded(5))
    draw = torch.rand(6, 4, generator=seeded(5), dtype=torch.float64) * 2 - 1
    for index, (zoom, angle, x, y) in enumerate(draw.tolist()):
        theirs = functional.affine(
            pixels[index],
            angle=-30 * angle,
            translate=[0.1 * x * 40, 0.1 * y * 40],
            scale=1.2**zoom,
            shear=[0, 0],
            interpolation=functional.InterpolationMode.BILINEAR,
        )
        torch.testing.assert_close(ours[index, :, 14:26, 14:26], theirs[:, 14:26, 14:26], atol=1e-4, rtol=0)


def test_affine_of_nothing_is_the_image_and_borders_repeat() -> None:
    pixels = unit(3, 3, 16, 16)
    torch.testing.assert_close(random_affine(pixels, Affine(shift=0, scale=0), seeded()), pixels, atol=1e-5, rtol=0)
    white = torch.ones(3, 3, 16, 16)
    torch.testing.assert_close(random_affine(white, Affine(shift=0.5, rotate=180), seeded()), white)


AUGMENTATIONS = [NoAugmentation(), Affine(rotate=10), RandomResizedCrop()]


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=lambda augment: augment.kind)
def test_a_generator_decides_everything(augment: NoAugmentation | Affine | RandomResizedCrop) -> None:
    transforms, images = Transforms(24, augment), uint8(4, 32, 32, 3)
    state = torch.get_rng_state()
    first, again, other = (transforms.train(images, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert torch.equal(first, other) == transforms.is_deterministic
    assert first.shape == (4, 3, 24, 24) and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1


def test_without_augmentation_training_images_are_test_images() -> None:
    transforms, images = Transforms(16, NoAugmentation(), "half"), uint8(3, 32, 32, 3)
    assert transforms.is_deterministic
    assert torch.equal(transforms.train(images, seeded()), transforms.test(images))


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=lambda augment: augment.kind)
def test_an_image_does_not_see_its_neighbours(augment: NoAugmentation | Affine | RandomResizedCrop) -> None:
    transforms, images = Transforms(16, augment), uint8(4, 24, 24, 3)
    changed = images.clone()
    changed[[0, 1, 3]] = 0
    torch.testing.assert_close(transforms.train(images, seeded())[2], transforms.train(changed, seeded())[2])


def test_images_of_the_right_size_are_only_scaled() -> None:
    images = uint8(2, 16, 16, 3)
    expected = images.permute(0, 3, 1, 2) / 255
    assert torch.equal(Transforms(16, NoAugmentation()).test(images), expected)
    finished = Finished(images.numpy())
    assert torch.equal(Transforms(16, NoAugmentation(), "none", 20).test(finished), expected)
    with pytest.raises(ValueError, match="finished for another image size than 20"):
        Transforms(20, NoAugmentation()).test(finished)


def test_normalisation() -> None:
    images = uint8(2, 8, 8, 3)
    pixels = images.permute(0, 3, 1, 2) / 255
    expected = functional.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(Transforms(8, NoAugmentation(), "imagenet").test(images), expected)
    expected = functional.normalize(pixels, [0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761])
    torch.testing.assert_close(Transforms(8, NoAugmentation(), "cifar100").test(images), expected)
    torch.testing.assert_close(Transforms(8, NoAugmentation(), "half").test(images), pixels * 2 - 1)


def test_mixed_precision_does_not_round_pixels() -> None:
    images, parts = uint8(2, 32, 32, 3), Parts.of(torch.tensor([[0, 0, 32, 32], [3, 4, 20, 9]]), 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = resized(images, parts, 16)
    assert torch.equal(mixed, resized(images, parts, 16))


def test_a_configuration_carries_over() -> None:
    config = BenchmarkConfig.model_validate(
        {
            "image_size": 24,
            "augment": {"kind": "affine"},
            "normalize": "half",
            "test_resize": 30,
            "test_interpolation": "bicubic",
        }
    )
    assert Transforms.from_config(config) == Transforms(24, Affine(), "half", 30, "bicubic")


@pytest.mark.parametrize("images", [torch.zeros(2, 8, 8, 3), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])
def test_other_layouts_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="must be uint8 of shape"):
        Transforms(8, NoAugmentation()).test(images)


def test_an_empty_batch_stays_empty() -> None:
    for augment in (NoAugmentation(), RandomResizedCrop()):
        assert Transforms(8, augment).train(np.empty((0, 16, 16, 3), np.uint8), seeded()).shape == (0, 3, 8, 8)
