"""Images and classes of an Avalanche benchmark, read through its streams' interface; Avalanche itself is not imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smope_bench.benchmarks.errors import BenchmarkError

BATCH = 256
MODES = ("1", "L", "P", "RGB")  # Pillow's modes whose pixels have one meaning as RGB
SHOW = "build it with eval transforms that end in ToTensor and leave Normalize to the benchmark's setting normalize"


@dataclass(frozen=True)
class Arrival:
    """The protocol of a benchmark: ``classes``, its class ids in order of arrival, and how many come with each experience.

    ``domains``: names of the experiences where classes come again, else empty. ``shares_tests``: whether one test experience
    is for all of them.
    """

    classes: tuple[int, ...]
    sizes: tuple[int, ...]
    names: tuple[str, ...]
    task_labels: bool
    domains: tuple[str, ...] = ()
    shares_tests: bool = False

    @property
    def labels(self) -> dict[int, int]:
        """New labels by class id."""
        return {class_id: label for label, class_id in enumerate(self.classes)}


@dataclass(frozen=True)
class Chunk:
    """Some images of experience number ``experience``. ``rows``: their places in their split, if the benchmark has them."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64] | None
    experience: int


def read_arrival(scenario: Any) -> Arrival:
    """Read an Avalanche benchmark's order of arrival. Where classes come again, it is domain-incremental.

    Classes that arrive together are ordered by their ids. Raises BenchmarkError for a benchmark that is of neither kind.
    """
    streams = getattr(scenario, "streams", None)
    if not isinstance(streams, dict) or not {"train", "test"} <= set(streams):
        raise BenchmarkError("not an Avalanche benchmark with a train and a test stream")
    order: list[int] = []
    sizes: list[int] = []
    again: tuple[int, int] | None = None
    task_labels: set[int] = set()
    for number, experience in enumerate(streams["train"]):
        found = sorted(set(_targets(experience.dataset, f"training experience {number}")))
        known = sorted(set(found) & set(order))
        if known and again is None:
            again = known[0], number
        order += [class_id for class_id in found if class_id not in known]
        sizes.append(len(found))
        task_labels |= {int(label) for label in getattr(experience.dataset, "targets_task_labels", ())}
    _require_same_classes(streams, order)
    names, labelled = _names(scenario, order), any(label != 0 for label in task_labels)
    if again is None:
        return Arrival(tuple(order), tuple(sizes), names, labelled)
    _require_same_meaning(scenario, *again, several_tasks=len(task_labels) > 1)
    tested = len(streams["test"])
    if tested not in (1, len(sizes)):
        raise BenchmarkError(
            f"the benchmark is domain-incremental and has {len(sizes)} training experiences but {tested} test experiences;"
            " give one for each, or one for all"
        )
    if len(streams.get("valid", ())) not in (0, len(sizes)):
        raise BenchmarkError(
            f"the valid stream has {len(streams['valid'])} experiences for {len(sizes)} training experiences"
        )
    domains = tuple(f"experience {number}" for number in range(len(sizes)))
    return Arrival(tuple(order), tuple(sizes), names, labelled, domains, shares_tests=tested == 1)


def _require_same_meaning(scenario: Any, class_id: int, number: int, *, several_tasks: bool) -> None:
    """Raise BenchmarkError where a class id that comes again stands for another class."""
    original = [set(ids) for ids in getattr(scenario, "original_classes_in_exp", ())]
    renumbered = bool(original) and sum(map(len, original)) == len(set().union(*original))
    if several_tasks or renumbered:
        raise BenchmarkError(
            f"class {class_id} of training experience {number} has come before with another task label or meaning: the"
            " benchmark numbers its classes anew in each task; give each class an id of its own or, where the classes are the"
            " same in each, make it without task labels"
        )


def read_images(scenario: Any, stream: str, arrival: Arrival) -> Iterator[Chunk]:
    """All images of a stream under its eval transforms, at most ``BATCH`` at a time, with new labels.

    Raises BenchmarkError naming the image that cannot be used.
    """
    shape: tuple[int, ...] | None = None
    labels = arrival.labels
    for number, experience in enumerate(scenario.streams[stream]):
        where = f"{stream} experience {number}"
        dataset = experience.dataset
        targets = _targets(dataset, where)
        rows = getattr(dataset, "rows", None)
        shown = dataset.eval() if hasattr(dataset, "eval") else dataset
        for start in range(0, len(targets), BATCH):
            positions = range(start, min(start + BATCH, len(targets)))
            images = []
            for position in positions:
                item = shown[position]
                place = f"image {position} of {where}"
                images.append(_checked_item(item, targets[position], place))
                if shape not in (None, images[-1].shape):
                    sides = " and ".join(f"{side[1]}x{side[0]}" for side in (shape, images[-1].shape) if side)
                    raise BenchmarkError(f"{place}: images of {sides} pixels; add a resize to the eval transforms")
                shape = images[-1].shape
            yield Chunk(
                np.stack(images),
                np.array([labels[targets[position]] for position in positions], dtype=np.int64),
                None if rows is None else np.array([rows[position] for position in positions], dtype=np.int64),
                number,
            )


def _targets(dataset: Any, where: str) -> list[int]:
    targets = getattr(dataset, "targets", None)
    if targets is None:
        raise BenchmarkError(f"{where} has no class labels (targets); make it with as_classification_dataset")
    fault = BenchmarkError(f"{where} has labels that are not one class id an image")
    if not hasattr(targets, "__iter__") or not all(map(_is_one_number, targets)):
        raise fault
    try:
        labels = [int(target) for target in targets]
    except ValueError as error:
        raise fault from error
    if not labels:
        raise BenchmarkError(f"{where} has no images")
    return labels


def _is_one_number(target: Any) -> bool:
    """Whether ``int`` takes it, unless it is a text or a number without an integer."""
    shape = getattr(target, "shape", ())
    return (isinstance(target, str) or hasattr(target, "__int__")) and all(side == 1 for side in shape)


def _require_same_classes(streams: dict[str, Any], order: list[int]) -> None:
    """Raise BenchmarkError unless the test and held-out classes are the training classes."""
    tested: set[int] = set()
    for number, experience in enumerate(streams["test"]):
        tested |= set(_targets(experience.dataset, f"test experience {number}"))
    missing, unknown = sorted(set(order) - tested), sorted(tested - set(order))
    if missing:
        raise BenchmarkError(f"class {missing[0]} is trained on but has no image in the test stream")
    if unknown:
        held_out = {
            target for experience in streams.get("valid", ()) for target in _targets(experience.dataset, "valid")
        }
        remedy = "; its images are all in the valid stream: pass shuffle=True to benchmark_with_validation_stream"
        raise BenchmarkError(
            f"class {unknown[0]} is in the test stream but never trained on{remedy if unknown[0] in held_out else ''}"
        )


def _names(scenario: Any, order: list[int]) -> tuple[str, ...]:
    """Names in order of arrival: the benchmark's own if it has one a class id, else the ids."""
    names = getattr(scenario, "class_names", None)
    if isinstance(names, (list, tuple)) and min(order) >= 0 and max(order) < len(names):
        return tuple(str(names[class_id]) for class_id in order)
    return tuple(str(class_id) for class_id in order)


def _checked_item(item: Any, target: int, place: str) -> NDArray[np.uint8]:
    if not isinstance(item, (tuple, list)) or len(item) < 2 or int(item[1]) != target:
        raise BenchmarkError(
            f"{place}: an item must be (image, label, ...) with the label of targets; remove its target transform"
        )
    try:
        return as_pixels(item[0])
    except BenchmarkError as error:
        raise BenchmarkError(f"{place}: {error}") from error


def as_pixels(image: Any) -> NDArray[np.uint8]:
    """One image as uint8 (H, W, 3); grey is repeated.

    Pillow images, uint8 arrays (H, W[, C]) and tensors ([C, ]H, W), and floats in [0, 1], which are rounded to 1/255.
    Raises BenchmarkError for anything else; the caller adds which image it is.
    """
    if isinstance(image, Image.Image):
        if image.mode not in MODES:
            raise BenchmarkError(f"Pillow image of mode {image.mode!r}; convert it to RGB")
        return np.array(image.convert("RGB"))
    is_tensor = hasattr(image, "detach")
    pixels = image.detach().cpu().numpy() if is_tensor else image
    if not isinstance(pixels, np.ndarray):
        raise BenchmarkError(f"an image of type {type(image).__name__}; give Pillow images, arrays or tensors")
    pixels = _three_channels(pixels, channels_first=is_tensor)
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise BenchmarkError(f"pixels of type {pixels.dtype}; give uint8, or floats in [0, 1]")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise BenchmarkError(f"pixels from {low:.3g} to {high:.3g} where [0, 1] is understood; {SHOW}")
    return np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)


def _three_channels(pixels: np.ndarray, *, channels_first: bool) -> np.ndarray:
    """(H, W, 3) of grey or RGB; in an array the channels come last, in a tensor first."""
    shape = pixels.shape
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif pixels.ndim == 3 and channels_first and shape[0] in (1, 3):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or not pixels.size:
        raise BenchmarkError(f"an image of shape {shape}; give one or three channels")
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


Say = Callable[[str], None]


def say_task_labels(arrival: Arrival, say: Say) -> None:
    """Log once that methods here do not get the task."""
    if arrival.task_labels:
        say("the benchmark's task labels are not used: methods are tested without knowing the task")
