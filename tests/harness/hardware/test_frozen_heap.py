"""Objects that are left out of garbage collections for a while."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from smope_bench.harness.hardware.memory import heap_frozen
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.training import trainer
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]
from tests.harness.stand_ins import given  # pyright: ignore[reportMissingImports]


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


def test_a_run_measures_its_memory_without_looking_through_what_was_there_before(
    registries: Registries, tmp_path: Path
) -> None:
    gc.unfreeze()
    frozen = {"nothing": gc.get_freeze_count()}
    context = given(tmp_path, on_event=lambda event: frozen.update({event["event"]: gc.get_freeze_count()}))
    trainer.run(micro_spec("ncm"), *context, registries=registries)
    assert frozen["task_evaluated"] > 1000 and frozen["nothing"] == gc.get_freeze_count() == 0 and gc.isenabled()
    gc.freeze()  # as the tests' process is
