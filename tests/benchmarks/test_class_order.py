"""Class orders are those of the official code; no class is ever dropped from a split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.protocol import read_split, task_sizes

# First classes, and first 12 hex digits of the sha1 of the comma-joined order (SMoPE card, section 11 g).
OFFICIAL = {
    (100, 0): ([23, 8, 11, 7, 48, 13, 1, 91, 94, 54, 16, 63], "29da53b96891"),
    (100, 1): ([53, 37, 65, 51, 4, 20, 38, 9, 10, 81, 44, 36], "b028ec48aad2"),
    (100, 2): ([0, 76, 61, 63, 1, 71, 2, 6, 16, 19, 13, 24], "d9dc2afe515c"),
    (100, 3): ([35, 41, 45, 4, 76, 12, 0, 64, 42, 11, 81, 39], "8559beb5d60e"),
    (100, 4): ([73, 86, 82, 23, 1, 42, 57, 40, 76, 69, 25, 94], "d129d40231f3"),
    (200, 0): ([131, 181, 22, 172, 144, 92, 97, 187, 58, 93, 6, 70], "51a3d0e46e28"),
    (200, 1): ([33, 146, 79, 19, 23, 131, 12, 187, 174, 32, 86, 123], "88e4427edc82"),
    (200, 2): ([51, 94, 55, 35, 170, 177, 20, 85, 50, 36, 30, 76], "56bb7521f505"),
    (200, 3): ([158, 62, 14, 69, 47, 137, 110, 6, 116, 88, 130, 100], "950cac50db66"),
    (200, 4): ([136, 126, 189, 51, 145, 98, 0, 68, 40, 4, 83, 82], "2eba31c15beb"),
}


@pytest.mark.parametrize(("classes", "seed"), OFFICIAL)
def test_orders_are_the_official_ones(classes: int, seed: int, make_toy: Callable) -> None:
    first, digest = OFFICIAL[classes, seed]
    order = make_toy(classes=classes).class_order(seed)
    assert list(order[:12]) == first
    assert hashlib.sha1(",".join(map(str, order)).encode()).hexdigest()[:12] == digest


# First labels under other seeds: HiDe-Prompt's and NoRGa's (HiDe card, 6.3), VQ-Prompt's for CUB-200 (VQ card, 5).
OTHER_SEEDS = {
    (100, 42): [42, 41, 91, 9, 65, 50, 1, 70],
    (100, 40): [8, 28, 21, 83, 24, 54, 48, 77],
    (100, 44): [54, 31, 82, 46, 25, 63, 70, 10],
    (200, 42): [66, 187, 101, 193, 111, 121, 13, 2],
    (200, 40): [47, 26, 156, 136, 187, 153, 186, 105],
    (200, 44): [13, 44, 110, 39, 1, 30, 149, 21],
    (200, 12): [82, 134, 185, 178, 11],
    (200, 24): [61, 0, 22, 157, 145],
    (200, 36): [8, 51, 11, 137, 50],
    (200, 48): [71, 66, 10, 121, 103],
}


@pytest.mark.parametrize(("classes", "seed"), OTHER_SEEDS)
def test_orders_under_the_seeds_of_other_papers(classes: int, seed: int, make_toy: Callable) -> None:
    first = OTHER_SEEDS[classes, seed]
    for rule in ("shuffled", "natural_first"):
        assert list(make_toy(classes=classes, class_order=rule).class_order(seed)[: len(first)]) == first


@pytest.mark.parametrize("classes", [100, 200])
def test_natural_first_differs_from_shuffled_at_seed_0_alone(classes: int, make_toy: Callable) -> None:
    shuffled, first = (make_toy(classes=classes, class_order=rule) for rule in ("shuffled", "natural_first"))
    assert first.class_order(0) == tuple(range(classes)) != shuffled.class_order(0)
    assert all(first.class_order(seed) == shuffled.class_order(seed) for seed in range(1, 5))


def test_natural_is_natural_for_every_seed(make_toy: Callable) -> None:
    toy = make_toy(classes=100, class_order="natural")
    assert all(toy.class_order(seed) == tuple(range(100)) for seed in (0, 1, 42))


def test_a_negative_seed_is_refused_because_python_would_drop_its_sign(make_toy: Callable) -> None:
    with pytest.raises(BenchmarkError, match="-1 is negative"):
        make_toy().class_order(-1)


@given(classes=st.integers(1, 60), tasks=st.integers(1, 70))
def test_tasks_hold_every_class_or_are_refused(classes: int, tasks: int) -> None:
    try:
        sizes = task_sizes(classes, tasks)
    except BenchmarkError:
        assert classes % tasks
    else:
        assert sum(sizes) == classes and len(sizes) == tasks and len(set(sizes)) == 1


def test_a_refused_split_says_what_would_do() -> None:
    with pytest.raises(BenchmarkError) as refused:
        task_sizes(10, 3)
    assert str(refused.value) == (
        "10 classes cannot be split evenly into 3 tasks;"
        " give --set benchmark.split=4,3x2 or --set benchmark.tasks=2 (or 1, 5, 10)"
    )
    assert task_sizes(10, 3, (4, 3, 3)) == (4, 3, 3)


def test_more_tasks_than_classes() -> None:
    with pytest.raises(BenchmarkError, match=r"into 5 tasks; give --set benchmark.tasks=4 \(or 1, 2\)$"):
        task_sizes(4, 5)


@pytest.mark.parametrize(
    ("split", "mended"), [((4, 3, 2), "4,3,2,1"), ((4, 3, 4), "4,3x2"), ((2, 2), "2x5"), ((20,), "10"), ((3,), "3x3,1")]
)
def test_a_split_must_hold_every_class(split: tuple[int, ...], mended: str) -> None:
    with pytest.raises(BenchmarkError) as refused:
        task_sizes(10, len(split), split)
    wanted = f"has {sum(split)} classes but there are 10; give --set benchmark.split={mended}"
    assert str(refused.value).endswith(wanted)
    assert sum(read_split(mended)) == 10


def test_numpy_orders_are_those_of_both_toolboxes(make_toy: Callable) -> None:
    """Seed 1993 on 100 classes: LAMDA-PILOT's first task of ten holds 8, 23, 56 first, mammoth's 3, 12, 15."""
    toys = {rule: make_toy(classes=100, class_order=rule) for rule in ("numpy", "numpy_inverse")}
    orders = {rule: toy.class_order(1993) for rule, toy in toys.items()}
    assert orders["numpy"][:5] == (68, 56, 78, 8, 23) and sorted(orders["numpy"][:10])[:3] == [8, 23, 56]
    assert sorted(orders["numpy_inverse"][:10])[:3] == [3, 12, 15]
    assert all(orders["numpy_inverse"][label] == orders["numpy"].index(label) for label in range(100))
    with pytest.raises(BenchmarkError, match="order seed 4294967296 is too large for class_order=numpy; use 0 to"):
        toys["numpy"].class_order(2**32)


def test_a_listed_order_holds_for_every_seed_and_may_be_of_names(make_toy: Callable) -> None:
    toy = make_toy(classes=4, class_order="2,0,3,1")
    assert toy.class_order(0) == toy.class_order(7) == (2, 0, 3, 1)
    names = make_toy(classes=4).class_names
    assert make_toy(classes=4, class_order=[names[2], names[0], names[3], names[1]]).class_order(0) == (2, 0, 3, 1)


@pytest.mark.parametrize(
    ("order", "fault"),
    [
        ([0, 1, 4, 2], "place 3 has unknown class 4; ids are 0 to 3"),
        ([0, -1, 1, 2], "place 2 has unknown class -1"),
        ([3, 0], "has 2 of 4 classes and lacks 1, 2"),
        (["ant", "bee"], "place 1 has unknown class 'ant'; names are"),
    ],
)
def test_an_order_of_other_classes_is_refused(order: list, fault: str, make_toy: Callable) -> None:
    with pytest.raises(BenchmarkError, match=fault):
        make_toy(classes=4, class_order=order).class_order(0)
