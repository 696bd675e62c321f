"""What a cell may show: fresh and stale, failed and missing, and never two kinds of runs in one mean."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import final_average_accuracy
from smope_bench.harness.records.record import with_checksum
from smope_bench.harness.records.store import Store
from smope_bench.reports.formatting import notes
from smope_bench.reports.loading.load import load_suite, load_suites, suites_in
from smope_bench.reports.loading.model import Cell, SuiteResults

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
    with pytest.raises(
        UserError, match=r"nothing was run for suite 'smoke' in .*; run: smope-bench run smoke --results /"
    ):
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
    file.write_text(json.dumps(with_checksum(result)))
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
        (lambda m: m.update(suite="table1"), "is a copy: it says that it is of suite 'table1'"),
        (lambda m: m["cells"].append(m["cells"][0]), "names run .* of 'A' on 'digits' twice"),
    ],
)
def test_an_unusable_manifest_is_the_users_to_mend(factory, damage, reason: str) -> None:
    publish(factory, [0])
    factory.write()
    file = factory.root / "suites" / "smoke.json"
    manifest = json.loads(file.read_text())
    damage(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=reason + ".*delete .*smoke.json' and run the suite again"):
        load_suite(factory.store, "smoke", None)


def test_a_run_shared_by_two_rows_is_counted_once(factory) -> None:
    publish(factory, [0, 1])
    for seed in (0, 1):
        factory.plan("the same again", factory.spec("a", "digits", seed, seed, 4))
    results = load_suite(factory.write(), "smoke", factory.FRESH)
    assert results.counts() == {"ok": 2}
    assert [cell.state for cell in results.cells.values()] == ["ok", "ok"]


def test_a_record_is_read_once_however_many_suites_name_it(make_factory, monkeypatch) -> None:
    for suite in ("one", "two"):
        factory = make_factory(suite=suite)
        publish(factory, range(3))
        factory.write()
    stranger = make_factory(suite="three")
    publish(stranger, [7])
    stranger.write()
    reads: Counter[str] = Counter()
    load = Store.load

    def counting(store: Store, run_id: str):
        reads[run_id] += 1
        return load(store, run_id)

    monkeypatch.setattr(Store, "load", counting)
    loaded = load_suites(factory.store, ["one", "two", "one"], None)
    assert [results.suite for results in loaded.suites] == ["one", "two"]
    assert loaded.integrity.records == 4
    assert len(reads) == 4 and set(reads.values()) == {1}
    assert [results.counts() for results in loaded.suites] == [{"ok": 3}, {"ok": 3}]


def test_several_versions_of_the_code_are_refused_with_counts_and_both_remedies(factory) -> None:
    publish(factory, range(3))
    publish(factory, [3], fingerprint=factory.OLD)
    with pytest.raises(UserError) as caught:
        load_suites(factory.write(), ["smoke"], factory.FRESH)
    assert str(caught.value) == (
        "the records of smoke come from 2 versions of the code: ffffffff (git 01234567, 3 runs) and 00000000 (git 01234567,"
        " 1 run); either run them again with one version (smope-bench run smoke --tiny --results"
        f" {factory.root}), or report them together, marked as mixed, with --mixed"
    )


def test_the_remedy_of_a_refusal_keeps_what_the_runs_were_planned_with(factory) -> None:
    publish(factory, [0, 1])
    publish(factory, [3], fingerprint=factory.OLD)
    for cell in factory.cells:
        seeds = f"{cell['order_seed']}:{cell['train_seed']}"
        chosen = ["--methods", "a", "--benchmarks", "digits", "--seeds", seeds]
        more = ["--set", "lr=1"] if cell["order_seed"] != 1 else ["--data", "my data"]
        cell["command"] = ["run", "smoke", *chosen, *more]
    with pytest.raises(UserError) as caught:
        load_suites(factory.write(), ["smoke"], factory.FRESH)
    place = f"--methods a --benchmarks digits --seeds {{}} --results {factory.root}"
    assert (
        f"(smope-bench run smoke --set lr=1 {place.format('0:0,3:3')}"
        f" && smope-bench run smoke --data 'my data' {place.format('1:1')})"
    ) in str(caught.value)


def test_a_version_without_git_is_said_so(factory) -> None:
    publish(factory, [0])
    spec = factory.spec("a", "digits", 1, 1, 4)
    provenance = {"code_fingerprint": "1" * 64, "git_revision": None}
    factory.publish("A", spec, factory.matrix(4, LEVEL, LOSS, 1), provenance=provenance)
    with pytest.raises(UserError, match=r"11111111 \(git unknown, 1 run\)"):
        load_suites(factory.write(), ["smoke"], None)


def test_mixed_versions_are_averaged_marked_noted_and_never_ranked(factory) -> None:
    publish(factory, range(3))
    publish(factory, [3], fingerprint=factory.OLD)
    for label, method in (("B", "b"), ("C", "c")):
        factory.publish(label, factory.spec(method, "digits", 0, 0, 4), factory.matrix(4, 50.0, LOSS, 0))
    loaded = load_suites(factory.write(), ["smoke"], factory.FRESH, mixed=True)
    (results,) = loaded.suites
    a, b, c = results.cells_of(results.columns[0])
    assert (a.state, a.marks, len(a.used)) == ("ok", ("mixed code",), 4)
    assert (b.marks, c.marks) == ((), ())
    assert set(results.ranks(results.columns[0], "faa")) == {"B", "C"}
    assert (loaded.fingerprints, loaded.is_mixed) == ((factory.FRESH, factory.OLD), True)
    assert "2 versions of the code: ffffffff (git 01234567, 5 runs) and 00000000" in loaded.warnings[0]
    said = [note for note in notes(results) if note.startswith("Mixed code")]
    assert len(said) == 1 and "00000000: 1 run, ffffffff: 3 runs" in said[0] and "never ranked" in said[0]
    assert not any(note.startswith("Stale") for note in notes(results))


def test_mixed_settings_are_not_averaged_even_where_mixed_code_is(factory) -> None:
    publish(factory, [0])
    publish(factory, [1], fingerprint=factory.OLD)
    factory.publish("A", factory.spec("a", "digits", 2, 2, 4, prompts=5), factory.matrix(4, LEVEL, LOSS, 2))
    loaded = load_suites(factory.write(), ["smoke"], factory.FRESH, mixed=True)
    assert (only(loaded.suites[0]).state, only(loaded.suites[0]).used) == ("mixed", ())


def test_mixed_versions_of_which_none_is_the_present_one_are_averaged_too(factory) -> None:
    publish(factory, [0], fingerprint=factory.OLD)
    publish(factory, [1], fingerprint="1" * 16)
    factory.plan("A", factory.spec("a", "digits", 2, 2, 4))
    loaded = load_suites(factory.write(), ["smoke"], factory.FRESH, mixed=True)
    cell = only(loaded.suites[0])
    assert (cell.state, cell.marks, len(cell.used)) == ("partial", ("mixed code",), 2)


@pytest.mark.parametrize("mixed", [False, True])
def test_records_of_one_older_version_are_stale_and_not_refused(factory, mixed: bool) -> None:
    publish(factory, range(2), fingerprint=factory.OLD)
    loaded = load_suites(factory.write(), ["smoke"], factory.FRESH, mixed=mixed)
    assert (only(loaded.suites[0]).state, loaded.is_mixed, loaded.warnings) == ("stale", False, ())


def test_other_code_in_a_suite_that_is_not_asked_for_is_no_matter(make_factory) -> None:
    one, two = make_factory(suite="one"), make_factory(suite="two")
    publish(one, [0])
    one.write()
    publish(two, [1], fingerprint=two.OLD)
    two.write()
    assert not load_suites(one.store, ["one"], None).is_mixed
    with pytest.raises(UserError, match="the records of one two come from 2 versions"):
        load_suites(one.store, ["one", "two"], None)


def test_a_broken_manifest_does_not_hide_the_other_suites(make_factory) -> None:
    for suite in ("one", "two"):
        factory = make_factory(suite=suite)
        publish(factory, [0])
        factory.write()
    folder = factory.root / "suites"
    (folder / "one.json").write_text("{")
    shutil.copy(folder / "two.json", folder / "two copied.json")
    (folder / "table3.cost.json").write_text("{}")
    assert suites_in(factory.store) == ["two"]
    loaded = load_suites(factory.store, suites_in(factory.store), None)
    assert sorted(loaded.integrity.manifests) == ["one", "two copied"]
    assert "2 suites are not shown" in loaded.warnings[0] and "one, two copied" in loaded.warnings[0]
    with pytest.raises(UserError, match=r"one\.json' cannot be read .*; run the suite again to write it anew"):
        load_suites(factory.store, ["one", "two"], None)


def test_a_folder_whose_only_manifest_is_broken_is_not_an_empty_one(factory) -> None:
    assert suites_in(factory.store) == []
    publish(factory, [0])
    factory.write()
    (factory.root / "suites" / "smoke.json").write_text("[]")
    with pytest.raises(UserError, match=r"manifest of suite 'smoke' .* is not usable at its top"):
        suites_in(factory.store)


def test_no_suites_give_no_results_but_the_health_of_the_folder(factory) -> None:
    publish(factory, [0])
    loaded = load_suites(factory.store, [], factory.FRESH)
    assert (loaded.suites, loaded.fingerprints, loaded.integrity.records) == ((), (), 1)


def with_plugin(factory, seed: int, recorded: str, planned: str) -> None:
    spec = factory.spec("a", "digits", seed, seed, 4)
    matrix = factory.matrix(4, LEVEL, LOSS, seed)
    provenance = factory.result(spec, matrix)["provenance"] | {"plugins": {"method": recorded}}
    factory.publish("A", spec, matrix, provenance=provenance)
    factory.cells[-1]["plugins"] = {"method": planned}


def test_seeds_of_different_versions_of_a_plugin_are_not_averaged(factory) -> None:
    for seed, source in enumerate(["one", "one", "two"]):
        with_plugin(factory, seed, source, source)
    factory.publish("B", factory.spec("b", "digits", 0, 0, 4), factory.matrix(4, 50.0, LOSS, 0))
    store = factory.write()
    a, b = load_suites(store, ["smoke"], factory.FRESH).suites[0].cells.values()
    assert (a.state, a.used, b.state) == ("mixed", (), "ok"), "a plugin's row stands beside the project's own"
    (results,) = load_suites(store, ["smoke"], factory.FRESH, mixed=True).suites
    assert (results.cells["A", "digits"].marks, len(results.cells["A", "digits"].used)) == (("mixed code",), 3)


def test_a_record_of_another_version_of_the_plugin_than_planned_is_stale(factory) -> None:
    with_plugin(factory, 0, "one", "two")
    run = only(load_suite(factory.write(), "smoke", factory.FRESH)).runs[0]
    assert (run.state, run.problem) == ("stale", "made by another version of the plugin")
