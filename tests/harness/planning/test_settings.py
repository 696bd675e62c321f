"""What users type after --set and --seeds, and the sentences that answer mistakes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smope_bench.benchmarks.base import BenchmarkConfig
from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.settings import (
    Seeds,
    has_field,
    merged,
    nested,
    parse_seeds,
    parse_setting,
    validated,
)
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.smope import SMoPEConfig


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("epochs=3", ("epochs",), 3),
        ("schedule.lr=1e-3", ("schedule", "lr"), 1e-3),
        ("smope.tap.enabled=false", ("smope", "tap", "enabled"), False),
        ("tap.enabled=False", ("tap", "enabled"), False),
        ("noise=uniform", ("noise",), "uniform"),
        ("split=[4,3,3]", ("split",), [4, 3, 3]),
        ("steps_per_epoch=null", ("steps_per_epoch",), None),
        ("path=a=b", ("path",), "a=b"),
    ],
)
def test_settings(text: str, path: tuple[str, ...], value: Any) -> None:
    setting = parse_setting(text)
    assert (setting.path, setting.value) == (path, value)


@pytest.mark.parametrize("text", ["", "epochs", "=3", ".lr=1", "a..b=1"])
def test_malformed_settings(text: str) -> None:
    with pytest.raises(UserError, match="key=value"):
        parse_setting(text)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["0"], [(0, 0)]),
        (["0,2", "1"], [(0, 0), (2, 2), (1, 1)]),
        (["0-2"], [(0, 0), (1, 1), (2, 2)]),
        (["3:7"], [(3, 7)]),
        (["1", "1"], [(1, 1)]),
    ],
)
def test_seeds(texts: list[str], expected: list[tuple[int, int]]) -> None:
    assert parse_seeds(texts) == [Seeds(*pair) for pair in expected]


@given(st.text(max_size=8).filter(lambda text: not text.strip().replace(",", "").isdigit()))
def test_any_text_gives_seeds_or_one_sentence(text: str) -> None:
    try:
        assert all(seed.order >= 0 and seed.train >= 0 for seed in parse_seeds([text]))
    except UserError as error:
        assert "--seeds" in str(error) and "\n" not in str(error).replace(repr(text), "")


@pytest.mark.parametrize(
    ("model", "values", "says"),
    [
        (SMoPEConfig, {"epsilom": 1}, r"smope\.epsilom is not a setting; did you mean 'epsilon'"),
        (SMoPEConfig, {"tap": {"epoch": 1}}, r"smope\.tap\.epoch is not a setting; did you mean 'epochs'"),
        (SMoPEConfig, {"epsilon": -1}, r"smope\.epsilon=-1: .*greater than or equal to 0.*allowed: >= 0 and <= 10"),
        (SMoPEConfig, {"top_k": "many"}, r"smope\.top_k='many': .*integer"),
        (SMoPEConfig, {"noise": "loud"}, r"smope\.noise='loud': .*'adaptive', 'fixed' or 'uniform'"),
        (SMoPEConfig, {"top_k": 99}, r"top_k=99 is more than the 25 experts"),
        (Schedule, {"epochs": 0}, r"smope\.epochs=0: .*allowed: >= 1"),
        (Schedule, {"lr": float("nan")}, r"smope\.lr=nan"),
    ],
)
def test_errors_name_the_field_the_value_and_what_is_allowed(model: Any, values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        validated(model, values, "smope")


def test_merging_is_deep() -> None:
    base = {"tap": {"epochs": 5, "samples": 2}, "top_k": 1}
    assert merged(base, {"tap": {"epochs": 6}}) == {"tap": {"epochs": 6, "samples": 2}, "top_k": 1}
    assert base["tap"] == {"epochs": 5, "samples": 2}
    assert nested(("a", "b"), 1) == {"a": {"b": 1}}


def test_fields_are_found_at_any_depth() -> None:
    assert has_field(SMoPEConfig, ("tap", "cov")) and has_field(SMoPEConfig, ("top_k",))
    assert not has_field(SMoPEConfig, ("tap", "covs")) and not has_field(SMoPEConfig, ("top_k", "x"))


@pytest.mark.parametrize(
    ("augment", "kinds"),
    [
        ({"ratio": 3}, r"random_resized_crop \(or none, affine\)"),
        ({"kind": "affin"}, r"none \(or affine, random_resized_crop\)"),
    ],
)
def test_a_setting_of_several_forms_names_their_kinds(augment: dict[str, object], kinds: str) -> None:
    with pytest.raises(UserError, match=rf"give its form first, by --set benchmark\.augment\.kind={kinds}"):
        validated(BenchmarkConfig, {"augment": augment}, "benchmark")
