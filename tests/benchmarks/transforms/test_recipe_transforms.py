"""Every recipe's transforms against torchvision's own, to the bit, on arrays and on encoded pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as tv
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from smope_bench.benchmarks.augmentation import RandomResizedCrop
from smope_bench.benchmarks.image_store.arrays import Encoded
from smope_bench.benchmarks.transforms import batch as ours_module
from smope_bench.benchmarks.transforms.batch import Transforms
from smope_bench.benchmarks.transforms.crops import Crops, draw_crops

CIFAR = ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761])
PILLOW_13 = int(Image.__version__.split(".")[0]) >= 13


@dataclass(frozen=True)
class Case:
    """Settings as a recipe writes them, and the reference built from torchvision's classes."""

    augment: dict[str, Any]
    test: dict[str, Any]
    reference: list[Any]
    normalize: Any = "none"


BICUBIC = InterpolationMode.BICUBIC
CASES = {
    "coda style, pictures": Case({}, {"test_resize": 256}, [tv.Resize(256), tv.CenterCrop(224)]),
    "coda style, cifar": Case({}, {"test_resize": 224}, [tv.Resize(224)]),
    "hide, pictures": Case(
        {"scale": (0.05, 1.0)},
        {"test_resize": 256, "test_interpolation": "bicubic"},
        [tv.Resize(256, BICUBIC), tv.CenterCrop(224)],
    ),
    "hide, cifar": Case(
        {"interpolation": "bicubic", "brightness": 63 / 255},
        {"test_resize": 256, "test_interpolation": "bicubic"},
        [tv.Resize(256, BICUBIC), tv.CenterCrop(224)],
        "cifar100",
    ),
}
IS_CIFAR = {"coda style, cifar", "hide, cifar"}


def picture(height: int, width: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 9 + 2, width // 9 + 2, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8))


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def batch(name: str) -> tuple[Any, list[Image.Image]]:
    """A raw batch as the benchmark of this case stores it, and its pictures as a loader opens them."""
    if name in IS_CIFAR:
        images = [picture(32, 32, seed) for seed in range(4)]
        return np.stack([np.asarray(image) for image in images]), images
    files = tuple(
        jpeg(picture(*shape, seed)) for seed, shape in enumerate([(350, 400), (401, 301), (256, 256), (90, 224)])
    )
    return Encoded(files), [Image.open(io.BytesIO(file)).convert("RGB") for file in files]


def transforms(case: Case) -> Transforms:
    test = {"test_resize": None, "test_interpolation": "bilinear", **case.test}
    return Transforms(224, RandomResizedCrop.model_validate(case.augment), case.normalize, **test)


def tensor(case: Case, image: Any) -> Tensor:
    steps: list[Any] = [tv.ToTensor(), *([tv.Normalize(*CIFAR)] if case.normalize == "cifar100" else [])]
    made: Any = tv.Compose(steps)(image)
    return made


@pytest.fixture
def rows_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow 13 resizes some tall pictures along the columns first; the papers' versions never did."""
    plain = Image.Image.resize

    def resize(self: Image.Image, size: Any, resample: Any = None, box: Any = None, *rest: Any) -> Image.Image:
        if box is not None or not PILLOW_13:
            return plain(self, size, resample, box, *rest)
        return plain(plain(self, (size[0], self.height), resample), size, resample)

    monkeypatch.setattr(Image.Image, "resize", resize)


@pytest.mark.usefixtures("rows_first")
@pytest.mark.parametrize("name", CASES)
def test_test_images_are_torchvisions_to_the_bit(name: str) -> None:
    case = CASES[name]
    raw, images = batch(name)
    expected = torch.stack([tensor(case, tv.Compose(case.reference)(image)) for image in images])
    assert torch.equal(transforms(case).test(raw), expected)


@pytest.mark.usefixtures("rows_first")
@pytest.mark.parametrize("name", CASES)
def test_training_images_are_torchvisions_to_the_bit_given_what_is_drawn(name: str) -> None:
    case = CASES[name]
    raw, images = batch(name)
    ours = transforms(case)
    assert isinstance(ours.augment, RandomResizedCrop)
    sizes = torch.tensor([[image.height, image.width] for image in images])
    crops = draw_crops(sizes, ours.augment, torch.Generator().manual_seed(3))
    expected = [tensor(case, reference(image, crops, row, ours.augment)) for row, image in enumerate(images)]
    assert torch.equal(ours.train(raw, torch.Generator().manual_seed(3)), torch.stack(expected))
    assert crops.flip is not None and 0 < crops.flip.sum() < 4


def reference(image: Any, crops: Crops, row: int, config: RandomResizedCrop) -> Any:
    """Torchvision's functions take Pillow's images, whatever their annotations say."""
    top, left, height, width = crops.boxes[row].tolist()
    mode = InterpolationMode(config.interpolation)
    image = F.resized_crop(image, top, left, height, width, [224, 224], mode)
    if crops.flip is not None and crops.flip[row]:
        image = F.hflip(image)
    return image if crops.brightness is None else F.adjust_brightness(image, float(crops.brightness[row]))


def test_the_order_of_pillow_13_moves_few_bytes_of_a_real_picture() -> None:
    case = CASES["coda style, pictures"]
    raw, images = batch("coda style, pictures")
    expected = torch.stack([tensor(case, tv.Compose(case.reference)(image)) for image in images])
    off = (transforms(case).test(raw) - expected).abs() * 255
    assert off.max() < 1.5 and off.mean() < 0.3


def test_what_is_made_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, _ = batch("hide, pictures")
    ours = transforms(CASES["hide, pictures"])
    many = ours.train(raw, torch.Generator().manual_seed(0))
    monkeypatch.setattr(ours_module, "in_threads", lambda work, items: [work(item) for item in items])
    assert torch.equal(ours.train(raw, torch.Generator().manual_seed(0)), many)


def test_a_picture_of_a_batch_does_not_see_its_neighbours() -> None:
    raw, _ = batch("coda style, pictures")
    ours = transforms(CASES["coda style, pictures"])
    whole = ours.train(raw, torch.Generator().manual_seed(0))
    other = Encoded((raw.files[0], raw.files[1], raw.files[0], raw.files[3]))
    mixed = ours.train(other, torch.Generator().manual_seed(0))
    assert torch.equal(mixed[[0, 1, 3]], whole[[0, 1, 3]]) and not torch.equal(mixed[2], whole[2])
