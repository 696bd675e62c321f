"""Objects that are left out of garbage collections for a while."""

from __future__ import annotations

import gc

import pytest

from smope_bench.harness.hardware.memory import heap_frozen


@pytest.mark.parametrize("is_frozen_before", [False, True])
def test_what_was_frozen_before_stays_frozen(is_frozen_before: bool) -> None:
    held: list[object] = [[]]
    gc.unfreeze()
    if is_frozen_before:
        gc.freeze()
    with heap_frozen():
        assert gc.get_freeze_count() > 1000 and not any(one is held for one in gc.get_objects())
    assert (gc.get_freeze_count() > 1000) == is_frozen_before
    assert any(one is held for one in gc.get_objects()) != is_frozen_before
    gc.freeze()  # as the tests' process is
