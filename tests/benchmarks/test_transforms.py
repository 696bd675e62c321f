"""Augmentation, cropping and normalisation against torchvision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from benchmarks.augmentation import Affine, NoAugmentation, RandomResizedCrop
from benchmarks.base import BenchmarkConfig
from benchmarks.transforms import Transforms, random_affine, random_boxes, random_resized_crop, resized_boxes


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def uint8(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=seeded(1), dtype=torch.uint8)


def unit(*shape: int) -> Tensor:
    return torch.rand(shape, generator=seeded(2))


@pytest.mark.parametrize("size", [7, 24, 64])
def test_resized_boxes_equal_torchvision(size: int) -> None:
    pixels = unit(5, 3, 50, 60)
    boxes = torch.tensor([[3, 4, 40, 30], [0, 0, 50, 60], [49, 59, 1, 1], [10, 20, 24, 24], [0, 3, 9, 57]])
    ours = resized_boxes(pixels, boxes, size)
    for index, (top, left, height, width) in enumerate(boxes.tolist()):
        theirs = functional.resized_crop(pixels[index], top, left, height, width, [size, size], antialias=True)
        torch.testing.assert_close(ours[index], theirs, atol=1e-5, rtol=0)


def test_flipped_boxes_are_mirrored() -> None:
    pixels, boxes = unit(2, 3, 20, 20), torch.tensor([[2, 3, 11, 13], [0, 0, 20, 20]])
    plain, mixed = (resized_boxes(pixels, boxes, 16, flip) for flip in (None, torch.tensor([True, False])))
    torch.testing.assert_close(mixed[0], plain[0].flip(-1))
    torch.testing.assert_close(mixed[1], plain[1])


def test_boxes_lie_inside_and_keep_their_ranges() -> None:
    config = RandomResizedCrop()
    top, left, height, width = random_boxes(4000, 64, 96, config, seeded()).T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 64).all() and (left + width <= 96).all()
    area = (height * width) / (64 * 96)
    assert area.min() > 0.07 and area.max() <= 1.0
    ratio = width / height
    assert ratio.min() > 0.7 and ratio.max() < 1.4
    # Every position that a box may take is taken, the first and the last included.
    low, narrow = height < 64, width < 96
    assert (top[low] == 0).any() and ((top + height)[low] == 64).any()
    assert (left[narrow] == 0).any() and ((left + width)[narrow] == 96).any()


def test_boxes_are_distributed_as_torchvision_draws_them() -> None:
    config = RandomResizedCrop()
    ours = random_boxes(4000, 48, 48, config, seeded()).double()
    torch.manual_seed(0)
    image = torch.zeros(3, 48, 48)
    draw = v2.RandomResizedCrop(48, scale=config.scale, ratio=config.ratio)
    theirs = torch.tensor([[p[k] for k in ("top", "left", "height", "width")] for p in _params(draw, image, 1500)])
    error = ours.std(0) * math.sqrt(1 / 4000 + 1 / 1500)
    assert ((ours.mean(0) - theirs.double().mean(0)).abs() < 4 * error).all()


def _params(draw: v2.RandomResizedCrop, image: Tensor, count: int) -> list[dict[str, int]]:
    return [draw.make_params([image]) for _ in range(count)]


@pytest.mark.parametrize(("height", "width"), [(10, 200), (200, 10)])
def test_where_no_draw_fits_the_centre_is_taken(height: int, width: int) -> None:
    boxes = random_boxes(3, height, width, RandomResizedCrop(scale=(1, 1)), seeded())
    theirs = v2.RandomResizedCrop(8, scale=(1, 1)).make_params([torch.zeros(3, height, width)])
    assert boxes.tolist() == [[theirs[key] for key in ("top", "left", "height", "width")]] * 3


def test_crops_mirror_half_of_the_images_or_none() -> None:
    ramp = torch.linspace(0, 1, 32).expand(400, 3, 32, 32)

    def mirrored(flip: bool) -> int:
        out = random_resized_crop(ramp, RandomResizedCrop(flip=flip), 8, seeded())
        return int((out[:, 0, 0, 0] > out[:, 0, 0, -1]).sum())

    assert 160 < mirrored(True) < 240
    assert mirrored(False) == 0


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
    assert torch.equal(Transforms(16, NoAugmentation()).test(images), images.permute(0, 3, 1, 2) / 255)


def test_larger_images_are_resized_or_cropped() -> None:
    images = uint8(2, 32, 32, 3)
    pixels = images.permute(0, 3, 1, 2) / 255
    resized = Transforms(20, NoAugmentation(), test_crop="resize").test(images)
    torch.testing.assert_close(resized, functional.resize(pixels, [20, 20], antialias=True), atol=1e-5, rtol=0)
    cropped = Transforms(20, NoAugmentation(), test_crop="centre").test(images)
    assert torch.equal(cropped, functional.center_crop(pixels, [20, 20]))


def test_smaller_images_are_enlarged_even_where_a_centre_is_asked_for() -> None:
    images = uint8(1, 8, 8, 3)
    pixels = images.permute(0, 3, 1, 2) / 255
    enlarged = Transforms(32, NoAugmentation(), test_crop="centre").test(images)
    torch.testing.assert_close(enlarged, functional.resize(pixels, [32, 32]), atol=1e-5, rtol=0)


def test_normalisation() -> None:
    images = uint8(2, 8, 8, 3)
    pixels = images.permute(0, 3, 1, 2) / 255
    expected = functional.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(Transforms(8, NoAugmentation(), "imagenet").test(images), expected)
    torch.testing.assert_close(Transforms(8, NoAugmentation(), "half").test(images), pixels * 2 - 1)


def test_mixed_precision_does_not_round_pixels() -> None:
    transforms, images = Transforms(16, RandomResizedCrop()), uint8(2, 32, 32, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = transforms.train(images, seeded())
    assert torch.equal(mixed, transforms.train(images, seeded()))


def test_a_configuration_carries_over() -> None:
    config = BenchmarkConfig.model_validate(
        {"image_size": 24, "augment": {"kind": "affine"}, "normalize": "half", "test_crop": "centre"}
    )
    assert Transforms.from_config(config) == Transforms(24, Affine(), "half", "centre")


@pytest.mark.parametrize("images", [torch.zeros(2, 8, 8, 3), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])
def test_other_layouts_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="must be uint8 of shape"):
        Transforms(8, NoAugmentation()).test(images)
