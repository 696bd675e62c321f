"""What a cell may show: fresh and stale, failed and missing, and never two kinds of runs in one mean."""

from __future__ import annotations

import json

import pytest

from harness.errors import UserError
from harness.metrics import final_average_accuracy
from harness.seal import sealed
from reports.build import load_suite
from reports.model import Cell, SuiteResults

LEVEL, LOSS = 90.0, 1.0


def only(results: SuiteResults) -> Cell:
    """The one cell of a suite of one row and one column."""
    (cell,) = results.cells.values()
    return cell


def publish(factory, seeds, **options) -> None:
    for seed in seeds:
        factory.publish(
            "A", factory.spec("a", "digits", seed, seed, 4), factory.matrix(4, LEVEL, LOSS, seed), **options
        )


def test_a_suite_that_was_never_run_says_how_to_run_it(factory) -> None:
    with pytest.raises(UserError, match=r"nothing was run for suite 'smoke' in .*; run: run_all.py run smoke"):
        load_suite(factory.store, "smoke", None)


def test_finished_runs_are_averaged(factory) -> None:
    publish(factory, range(3))
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    cell = only(results)
    expected = [final_average_accuracy(factory.matrix(4, LEVEL, LOSS, seed)) for seed in range(3)]
    summary = cell.summary("faa")
    assert cell.state == "ok" and summary is not None
    assert summary.n == 3
    assert summary.mean == pytest.approx(sum(value for value in expected if value is not None) / 3)
    assert results.counts() == {"ok": 3}
    assert results.newest == "2026-11-22T05:02:12Z"


def test_failed_and_missing_runs_make_a_cell_partial(factory) -> None:
    publish(factory, range(2))
    factory.fail("A", factory.spec("a", "digits", 2, 2, 4), "the loss stopped being finite at step 7 of task 3")
    factory.plan("A", factory.spec("a", "digits", 3, 3, 4))
    cell = only(load_suite(factory.write(), "smoke", factory.FRESH))
    assert cell.state == "partial"
    assert [run.state for run in cell.runs] == ["ok", "ok", "failed", "missing"]
    assert cell.runs[2].problem == "the loss stopped being finite at step 7 of task 3"
    summary = cell.summary("faa")
    assert summary is not None and summary.n == 2


def test_cells_without_any_record_say_why(factory) -> None:
    factory.fail("A", factory.spec("a", "digits", 0, 0, 4), "boom")
    factory.plan("B", factory.spec("b", "digits", 0, 0, 4))
    factory.plan("B", factory.spec("b", "glyphs", 0, 0, 4), column="glyphs")
    results = load_suite(factory.write(), "smoke", None)
    states = {place: cell.state for place, cell in results.cells.items()}
    assert states == {
        ("A", "digits"): "failed",
        ("A", "glyphs"): "unplanned",
        ("B", "digits"): "missing",
        ("B", "glyphs"): "missing",
    }
    assert all(cell.summary("faa") is None for cell in results.cells.values())


def test_stale_runs_are_not_averaged_with_fresh_ones(factory) -> None:
    publish(factory, [0, 1])
    publish(factory, [2], fingerprint=factory.OLD)
    cell = only(load_suite(factory.write(), "smoke", factory.FRESH))
    assert cell.state == "partial"
    assert [run.state for run in cell.runs] == ["ok", "ok", "stale"]
    assert [run.order_seed for run in cell.used] == [0, 1]


def test_a_cell_of_stale_runs_is_shown_and_marked(factory) -> None:
    publish(factory, range(3), fingerprint=factory.OLD)
    cell = only(load_suite(factory.write(), "smoke", factory.FRESH))
    assert (cell.state, cell.marks, len(cell.used)) == ("stale", ("stale",), 3)


def test_stale_runs_of_two_versions_are_not_averaged(factory) -> None:
    publish(factory, [0], fingerprint=factory.OLD)
    publish(factory, [1], fingerprint="1" * 16)
    cell = only(load_suite(factory.write(), "smoke", factory.FRESH))
    assert (cell.state, cell.used) == ("stale", ())
    assert cell.note is not None and "not averaged" in cell.note


def test_without_a_fingerprint_the_newest_record_is_the_reference(factory) -> None:
    publish(factory, [0], fingerprint=factory.OLD)
    publish(factory, [1, 2])
    results = load_suite(factory.write(), "smoke", None)
    assert results.fingerprint == factory.FRESH
    assert [run.state for run in only(results).runs] == ["stale", "ok", "ok"]


@pytest.mark.parametrize("change", ["config", "flags"])
def test_runs_of_different_settings_are_not_averaged(factory, change: str) -> None:
    publish(factory, [0, 1])
    if change == "config":
        factory.publish("A", factory.spec("a", "digits", 2, 2, 4, prompts=5), factory.matrix(4, LEVEL, LOSS, 2))
    else:
        publish(factory, [2], flags={"leaking": False, "tiny": False, "random_backbone": False})
    cell = only(load_suite(factory.write(), "smoke", factory.FRESH))
    assert (cell.state, cell.used) == ("mixed", ())
    assert cell.note is not None and "2 different settings" in cell.note


def test_leaking_and_random_backbones_are_marked(factory) -> None:
    publish(factory, [0], flags={"leaking": True, "tiny": True, "random_backbone": True})
    assert only(load_suite(factory.write(), "smoke", factory.FRESH)).marks == ("leaking", "random backbone")


def test_joint_training_has_no_caa_and_no_forgetting(factory) -> None:
    for seed in range(3):
        spec = factory.spec("joint", "digits", seed, seed, 4)
        factory.publish("Joint", spec, factory.matrix(4, 97.0, 0.0, seed, joint=True), kind="ceiling")
    cell = only(load_suite(factory.write(), "smoke", factory.FRESH))
    assert cell.summary("faa") is not None
    assert (cell.summary("caa"), cell.summary("fm")) == (None, None)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda r: r.update(accuracy_matrix=[[90.0, None], [None, 91.0]]), "agree on 2 tasks"),
        (lambda r: r["accuracy_matrix"][3].__setitem__(0, None), "gaps"),
        (lambda r: r["accuracy_matrix"][3].__setitem__(0, 101.0), "less than or equal to 100"),
        (lambda r: r["accuracy_matrix"][3].__setitem__(0, "ninety"), "valid number"),
        (lambda r: r["test_counts"].__setitem__(0, 0), "greater than 0"),
        (lambda r: r["spec"]["schedule"].__setitem__("lr", 1.0), "edited"),
        (lambda r: r.pop("costs"), "lacks costs"),
        (lambda r: r.update(schema_version=0), "schema 0"),
    ],
)
def test_an_unusable_record_is_named_and_left_out(factory, damage, reason: str) -> None:
    publish(factory, range(2))
    file = factory.store.path(factory.cells[0]["run_id"]) / "result.json"
    result = json.loads(file.read_text())
    damage(result)
    file.write_text(json.dumps(sealed(result)))
    cell = only(load_suite(factory.write(), "smoke", factory.FRESH))
    assert [run.state for run in cell.runs] == ["broken", "ok"]
    assert reason in str(cell.runs[0].problem)
    assert cell.state == "partial"


def test_a_truncated_record_is_unusable(factory) -> None:
    publish(factory, range(2))
    file = factory.store.path(factory.cells[1]["run_id"]) / "result.json"
    file.write_text(file.read_text()[:200])
    run = only(load_suite(factory.write(), "smoke", factory.FRESH)).runs[1]
    assert run.state == "broken" and "cannot be read" in str(run.problem)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda m: m.pop("rows"), "not usable at rows"),
        (lambda m: m["rows"].append(m["rows"][0]), "names row 'A' twice"),
        (lambda m: m["cells"][0].update(column="nowhere"), "unlisted column 'nowhere'"),
        (lambda m: m["rows"][0].update(kind="roof"), "not usable at rows.0.kind"),
    ],
)
def test_an_unusable_manifest_is_the_users_to_mend(factory, damage, reason: str) -> None:
    publish(factory, [0])
    factory.write()
    file = factory.root / "suites" / "smoke.json"
    manifest = json.loads(file.read_text())
    damage(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=reason):
        load_suite(factory.store, "smoke", None)


def test_a_run_shared_by_two_rows_is_counted_once(factory) -> None:
    publish(factory, [0, 1])
    for seed in (0, 1):
        factory.plan("the same again", factory.spec("a", "digits", seed, seed, 4))
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    assert results.counts() == {"ok": 2}
    assert [cell.state for cell in results.cells.values()] == ["ok", "ok"]
