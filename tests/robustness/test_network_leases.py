"""Every order of two launchers over a network file system that lies: one publisher, nobody waits for ever, no thief."""

from __future__ import annotations

import errno
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smope_bench.harness.execution import lease

EXPLORER = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "network_leases" / "explore.py")))
explore: Callable[..., Any] = EXPLORER.explore


@pytest.mark.parametrize("world", EXPLORER.SHORT, ids=lambda world: world.name)
def test_all_states_of_a_world_keep_the_promises(world: Any) -> None:
    figures = explore(world)
    assert not figures.broken, [figures.broken, *figures.trace[-40:]]
    assert figures.states > 4000 and figures.ends > 100


@pytest.mark.parametrize(
    ("broken", "world"),
    [(broken, world) for broken, worlds in EXPLORER.BROKEN.items() for world in worlds],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_rule_that_is_left_out_is_found_missing(broken: str, world: Any) -> None:
    assert broken in explore(world).broken


def test_a_stale_handle_that_is_taken_for_an_error_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_GONE", (errno.ENOENT,))
    world = EXPLORER.LONG[0]
    assert "Stale file handle" in explore(world).broken
