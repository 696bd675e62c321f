"""Timing of stored pictures: random batches of the fast mode against decoding the same JPEG files, interleaved.

The files are made for the measurement: pictures of about 400 x 350 pixels with enough detail to give JPEG files the size of
photographs. Both sides use the same cores in the same process.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor

from smope_bench.benchmarks.augmentation import RandomResizedCrop
from smope_bench.benchmarks.base import BenchmarkCard, BenchmarkConfig, ProgressCallback, Split, silent
from smope_bench.benchmarks.image_store.picture_benchmark import ImageMode, Picture, PictureBenchmark, PictureConfig
from smope_bench.benchmarks.image_store.pictures import in_threads
from smope_bench.benchmarks.stream import Stream, View, build_stream
from smope_bench.harness.timing.measure import interleaved
from smope_bench.harness.timing.records import Row, make_row, ratios, spread

BATCH, SIZE = 128, 224
QUALITY = 92
CROPS = RandomResizedCrop()
Load = Callable[[NDArray[np.int64]], object]
DECODED, CROPPED = f"torchvision: decode, crop, flip ({SIZE} px)", f"stored: read 256 px, crop, flip ({SIZE} px)"


class MadePictures(PictureBenchmark[PictureConfig]):
    """One class of seeded JPEG files with structure at all scales; the test split holds the same files."""

    name: ClassVar[str] = "made-pictures"
    Config: ClassVar[type[BenchmarkConfig]] = PictureConfig
    card: ClassVar[BenchmarkCard] = BenchmarkCard("Made pictures", "made by the measurement", "none", "seeded noise")

    def __init__(self, config: PictureConfig, root: Path, files: Sequence[bytes] = ()) -> None:
        super().__init__(config, root)
        self.files = files

    @property
    def class_names(self) -> tuple[str, ...]:
        """One class."""
        return ("noise",)

    def source(self) -> dict[str, Any]:
        """The number of files identifies them, as they are seeded."""
        return {"files": len(self.files)}

    def pictures(self, progress: ProgressCallback) -> Iterator[Picture]:
        """All files as training pictures and again as test pictures."""
        progress(f"{self.name}: {len(self.files)} files")
        splits: tuple[Split, Split] = ("train", "test")
        for split in splits:
            for number, data in enumerate(self.files):
                yield Picture(split, 0, f"{number}.jpg", data)


def made_picture(seed: int) -> Image.Image:
    """A seeded picture of about 400 x 350 pixels whose amplitude falls with frequency, as in photographs."""
    rng = np.random.default_rng(seed)
    width, height = int(rng.integers(350, 451)), int(rng.integers(300, 401))
    pixels = np.full((height, width, 3), 128.0)
    for level in range(8):
        shape = (max(height >> (7 - level), 2), max(width >> (7 - level), 2))
        layer = rng.normal(size=(*shape, 1)) + 0.3 * rng.normal(size=(*shape, 3))
        pixels += 40 * 0.75**level * _enlarged(layer, width, height)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _enlarged(layer: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    channels = [Image.fromarray(layer[..., channel].astype(np.float32)) for channel in range(3)]
    return np.stack([np.asarray(each.resize((width, height), Image.Resampling.BICUBIC)) for each in channels], axis=-1)


def made_files(count: int) -> list[bytes]:
    """Seeded JPEG files."""

    def encoded(seed: int) -> bytes:
        buffer = io.BytesIO()
        made_picture(seed).save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    return in_threads(encoded, range(count))


def made_stream(files: list[bytes], root: Path, mode: ImageMode, store_size: int = 256) -> Stream:
    """The files as a prepared stream of one task, with torchvision's random crops and the test transform 256/224."""
    settings = {"tasks": 1, "image_size": SIZE, "test_resize": 256, "augment": CROPS.model_dump()}
    config = PictureConfig.model_validate({**settings, "image_mode": mode, "store_size": store_size})
    benchmark = MadePictures(config, root, files)
    benchmark.prepare()
    return build_stream(benchmark, 0)


def bench_data(images: int, repeats: int, progress: ProgressCallback = silent) -> list[Row]:
    """Time random batches of the fast mode and the decoding of the same files, interleaved, after a warm-up.

    ``ms``: milliseconds a batch; ``times_faster``: ratio to torchvision's decoding and cropping of the same batch. The last row
    also has the mean difference of the fast mode's pixels, in 8-bit steps.
    """
    with TemporaryDirectory() as folder:
        root = Path(folder)
        progress(f"making {images} JPEG files")
        files = made_files(images)
        for number, data in enumerate(files):
            (root / f"{number}.jpg").write_bytes(data)
        progress("storing them")
        stream = made_stream(files, root, "fast")
        small = made_stream(files, root, "fast", store_size=SIZE)
        progress("timing batches")
        rng = np.random.default_rng(0)
        batches = [rng.permutation(images)[:BATCH] for _ in range(1 + repeats)]
        loads = {name: _each(load, batches) for name, load in _contestants(root, stream, small).items()}
        times = interleaved(loads, repeats, torch.device("cpu"), warm_ups=1)
        progress("comparing pixels of both modes")
        train, test = pixel_difference(files[:BATCH], root)
    baseline = times[DECODED]
    rows = [
        make_row(name, ms=spread([1000 * one for one in seconds]), times_faster=ratios(baseline, seconds))
        for name, seconds in times.items()
        if name != CROPPED
    ]
    kib = statistics.mean(map(len, files)) / 1024
    note = f"batches of {min(BATCH, images)} pictures, files of {kib:.1f} KiB"
    took = {"ms": spread([1000 * one for one in times[CROPPED]]), "times_faster": ratios(baseline, times[CROPPED])}
    differ = {"train_difference": round(train, 2), "test_difference": round(test, 2)}
    return [*rows, make_row(CROPPED, note, **took, **differ)]


def pixel_difference(files: list[bytes], root: Path, store_size: int = 256) -> tuple[float, float]:
    """Mean absolute difference between both modes, in 8-bit steps: of random crops, and of the test transform.

    The same boxes are cut in both modes. The second number is that of training pictures under the test transform; test
    pictures are equal.
    """
    exact, fast = made_stream(files, root, "exact"), made_stream(files, root, "fast", store_size)
    both = [stream.tasks[0].train.take(slice(None))[0] for stream in (exact, fast)]
    crops = [exact.transforms.train(raw, Generator().manual_seed(0)) for raw in both]
    frames = [exact.transforms.test(raw) for raw in both]
    train, test = (float((one - two).abs().mean()) * 255 for one, two in (crops, frames))
    return train, test


def _each(load: Load, batches: Sequence[NDArray[np.int64]]) -> Callable[[], object]:
    """Loads the next batch at every call."""
    rows = iter(batches)
    return lambda: load(next(rows))


def _contestants(root: Path, stream: Stream, small: Stream) -> dict[str, Load]:
    """Candidates by name: each loads the pictures of the given rows. The baseline comes first."""
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import v2

    crop = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
    generator = Generator().manual_seed(0)
    trained, finished, squeezed = stream.tasks[0].train, stream.tests[0], small.tasks[0].train

    def decoded(row: int) -> Any:
        return decode_jpeg(read_file(str(root / f"{row}.jpg")), ImageReadMode.RGB)

    def augmented(view: View, rows: NDArray[np.int64]) -> Tensor:
        return stream.transforms.train(view.take(rows)[0], generator)

    def baseline(rows: NDArray[np.int64]) -> object:
        made = torch.stack(in_threads(lambda row: crop(decoded(row)), rows.tolist()))
        return made.float().div_(255)

    return {
        DECODED: baseline,
        "torchvision: decode alone": lambda rows: in_threads(decoded, rows.tolist()),
        f"stored: read test pictures ({SIZE} px)": finished.take,
        f"stored: read training pictures ({SIZE} px)": squeezed.take,
        "stored: read training pictures (256 px)": trained.take,
        CROPPED: lambda rows: augmented(trained, rows),
    }
