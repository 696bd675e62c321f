"""Suites are the papers' experiments: rows, columns and grids as published, labels that tell rows apart."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from smope_bench.benchmarks.suites import SUITES, Suite
from smope_bench.benchmarks.suites.figures import ALPHAS

PAPER = {"cifar100", "imagenet_r", "cub200", "five_datasets", "domainnet_200"}
TINY = {"glyphs", "digits", "small_sets"}
NAMES = [f"table{number}" for number in (1, 2, 3, 4, 6, 7)] + [f"fig{number}" for number in range(2, 10)]
NAMES += ["imagenet_r_50", "hash_main", "hash_cub200", "hash_20_tasks", "hash_five_datasets", "hash_ablation"]
NAMES += ["hash_layers", "hash_backbones", "cpg_main"]


def published() -> list[dict[str, str]]:
    file = Path(__file__).parents[3] / "reports" / "published_results.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_every_experiment_has_a_suite_of_both_sizes() -> None:
    assert set(NAMES) | {"smoke", "glyphs", "rehearsal", "domains", "ci", "parts_by_steps", "parts_by_tasks"} == set(
        SUITES
    )
    for name in NAMES:
        suite = SUITES[name]
        assert suite.full and suite.tiny and not suite.is_tiny_only
        assert {column.benchmark for column in suite.full} <= PAPER
        assert {column.benchmark for column in suite.tiny} <= TINY
        assert all(column.backbone in ("tiny", "tiny_random") for column in suite.tiny)
        assert suite.seeds == (
            (0, 1, 2) if name.startswith(("hash", "cpg")) else (0,) if suite.counts_only else (0, 1, 2, 3, 4)
        )


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_labels_tell_rows_and_columns_apart(suite: Suite) -> None:
    for rows in (suite.rows, suite.tiny_rows):
        assert len({row.label for row in rows}) == len(rows)
        assert len({(row.method, str(row.settings)) for row in rows}) == len(rows)
    for columns in (suite.tiny, suite.full):
        assert len({column.label for column in columns}) == len(columns)
        # Where a task is a domain, the domains give their number.
        fixed = ["classes" if column.benchmark == "glyph_domains" else "tasks" for column in columns]
        assert all(name in column.config for name, column in zip(fixed, columns, strict=True)), (
            "a default may change; a suite may not"
        )
    assert suite.name in SUITES and suite.title and suite.summary


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table6"])
def test_rows_and_columns_are_the_published_ones_in_their_order(name: str) -> None:
    lines = [line for line in published() if line["table"] == name]
    first = (lines[0]["benchmark"], lines[0]["tasks"], lines[0]["backbone"])
    here = [line for line in lines if (line["benchmark"], line["tasks"], line["backbone"]) == first]
    assert [row.method for row in SUITES[name].rows] == list(dict.fromkeys(line["method"] for line in here))
    columns = {(column.benchmark, str(column.config["tasks"]), column.backbone) for column in SUITES[name].full}
    assert columns == {(line["benchmark"], line["tasks"], line["backbone"]) for line in lines}


@pytest.mark.parametrize("name", ["table4", "table7", "hash_ablation"])
def test_variants_are_as_many_as_published_on_the_same_data(name: str) -> None:
    lines = [line for line in published() if line["table"] == name]
    assert len(SUITES[name].rows) == len({line["variant"] for line in lines})
    assert {row.method for row in SUITES[name].rows} == {line["method"] for line in lines}
    assert {column.benchmark for column in SUITES[name].full} == {line["benchmark"] for line in lines}


def test_the_hash_table_has_every_published_row_but_the_one_on_other_weights() -> None:
    lines = {line["method"] for line in published() if line["table"] == "hash_main"}
    assert lines - {row.method for row in SUITES["hash_main"].rows} == {"cpg"}
    assert {column.backbone for column in SUITES["hash_main"].full} == {"sup21k_orig"}


def test_grids_are_the_published_ones() -> None:
    epsilons = [row.settings["epsilon"] for row in SUITES["fig5"].rows]
    assert epsilons == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert [row.settings["epsilon"] for row in SUITES["fig2"].rows] == [0.0, 0.4, 1.0]
    assert SUITES["fig6"].rows == SUITES["fig2"].rows
    assert ALPHAS == (5e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3)
    pairs = {(row.settings["alpha_router"], row.settings["alpha_proto"]) for row in SUITES["fig7"].rows}
    assert pairs == {(router, proto) for router in ALPHAS for proto in ALPHAS}


def test_the_grid_of_sizes_asks_for_no_more_experts_than_there_are() -> None:
    rows = SUITES["fig3"].rows
    assert "N_p 25, K 5" in {row.label for row in rows} and len(rows) == 23
    assert all(row.settings["top_k"] <= row.settings["experts"] for row in rows)


def test_the_loss_curves_are_of_held_out_images_and_of_two_forms_of_one_prompt() -> None:
    suite = SUITES["fig9"]
    assert all(column.config["holdout"] == 0.2 for column in (*suite.tiny, *suite.full))
    one, two = (dict(row.settings) for row in suite.rows)
    assert (one.pop("score_agg"), two.pop("score_agg")) == ("per_token", "mean") and one == two


def test_what_figures_observe() -> None:
    observed = {name: suite.observe for name, suite in SUITES.items() if suite.observe}
    assert observed == {
        "fig2": ("activation_counts",),
        "fig4": ("expert_scores",),
        "fig6": ("activation_counts",),
        "fig8": ("prefix_keys", "head_inputs"),
        "fig9": ("validation_loss",),
    }
    assert [name for name, suite in SUITES.items() if suite.counts_only] == ["table3"]


def test_prompted_blocks_exist_at_both_sizes() -> None:
    suite = SUITES["hash_layers"]
    assert [row.settings["layers"][-1] for row in suite.rows] == [4, 12, 12, 1, 12]
    assert [row.settings["layers"][-1] for row in suite.tiny_rows] == [4, 6, 6, 1, 6]


def test_what_needs_a_download_is_no_column_of_a_suite_that_needs_none() -> None:
    emoji = {name for name, suite in SUITES.items() for column in suite.tiny if column.benchmark == "emoji_r"}
    assert emoji == {"rehearsal", "parts_by_steps", "parts_by_tasks"}
    assert {name for name, suite in SUITES.items() if suite.where_prepared} == {"table1", "table4"}
    assert SUITES["rehearsal"].rows == SUITES["smoke"].rows == SUITES["glyphs"].rows


def test_the_study_takes_one_part_away_at_a_time() -> None:
    rows = SUITES["parts_by_tasks"].rows
    assert rows[0].label == SUITES["parts_by_tasks"].reference
    assert [sorted(set(row.settings) - set(rows[0].settings)) for row in rows] == [
        [],
        ["epsilon"],
        ["alpha_router"],
        ["alpha_router", "epsilon", "top_k"],
    ]
    steps = SUITES["parts_by_steps"].rows
    assert {row.settings["schedule"]["epochs"] for row in steps} == {2, 8, 32} and len(steps) == 12
    learnt = {column.config["stop_after"] * 200 // column.config["tasks"] for column in SUITES["parts_by_tasks"].tiny}
    assert learnt == {80}
