"""The feeder: how far it works ahead, errors of its threads, and what is left when it is closed; batches for accelerators."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smope_bench.benchmarks.augmentation import Affine, Augmentation, NoAugmentation, RandomResizedCrop
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.arrays import Encoded, EncodedStore, Finished, Squeezed
from smope_bench.benchmarks.stream import View
from smope_bench.benchmarks.transforms import batch as batch_module
from smope_bench.benchmarks.transforms.batch import Transforms
from smope_bench.benchmarks.transforms.staging import HostBuffer
from smope_bench.harness.cancellation import Interrupted, StopRequest
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.training.batches import feeder as feeder_module
from smope_bench.harness.training.batches.feeder import Feeder
from smope_bench.methods.common.api import Batch
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.resumed import (  # pyright: ignore[reportMissingImports]
    OFTEN,
    Hoarder,
    Killed,
    assert_same,
    dies_at_save,
    finish,
)

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (10, 40, 40, 3)).astype(np.uint8)
SIZES = np.array([[50 + number, 90 - number] for number in range(10)], dtype=np.int64)


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.tile(PIXELS[number], (2, 1 + number % 2, 1))).save(buffer, "JPEG")
    return buffer.getvalue()


def packed(files: list[bytes], folder: Path) -> View:
    """The files as a view of an exact store."""
    path = folder / "train.images"
    path.write_bytes(b"".join(files))
    store = EncodedStore(path, np.cumsum([0, *map(len, files)]))
    return View(store, np.arange(len(files)), np.arange(len(files)))


def feeders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("feeder")]


class SlowShelf:
    """A store that notes the rows that are read."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, rows: Any) -> Any:
        self.reads += rows.tolist()
        return PIXELS[rows]


def test_so_many_batches_are_made_ahead_and_no_more() -> None:
    shelf = SlowShelf()
    view = View(shelf, np.arange(10), np.arange(10))
    with Feeder(CPU, threads=1, ahead=3) as feeder:
        batches = feeder.batches(view, Transforms(8, NoAugmentation()), [slice(n, n + 1) for n in range(10)])
        next(batches)
        deadline = time.monotonic() + 10
        while len(shelf.reads) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert shelf.reads == [0, 1, 2, 3]
        batches.close()


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    files = [jpeg(number) for number in range(10)]
    files[7] = files[7][: len(files[7]) // 2]
    view = packed(files, tmp_path)
    for ahead in (0, 2):
        with Feeder(CPU, threads=2, ahead=ahead) as feeder:
            batches = feeder.batches(view, Transforms(8, NoAugmentation()), [slice(0, 5), slice(5, 10)])
            next(batches)
            with pytest.raises(
                BenchmarkError,
                match=r"picture 7 of .*train\.images: a damaged image .*`smope-bench data verify [^`]+` names the command",
            ):
                next(batches)
        assert not feeders()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_thread_is_left_when_a_pass_is_broken_off(tmp_path: Path, error: type[BaseException]) -> None:
    view = packed([jpeg(number) for number in range(10)], tmp_path)
    kept = []
    with pytest.raises(error), Feeder(CPU, threads=2, ahead=3) as feeder:
        batches = feeder.batches(view, Transforms(8, NoAugmentation()), [slice(n, n + 2) for n in range(0, 10, 2)])
        kept.append(batches)  # as the traceback of an error keeps it
        next(batches)
        assert feeders()
        raise error
    assert not feeders()
    kept[0].close()


def test_one_pool_serves_all_passes(tmp_path: Path) -> None:
    view = packed([jpeg(number) for number in range(10)], tmp_path)
    with Feeder(CPU, threads=2, ahead=2) as feeder:
        seen = set()
        for _ in range(3):
            for _ in feeder.batches(view, Transforms(8, NoAugmentation()), [slice(n, n + 2) for n in range(0, 10, 2)]):
                seen |= {thread.ident for thread in feeders()}
        assert len(seen) == 2


RAWS = {
    "files": Encoded(tuple(jpeg(number) for number in range(10))),
    "arrays": PIXELS,
    "squeezed": Squeezed(PIXELS, SIZES),
    "finished": Finished(PIXELS[:, :24, :24].copy()),
}
AUGMENTATIONS: list[Augmentation] = [NoAugmentation(), Affine(rotate=10), RandomResizedCrop(brightness=0.2)]


CASES = [(kind, augment) for kind in RAWS for augment in AUGMENTATIONS]
CASES.remove(("finished", AUGMENTATIONS[-1]))  # what the test transform has finished is not cropped in training


@pytest.mark.parametrize(("kind", "augment"), CASES)
def test_an_accelerator_gets_the_same_batch_in_one_copy(
    monkeypatch: pytest.MonkeyPatch, kind: str, augment: Augmentation
) -> None:
    raw, transforms, labels = RAWS[kind], Transforms(24, augment, "imagenet", 30), np.arange(10)
    draws = [transforms.draw(10, torch.Generator().manual_seed(4)) for _ in range(2)]
    here = transforms.stage(raw, CPU, draws[0], labels)
    for piece in here.pieces:
        piece()
    expected, _ = here.finish()
    copies = []
    moved = HostBuffer.moved
    monkeypatch.setattr(HostBuffer, "moved", lambda buffer: copies.append(buffer) or moved(buffer))
    monkeypatch.setattr(batch_module, "is_host", lambda _: False)
    there = transforms.stage(raw, CPU, draws[1], labels)
    for piece in there.pieces:
        piece()
    images, targets = there.finish()
    assert torch.equal(images, expected) and torch.equal(targets, torch.arange(10)) and len(copies) == 1
    assert targets.untyped_storage().nbytes() == 80  # keeps no picture alive


@pytest.mark.parametrize("saves", [4, 7])
def test_a_run_in_pieces_fed_ahead_is_the_undisturbed_run(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    registries.methods.add("hoarder", "tests", Hoarder)
    spec = micro_spec("hoarder")
    whole = finish(spec, registries, tmp_path / "whole")
    monkeypatch.setattr(feeder_module, "AHEAD_ON_CPU", 3)
    for _ in range(50):
        try:
            pieces = finish(spec, registries, tmp_path / "pieces", may_publish=dies_at_save(saves), **OFTEN)
        except Killed:
            assert not feeders()
        else:
            break
    assert_same(pieces, whole)  # pyright: ignore[reportPossiblyUnboundVariable]
    assert not feeders()


def test_a_run_fed_ahead_goes_on_with_less_memory(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registries.methods.add("hoarder", "tests", Hoarder)
    spec, steps = micro_spec("hoarder"), iter(range(1000))
    whole = finish(spec, registries, tmp_path / "whole")
    step = Hoarder.training_step

    def short_of_memory(self: Hoarder, batch: Batch) -> torch.Tensor:
        if next(steps) == 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self, batch)

    monkeypatch.setattr(Hoarder, "training_step", short_of_memory)
    monkeypatch.setattr(feeder_module, "AHEAD_ON_CPU", 3)
    found = finish(spec, registries, tmp_path / "short", **OFTEN)
    assert found.costs.pop("memory_plan") == "hidden layers recomputed"
    found.events = [event for event in found.events if event["event"] != "memory_plan"]
    assert_same(found, whole)
    assert not feeders()


def test_a_stopped_run_leaves_no_thread(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registries.methods.add("hoarder", "tests", Hoarder)
    monkeypatch.setattr(feeder_module, "AHEAD_ON_CPU", 3)
    spec, stop = micro_spec("hoarder"), StopRequest()
    step = Hoarder.training_step

    def stopping(self: Hoarder, batch: Batch) -> torch.Tensor:
        stop.set()
        return step(self, batch)

    monkeypatch.setattr(Hoarder, "training_step", stopping)
    with pytest.raises(Interrupted):
        finish(spec, registries, tmp_path, stop_request=stop)
    assert not feeders()
