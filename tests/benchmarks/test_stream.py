"""The stream: relabelling, views, holding out, and what a merged stream keeps apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.stream import Stream, Task, View, build_stream, stratum


def taken(view: View, positions: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    images, labels = view.take(positions)
    assert isinstance(images, np.ndarray)
    return images, labels


def pixels(view: View) -> list[tuple[int, int, int]]:
    """(original class, number within the class, 1 for test) of every image of a view."""
    return [tuple(pixel) for pixel in taken(view)[0][:, 0, 0].tolist()]


def check_labels(stream: Stream, task: Task, view: View) -> None:
    images, labels = taken(view)
    assert set(labels.tolist()) <= set(task.classes)
    assert [stream.class_order[label] for label in labels] == images[:, 0, 0, 0].tolist()


def test_labels_are_positions_in_the_order_of_arrival(make_toy: Callable) -> None:
    stream = build_stream(make_toy(holdout=0.3), order_seed=3)
    assert stream.class_order != tuple(range(6))
    assert [task.classes for task in stream.tasks] == [range(0, 2), range(2, 4), range(4, 6)]
    for task in stream.tasks:
        assert task.names == tuple(f"class {stream.class_order[label]}" for label in task.classes)
        assert task.names == tuple(stream.class_names[label] for label in task.classes)
        for view in (task.train, task.validation, task.test):
            check_labels(stream, task, view)
            assert set(view.labels.tolist()) == set(task.classes)


def test_every_image_is_in_exactly_one_view(make_toy: Callable) -> None:
    stream = build_stream(make_toy(holdout=0.25), order_seed=1)
    train = [pixel for task in stream.tasks for view in (task.train, task.validation) for pixel in pixels(view)]
    test = [pixel for task in stream.tasks for pixel in pixels(task.test)]
    assert sorted(train) == [(c, j, 0) for c in range(6) for j in range(10)]
    assert sorted(test) == [(c, j, 1) for c in range(6) for j in range(4)]


def test_uneven_tasks_keep_every_class(make_toy: Callable) -> None:
    stream = build_stream(make_toy(classes=7, split=(4, 3), tasks=2), order_seed=0)
    assert [len(task.classes) for task in stream.tasks] == [4, 3]
    assert sum(len(task.train) for task in stream.tasks) == 70
    with pytest.raises(BenchmarkError, match="7 classes cannot be split evenly into 2 tasks"):
        build_stream(make_toy(classes=7, tasks=2), order_seed=0)


def test_what_is_held_out_does_not_depend_on_the_class_order(make_toy: Callable) -> None:
    def held(order_seed: int, holdout_seed: int = 0) -> list[tuple[int, int, int]]:
        stream = build_stream(make_toy(holdout=0.2, holdout_seed=holdout_seed), order_seed)
        return sorted(pixel for task in stream.tasks for pixel in pixels(task.validation))

    assert held(0) == held(1)
    assert held(0) != held(0, holdout_seed=1)
    assert [original for original, _, _ in held(0)] == [c for c in range(6) for _ in range(2)]


def test_nothing_is_held_out_unless_asked(make_toy: Callable) -> None:
    stream = build_stream(make_toy(), order_seed=0)
    assert all(len(task.validation) == 0 and len(task.train) == 20 for task in stream.tasks)
    images, labels = taken(stream.tasks[0].validation)
    assert images.shape == (0, 1, 1, 3) and labels.shape == (0,)


def test_merged_trains_on_all_and_tests_apart(make_toy: Callable) -> None:
    stream = build_stream(make_toy(holdout=0.2), order_seed=2)
    merged = stream.merged()
    (task,) = merged.tasks
    assert task.classes == range(6) and task.names == stream.class_names
    assert sorted(pixels(task.train)) == sorted(p for each in stream.tasks for p in pixels(each.train))
    assert len(task.validation) == 12 and len(task.test) == 24
    assert merged.tests == stream.tests and merged.num_tasks == 3
    assert merged.split_hash == stream.split_hash
    assert merged.tests_after(task) == dict(enumerate(stream.tests))
    check_labels(stream, task, task.train)


def test_tests_after_a_task_are_those_of_seen_classes(make_toy: Callable) -> None:
    stream = build_stream(make_toy(), order_seed=0)
    assert [stream.tests_after(task) for task in stream.tasks] == [
        dict(enumerate(stream.tests[: t + 1])) for t in range(3)
    ]
    single = build_stream(make_toy(tasks=6), order_seed=0)
    assert [len(single.tests_after(task)) for task in single.tasks] == [1, 2, 3, 4, 5, 6]
    assert all(int(view.labels.max()) in stream.tasks[t].classes for t, view in enumerate(stream.tests))


def test_views_cannot_be_changed_and_batches_are_copies(make_toy: Callable) -> None:
    view = build_stream(make_toy(), order_seed=0).tasks[0].train
    with pytest.raises(ValueError, match="read-only"):
        view.labels[0] = 5
    images, labels = taken(view, [3, 1, 3])
    images[:], labels[:] = 99, 99
    again, same = taken(view, np.array([3, 1, 3]))
    assert again.max() < 99 and same.max() < 99 and (again[0] == again[2]).all()
    assert again.dtype == np.uint8 and same.dtype == np.int64


def test_the_split_hash_tells_every_difference(make_toy: Callable) -> None:
    hashes = [
        build_stream(make_toy(), 0).split_hash,
        build_stream(make_toy(), 1).split_hash,
        build_stream(make_toy(holdout=0.2), 0).split_hash,
        build_stream(make_toy(holdout=0.2, holdout_seed=1), 0).split_hash,
        build_stream(make_toy(tasks=2), 0).split_hash,
        build_stream(make_toy(train=11), 0).split_hash,
        build_stream(make_toy(test=5), 0).split_hash,
    ]
    assert len(set(hashes)) == len(hashes)
    assert build_stream(make_toy(), 0).split_hash == hashes[0]


@pytest.mark.parametrize("holdout", [-0.1, 1.0, float("nan")])
def test_impossible_holdouts(make_toy: Callable, holdout: float) -> None:
    with pytest.raises(ValidationError, match="holdout"):
        make_toy(holdout=holdout)


def test_one_training_image_cannot_be_held_out(make_toy: Callable) -> None:
    with pytest.raises(BenchmarkError, match=r"class 'class 0' has one training image"):
        build_stream(make_toy(train=1, holdout=0.5), 0)


@pytest.mark.parametrize(("split", "which"), [("train", "training"), ("test", "test")])
def test_a_class_without_images_is_named(make_toy: Callable, split: str, which: str) -> None:
    toy = make_toy()
    toy.counts[split][4] = 0
    with pytest.raises(BenchmarkError, match=f"class 'class 4' has no {which} images"):
        build_stream(toy, 0)


@given(count=st.integers(2, 200), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 9))
def test_a_stratum_is_a_partition_with_two_sides(count: int, fraction: float, seed: int) -> None:
    rest, drawn = (part.tolist() for part in stratum(count, fraction, f"seed {seed}"))
    assert rest and drawn and sorted(rest + drawn) == list(range(count))
    assert rest == sorted(rest) and drawn == sorted(drawn)
    assert abs(len(drawn) - count * fraction) <= 1


def test_a_stratum_stays_what_it_is() -> None:
    assert stratum(10, 0.3, "holdout 0 class 0")[1].tolist() == [1, 3, 8]


def test_a_limit_keeps_the_same_images_in_every_order_and_the_smaller_within_the_larger(make_toy: Callable) -> None:
    def kept(limit: int | None, order: int) -> tuple[set[int], set[int]]:
        stream = build_stream(make_toy(train=10, test=4, limit=limit), order)
        views = [[getattr(task, split) for task in stream.tasks] for split in ("train", "test")]
        return tuple({int(row) for view in found for row in view.rows} for found in views)  # type: ignore[return-value]

    train, test = kept(3, 0)
    assert (len(train), len(test)) == (18, 18) and kept(3, 5) == (train, test)
    assert train < kept(5, 0)[0] and test < kept(4, 0)[1] and kept(99, 0) == kept(None, 0)


def test_images_are_held_out_of_the_limited_ones(make_toy: Callable) -> None:
    stream = build_stream(make_toy(train=10, limit=4, holdout=0.25), 0)
    assert all((len(task.train), len(task.validation)) == (6, 2) for task in stream.tasks)
