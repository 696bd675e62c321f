"""AutoAugment as a part of the random crop: torchvision's operations, its own draws apart, seeded image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode

from smope_bench.benchmarks.augmentation import Policy, RandomResizedCrop
from smope_bench.benchmarks.base import BenchmarkConfig
from smope_bench.benchmarks.image_store.arrays import Squeezed
from smope_bench.benchmarks.image_store.pictures import Crop, cropped
from smope_bench.benchmarks.transforms import batch as batch_module
from smope_bench.benchmarks.transforms.auto_augment import DRAWS, auto_augmented
from smope_bench.benchmarks.transforms.batch import Transforms
from smope_bench.benchmarks.transforms.crops import CropDraws

POLICIES: tuple[Policy, ...] = ("imagenet", "cifar10", "svhn")
PAIRS = 25


def picture(seed: int, height: int = 48, width: int = 64) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6, width // 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def pixels(count: int = 12) -> np.ndarray:
    return np.stack([np.asarray(picture(seed, 32, 32)) for seed in range(count)])


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_pair_of_operations_is_torchvisions(policy: Policy) -> None:
    """All pairs, with both signs and each operation applied and left out, against torchvision's transform with the same draws."""
    theirs: Any = AutoAugment(AutoAugmentPolicy(policy), InterpolationMode.BILINEAR)
    image, changed = picture(0), 0
    assert len(theirs.policies) == PAIRS
    for place in range(PAIRS):
        for chances, signs in (((0.0, 0.0), (0.1, 0.9)), ((0.0, 0.999), (0.9, 0.1)), ((0.999, 0.0), (0.4, 0.6))):
            theirs.get_params = lambda count, p=place, c=chances, s=signs: (p, torch.tensor(c), torch.tensor(s) >= 0.5)
            expected = np.asarray(theirs(image))
            found = np.asarray(auto_augmented(image, policy, [(place + 0.5) / PAIRS, *chances, *signs]))
            assert np.array_equal(found, expected)
            changed += not np.array_equal(found, np.asarray(image))
    assert changed > PAIRS


def test_pairs_and_signs_are_drawn_as_torchvision_draws_them() -> None:
    """As often as uniform draws say: every pair, and each of an operation's two signs."""
    drawn = CropDraws.draw(5000, RandomResizedCrop(policy="imagenet"), generator()).operations
    assert drawn is not None and drawn.shape == (5000, DRAWS) and drawn.min() >= 0 and drawn.max() < 1
    places = torch.bincount((drawn[:, 0] * PAIRS).long(), minlength=PAIRS)
    assert places.min() > 140 and places.max() < 260
    assert ((drawn.mean(0) - 0.5).abs() < 0.02).all()


@pytest.mark.parametrize("raw", [pixels(), Squeezed(pixels(), np.array([[60, 40]] * 12))], ids=["arrays", "squeezed"])
def test_the_operations_come_before_the_box_and_their_bits_repeat(raw: Any) -> None:
    plain, policy = RandomResizedCrop(flip=False), RandomResizedCrop(flip=False, policy="imagenet")
    found = Transforms(24, policy).train(raw, generator())
    assert torch.equal(found, Transforms(24, policy).train(raw, generator()))
    assert not torch.equal(found, Transforms(24, policy).train(raw, generator(6)))
    drawn = CropDraws.draw(12, policy, generator())
    assert torch.equal(drawn.shapes, CropDraws.draw(12, plain, generator()).shapes), "boxes are those without a policy"
    if isinstance(raw, Squeezed):
        return
    boxes = drawn.crops(torch.tensor([[32, 32]] * 12), policy).boxes
    assert drawn.operations is not None
    for row, numbers in enumerate(drawn.operations.tolist()):
        image = auto_augmented(Image.fromarray(raw[row]), "imagenet", numbers)
        expected = cropped(image, Crop(tuple(boxes[row].tolist())), 24, "bilinear")
        assert torch.equal(found[row], torch.from_numpy(expected.copy()).permute(2, 0, 1) / 255)


def test_a_picture_of_a_batch_does_not_see_its_neighbours() -> None:
    augment, images = Transforms(24, RandomResizedCrop(policy="cifar10")), pixels()
    other = images.copy()
    other[3] = 255 - other[3]
    before, after = (augment.train(one, generator()) for one in (images, other))
    same = [bool(torch.equal(*pair)) for pair in zip(before, after, strict=True)]
    assert same == [row != 3 for row in range(12)]


def test_an_accelerator_gets_what_the_host_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    augment, images = Transforms(24, RandomResizedCrop(policy="imagenet"), "half"), pixels()
    expected = augment.train(images, generator())
    monkeypatch.setattr(batch_module, "is_host", lambda _: False)
    assert torch.equal(augment.train(images, generator()), expected)


def test_a_dump_without_a_policy_is_as_before_there_were_any() -> None:
    dumped = RandomResizedCrop().model_dump(mode="json")
    assert "policy" not in dumped and len(dumped) == 6
    config = BenchmarkConfig(augment=RandomResizedCrop(policy="svhn"))
    assert config.model_dump()["augment"]["policy"] == "svhn"
    assert BenchmarkConfig.model_validate_json(config.model_dump_json()) == config
    assert "test_squeeze" not in config.model_dump()


def test_test_pictures_can_be_squeezed_to_a_square() -> None:
    """As torchvision's Resize((256, 256)) and CenterCrop, here 40 and 32."""
    image = picture(1, 50, 90)
    square = image.resize((40, image.height), Image.Resampling.BILINEAR).resize((40, 40), Image.Resampling.BILINEAR)
    expected = np.asarray(square)[4:36, 4:36]
    found = Transforms(32, test_resize=40, test_squeeze=True, augment=RandomResizedCrop()).test(np.array(image)[None])
    assert torch.equal(found[0], torch.from_numpy(expected.copy()).permute(2, 0, 1) / 255)
    with pytest.raises(ValueError, match="test_squeeze=True has no effect without test_resize"):
        BenchmarkConfig(test_squeeze=True)
