"""Whether a model's answer to an image depends on the other images of its batch, for models of any toolbox.

Importing this module needs numpy alone; the other parts of this package are not loaded, and torch only if the model uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOLERANCE", "BatchDependence", "batch_dependence", "gaps", "other_answers", "scale_of"]

TOLERANCE = 1e-4
"""Largest relative difference that is rounding. Kernels for other batch sizes add in another order, which changes a sum of n
float32 terms by about eps * sqrt(n), and a network has some hundred sums in a row of up to 4096 terms: a random walk of
eps * 64 * sqrt(100) = 8e-5 with eps = 1.2e-7."""
HALF_STEPS = 8
"""Half precision is rounded after each operation, sums in it are float32: about 8 eps for a random walk of 64 operations."""
FACTORS = ("rest", "order", "size")

Values = NDArray[np.float64]


def scale_of(outputs: Values) -> float:
    """The largest magnitude of finite outputs, at least 1: what differences are relative to."""
    finite = np.abs(outputs[np.isfinite(outputs)])
    return max(1.0, float(finite.max(initial=0.0)))


def gaps(reference: Values, outputs: Values, scale: float) -> Values:
    """(N,): the largest difference of each row, relative to ``scale``; infinite where only one of two values is finite."""
    with np.errstate(invalid="ignore"):
        distance = np.abs(outputs - reference)
    same = (outputs == reference) | (np.isnan(outputs) & np.isnan(reference))
    distance = np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))
    return distance.reshape(len(distance), -1).max(axis=1, initial=0.0) / scale


def other_answers(scores: Values, chosen: NDArray[np.int64], tolerance: float) -> NDArray[np.bool_]:
    """(N,): whether the ``chosen`` class of each row of scores (N, C) is beaten by more than a tie, which rounding may break."""
    best, own = scores.max(axis=1), scores[np.arange(len(scores)), chosen]
    return (best != own) & ~(best - own <= tolerance * scale_of(scores))


@dataclass(frozen=True)
class BatchDependence:
    """How far each image's output moves, relative to the largest output (at least 1), when only its batch changes.

    An image depends on its batch where a number exceeds ``tolerance``. All arrays have an entry an image.
    """

    rest: Values
    """With other images beside it, at the same place in a batch of the same size."""
    order: Values
    """With the same images in another order."""
    size: Values
    """Alone, in pairs and in parts of three and five."""
    repeat: Values
    """When the same batch is asked again: random or stateful models differ without any change."""
    answers: NDArray[np.bool_]
    """Whether its highest score becomes that of another class, ties aside; all false where outputs are not scores (N, C)."""
    tolerance: float
    scale: float
    """The largest output: ``rest * scale`` is in the output's own unit."""

    @property
    def worst(self) -> Values:
        """The largest of ``rest``, ``order`` and ``size`` of each image."""
        return np.stack([self.rest, self.order, self.size]).max(axis=0)

    @property
    def repeats(self) -> bool:
        """Whether the model gives the same outputs when asked the same again; otherwise nothing else can be told."""
        return bool((self.repeat <= self.tolerance).all())

    @property
    def independent(self) -> bool:
        """Whether every image's output is its own, rounding aside."""
        return self.repeats and bool((self.worst <= self.tolerance).all())

    @property
    def verdict(self) -> str:
        """One line."""
        count = len(self.rest)
        if not self.repeats:
            return (
                f"Not repeatable: the same batch asked twice differs by up to {self.repeat.max():.1e}, so that dependence on the"
                " batch cannot be told; is the model in evaluation mode?"
            )
        if self.independent:
            return (
                f"Independent of the batch: {count} images move by {self.worst.max():.1e} at most, which is rounding (tolerance"
                f" {self.tolerance:.1e})."
            )
        on = [name for name in FACTORS if (getattr(self, name) > self.tolerance).any()]
        moved = int((self.worst > self.tolerance).sum())
        answers = f"; {int(self.answers.sum())} change their class" if self.answers.any() else ""
        return (
            f"Depends on the batch ({', '.join(on)}): {moved} of {count} images move, by up to {self.worst.max():.1e} of the"
            f" largest output{answers}."
        )

    def table(self) -> str:
        """A line an image: its number, how far it moves by each cause, and whether its class changes."""
        lines = [f"{'image':>5} {'rest':>8} {'order':>8} {'size':>8} {'repeat':>8}  class"]
        for row, numbers in enumerate(zip(self.rest, self.order, self.size, self.repeat, strict=True)):
            cells = " ".join(f"{number:8.1e}" for number in numbers)
            lines.append(f"{row:>5} {cells}  {'changes' if self.answers[row] else 'same'}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"{self.verdict}\n{self.table()}"


def batch_dependence(predict: Callable[[Any], Any], images: Any) -> BatchDependence:
    """Ask ``predict`` for the same images in other batches, and compare its outputs image by image.

    ``predict``: any function of a batch that returns one row an image, as a tensor, an array or a list: scores, features, or
    labels as integers, of which another one counts as a move of 1, even at a tie. Put the model into evaluation mode first, and
    for one that returns a dictionary or a pair give ``lambda batch: model(batch)["logits"]``. ``images``: a tensor, array or
    list with at least two of them, the first axis being the image; eight to sixteen different ones are enough, of several classes.

    Not found is a dependence that shows only for batches larger than ``len(images)``. Raises ValueError or TypeError for images
    or outputs that are not as described.
    """
    count = len(images)
    if count < 2:
        raise ValueError(f"batch_dependence needs at least two images to change the batch of one, got {count}")
    rows = np.arange(count)
    outputs, eps = _asked(predict, images, [rows])
    tolerance = max(TOLERANCE, HALF_STEPS * eps)
    scale = 1.0 if eps == 0 else scale_of(outputs)
    is_scored = eps > 0 and outputs.ndim == 2 and outputs.shape[1] > 1
    chosen = outputs.argmax(axis=1) if is_scored else None
    answers = np.zeros(count, bool)

    def moved(kept: NDArray[np.int64], batches: list[NDArray[np.int64]]) -> Values:
        """(N,): gaps of the images at the places ``kept`` of the rows of all batches, 0 for others."""
        found = np.zeros(count)
        asked, _ = _asked(predict, images, batches)
        of = np.concatenate(batches)[kept]
        np.maximum.at(found, of, gaps(outputs[of], asked[kept], scale))
        if chosen is not None:
            np.logical_or.at(answers, of, other_answers(asked[kept], chosen[of], tolerance))
        return found

    repeat = moved(rows, [rows])
    answers[:] = False
    turned = np.random.default_rng(0).permutation(count)
    order = np.maximum(moved(rows, [rows[::-1].copy()]), moved(rows, [turned]))
    sizes = [moved(rows, np.split(rows, range(part, count, part))) for part in (1, 2, 3, 5) if part < count]
    rest = np.zeros(count)
    for places in (rows[::2], rows[1::2]):  # the other half of the places gets copies of one image
        others = np.setdiff1d(rows, places)
        for copied in (places[0], others[-1]):
            batch = rows.copy()
            batch[others] = copied
            rest = np.maximum(rest, moved(places, [batch]))
    repeat = np.maximum(repeat, moved(rows, [rows]))  # once more, after all others: a model may keep what it has seen
    return BatchDependence(rest, order, np.maximum.reduce(sizes), repeat, answers, tolerance, scale)


def _asked(predict: Callable[[Any], Any], images: Any, batches: list[NDArray[np.int64]]) -> tuple[Values, float]:
    """Outputs in the order of ``batches`` of row numbers, and the relative precision of their type, 0 for integers."""
    answers = [_rows(predict(_chosen(images, rows)), len(rows)) for rows in batches]
    return np.concatenate([values for values, _ in answers]), answers[0][1]


def _chosen(images: Any, rows: NDArray[np.int64]) -> Any:
    return [images[row] for row in rows] if isinstance(images, (list, tuple)) else images[rows]


def _rows(answer: Any, count: int) -> tuple[Values, float]:
    if hasattr(answer, "detach"):  # a tensor of torch's
        answer = answer.detach().cpu()
        eps = 2.0**-7 if str(answer.dtype) == "torch.bfloat16" else None  # numpy has no such type
        values = answer.float().numpy() if eps else answer.numpy()
    else:
        if isinstance(answer, (list, tuple)) and any(hasattr(one, "detach") for one in answer):
            answer = [one.detach().cpu().float().numpy() for one in answer]
        try:
            values, eps = np.asarray(answer), None
        except ValueError as error:
            raise TypeError(f"predict must return one row of numbers an image, all of one length: {error}") from error
    if values.dtype.kind not in "biuf":
        raise TypeError(
            f"predict must return a tensor, array or list of numbers, got {type(answer).__name__}; for a dictionary, a pair or"
            " names of classes, give a function that picks the scores out"
        )
    if values.ndim < 1 or len(values) != count:
        raise ValueError(f"predict must return one row an image: {count} images gave an output of shape {values.shape}")
    if eps is None:
        eps = float(np.finfo(values.dtype).eps) if values.dtype.kind == "f" else 0.0
    return values.astype(np.float64), eps
