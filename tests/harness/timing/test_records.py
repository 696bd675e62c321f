"""A measurement is kept with what it takes to repeat it, and compared only with one taken under the same conditions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smope_bench import run_all
from smope_bench.harness.errors import UserError
from smope_bench.harness.timing import records
from smope_bench.harness.timing.records import (
    Code,
    Measurement,
    Spread,
    code_here,
    compare,
    make_measurement,
    make_row,
    require_comparable,
)


def kept(seconds: Spread, **conditions: records.Value) -> Measurement:
    rows = [make_row("m", seconds=seconds, floor=None, queries=1), make_row("other", "a note", only_here=2.0)]
    here = {"batch": 4, "device": "a CPU", **conditions}
    return make_measurement("step", "run_all.py bench step", here, rows, code_here())


def test_spreads_and_counts_are_measures_and_none_is_not() -> None:
    first, second = kept(Spread(2, 1, 3)).rows
    assert first.measures == {
        "seconds": Spread(median=2, least=1, most=3),
        "queries": Spread(median=1, least=1, most=1, is_count=True),
    }
    assert second.measures.keys() == {"only_here"} and second.note == "a note"
    with pytest.raises(ValueError, match="finite"):
        Spread(float("nan"), 1, 2)


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    before, file = kept(Spread(2, 1, 3)), tmp_path / "new" / "step.json"
    records.require_writable(file)
    records.write(file, before)
    assert records.read(file) == before and json.loads(file.read_text())["schema"] == 1
    assert len(before.fingerprint) == 64 and before.made.endswith("Z")


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is not JSON"), ("[]", "not a stored measurement"), ('{"schema": 2}', "stored measurement \\(schema")],
)
def test_what_is_no_measurement_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        records.read(tmp_path / "x.json")


def test_ratios_are_now_to_then_and_unchanged_counts_are_left_out() -> None:
    now, then = kept(Spread(2, 1, 3)), kept(Spread(4, 3, 5))
    (row,) = compare(now, then)
    assert (row.name, row.measure, row.ratio, row.is_within) == ("m", "seconds", 0.5, True)
    assert not compare(now, kept(Spread(8, 7, 9)))[0].is_within
    assert records.unmatched(now, then.model_copy(update={"rows": then.rows[:1]})) == ["other"]


def test_a_single_timing_is_no_count() -> None:
    once, again = kept(Spread(2, 2, 2)), kept(Spread(3, 3, 3))
    assert [(row.measure, row.is_within) for row in compare(again, once)] == [("seconds", None)]
    assert [row.measure for row in compare(once, once)] == ["seconds"], "an equal timing is still a result"


def test_the_code_is_what_ran_when_the_command_began() -> None:
    code = Code("0123456789abcdef", True, "f")
    found = make_measurement("step", "run_all.py bench step", {}, [], code)
    assert (found.revision, found.is_dirty, found.fingerprint) == ("0123456789abcdef", True, "f")
    assert found.code_text == "revision 0123456789ab with uncommitted changes"
    assert found.model_copy(update={"is_dirty": False}).code_text == "revision 0123456789ab"


def test_other_conditions_are_refused_other_versions_are_not() -> None:
    then, file = kept(Spread(2, 1, 3), torch="1"), Path("old.json")
    require_comparable(then, "step", {"batch": 4, "device": "a CPU", "torch": "2"}, file)
    for changed, said in (
        ({"new": 1}, "new not said, this is 1"),
        ({"batch": 8}, "batch 4, this is 8"),
        ({"device": "a GPU"}, "device 'a CPU', this is 'a GPU'"),
    ):
        with pytest.raises(UserError, match=said):
            require_comparable(then, "step", {"batch": 4, "device": "a CPU", **changed}, file)
    with pytest.raises(UserError, match="device 'a CPU', this is not said"):
        require_comparable(then, "step", {"batch": 4}, file)
    with pytest.raises(UserError, match="holds 'bench step', not 'bench eval'"):
        require_comparable(then, "eval", {}, file)


def test_commands_keep_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, asked = str(tmp_path / "step.json"), ["bench", "step", "--backbone", "tiny", "--methods", "linear_probe"]
    asked += ["--repeats", "1", "--threads", "1", "--batch", "1"]
    assert run_all.main([*asked, "--out", file]) == 0
    found = records.read(Path(file))
    assert found.command == (
        "run_all.py bench step --methods linear_probe --backbone tiny --batch 1 --repeats 1 --threads 1"
    )
    assert found.bench == "step" and found.conditions["finished"] == 1 and found.row("linear_probe") is not None
    capsys.readouterr()
    assert run_all.main([*asked, "--against", file]) == 0
    assert "now / then" in capsys.readouterr().out
    assert run_all.main([*asked, "--against", file, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in printed.pop("against")} >= {"bare", "linear_probe"}
    assert Measurement.model_validate(printed).conditions == found.conditions, "the form of the kept file"
    assert run_all.main(["bench", "tap", "--against", file]) == 2
    assert "holds 'bench step', not 'bench tap'" in capsys.readouterr().err
    assert run_all.main([*asked, "--out", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "rows", "measures"),
    [
        (["data", "--images", "2"], 6, {"ms", "times_faster"}),
        (["eval", "--backbone", "tiny", "--methods", "dualprompt", "--images", "1"], 1, {"uncached_s", "cold", "warm"}),
        (["attention", "--batch", "1"], 14, {"seconds", "to_used", "saved_mb"}),
    ],
)
@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_every_bench_keeps_what_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], rows: int, measures: set[str]
) -> None:
    monkeypatch.setattr("smope_bench.harness.timing.claims.evaluation.TASKS", 2)
    file = tmp_path / "kept.json"
    assert run_all.main(["bench", *asked, "--repeats", "1", "--threads", "1", "--out", str(file)]) == 0
    found = records.read(file)
    assert found.bench == asked[0] and len(found.rows) == rows and found.rows[0].measures.keys() == measures
    assert found.command.startswith(f"run_all.py bench {asked[0]} ") and str(tmp_path) not in found.model_dump_json()
