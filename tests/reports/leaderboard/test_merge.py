"""Folders joined: equal runs once, contradicting ones left out, and versions, plugins and settings that stay apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.reports.leaderboard.merge import Board, Joined, join, read_source, told_apart


@pytest.fixture
def folder(factory, tmp_path: Path) -> Callable[[str], Any]:
    """Makes an empty results folder by its label."""
    return lambda label: type(factory)(tmp_path / label)


def publish(side, levels, label: str = "A", method: str = "a", config: dict[str, Any] | None = None, **options) -> None:
    """A run for each level, seeds counted from 0; one level gives one matrix in every folder."""
    for seed, level in enumerate(levels, options.pop("first", 0)):
        spec = side.spec(method, "digits", seed, seed, 4, **(config or {}))
        side.publish(label, spec, side.matrix(4, level, 1.0, seed), **options)


def joined(*sides) -> Joined:
    return join([read_source(side.root.name, side.write().root) for side in sides])


def rows(board: Board) -> dict[str, int]:
    """Row label -> averaged runs."""
    return {cell.row.label: len(cell.used) for cell in board.all_cells}


def test_seeds_of_two_folders_are_one_row(folder) -> None:
    alice, bob = folder("alice"), folder("bob")
    publish(alice, [90.0, 91.0])
    publish(bob, [92.0], first=2)
    (board,) = joined(bob, alice).boards
    (cell,) = board.all_cells
    assert [(run.order_seed, run.sources) for run in cell.used] == [(0, ("alice",)), (1, ("alice",)), (2, ("bob",))]
    assert cell.state == "ok"


def test_an_equal_run_counts_once_and_has_both_folders(folder) -> None:
    alice, bob = folder("alice"), folder("bob")
    for side in (alice, bob):
        publish(side, [90.0, 91.0])
    found = joined(alice, bob)
    (cell,) = found.boards[0].all_cells
    assert [run.sources for run in cell.used] == [("alice", "bob")] * 2 and not found.conflicts


def test_other_numbers_of_one_run_by_the_same_code_are_left_out_and_named(folder) -> None:
    alice, bob = folder("alice"), folder("bob")
    publish(alice, [90.0, 91.0])
    publish(bob, [90.0, 91.5])
    found = joined(alice, bob)
    (cell,) = found.boards[0].all_cells
    (conflict,) = found.conflicts
    assert [run.order_seed for run in cell.used] == [0]
    assert conflict.run_id == alice.cells[1]["run_id"]
    assert [(held.source, held.is_used) for held in conflict.held] == [("alice", False), ("bob", False)]


def test_versions_of_the_code_have_a_row_each_and_are_not_ranked(folder) -> None:
    alice, bob = folder("alice"), folder("bob")
    publish(alice, [90.0, 91.0])
    publish(bob, [90.0, 91.5], fingerprint=bob.OLD)
    publish(bob, [80.0], label="B", method="b", fingerprint=bob.OLD)
    found = joined(alice, bob)
    (board,) = found.boards
    assert rows(board) == {"A · code ffffffff": 2, "A · code 00000000": 2, "B": 1}
    assert "2 versions of the code" in str(board.caution(board.columns[0]))
    assert board.ranks(board.columns[0], "faa") == {}
    (conflict,) = found.conflicts
    assert all(held.is_used for held in conflict.held)
    assert len(board.runs) == 5, "runs of one id and two versions are two"


def test_methods_of_one_name_from_two_plugins_stay_apart(folder) -> None:
    for side in (sides := [folder("alice"), folder("bob")]):
        source = side.root.name.ljust(64, "0")
        made = side.result(side.spec("mine", "digits", 0, 0, 4), side.matrix(4, 90, 1, 0))["provenance"]
        publish(side, [90.0], "Mine", "mine", provenance=made | {"plugins": {"method": source}})
    found = joined(*sides)
    assert list(found.methods.values()) == ["mine · plugin alice000", "mine · plugin bob00000"]
    (board,) = found.boards
    assert rows(board) == {"Mine · plugin alice000": 1, "Mine · plugin bob00000": 1}
    assert not found.conflicts, "equal numbers, but they are not one method's"


def test_settings_that_differ_under_one_label_are_two_rows(folder) -> None:
    alice, bob = folder("alice"), folder("bob")
    publish(alice, [90.0])
    publish(bob, [95.0], config={"prompts": 40})
    labels = list(rows(joined(alice, bob).boards[0]))
    assert len(labels) == 2 and all(label.startswith("A · settings ") for label in labels)


def test_another_backbone_or_other_tasks_are_columns_of_their_own(folder) -> None:
    alice, bob = folder("alice"), folder("bob")
    publish(alice, [90.0])
    bob.publish("A", bob.spec("a", "digits", 0, 0, 2), bob.matrix(2, 80.0, 1.0, 0))
    (board,) = joined(alice, bob).boards
    assert [column.label for column in board.columns] == ["digits · 2 tasks", "digits · 4 tasks"]
    assert sum(bool(cell.used) for cell in board.all_cells) == 2


def test_a_run_that_no_manifest_names_goes_by_its_method(folder) -> None:
    alice = folder("alice")
    publish(alice, [90.0])
    alice.write()
    (alice.root / "suites" / "smoke.json").unlink()
    (cell,) = join([read_source("alice", alice.root)]).boards[0].all_cells
    assert (cell.row.label, cell.column.label, cell.column.tasks) == ("a", "digits", 4)


def test_a_manifest_that_names_a_run_for_another_method_is_not_believed(folder) -> None:
    alice = folder("alice")
    publish(alice, [90.0])
    alice.rows["A"]["method"] = "b"
    (cell,) = joined(alice).boards[0].all_cells
    assert cell.row.label == "a"


def test_suites_limit_what_is_joined_and_nothing_is_an_error(folder) -> None:
    alice = folder("alice")
    publish(alice, [90.0])
    root = alice.write().root
    assert len(join([read_source("alice", root, ["smoke"])]).outcomes) == 1
    with pytest.raises(UserError, match="no usable result in 'alice'"):
        join([read_source("alice", root, ["table1"])])


def test_labels_are_told_apart_by_as_little_as_they_need() -> None:
    assert told_apart([("a", "x", "1"), ("b", "x", "1"), ("a", "x", "2")]) == ["a · 1", "b", "a · 2"]
    assert told_apart([("a\x00",), ("a\x01",), ("a",)]) == ["a\ufffd", "a\ufffd (2)", "a"]
    assert told_apart([]) == []
