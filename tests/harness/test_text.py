"""Whatever a stranger's text holds, what is printed is one line that a terminal only shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smope_bench.harness.errors import did_you_mean
from smope_bench.harness.text import LONGEST, plain, plain_values, sentence, whole_commands


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\n lines\tand a tab", "two lines and a tab"),
        ("\x1b[31mred\x1b]0;title\x07", "�[31mred�]0;title�"),
        ("\x9b31mC1", "�31mC1"),
        ("gpj.\u202eexe", "gpj.�exe"),
        ("half \ud800 a pair", "half � a pair"),
        ("umlauts: äöü, 日本", "umlauts: äöü, 日本"),
        (17, "17"),
    ],
)
def test_texts_are_shown_as_they_are_and_commands_are_not(text: object, shown: str) -> None:
    assert plain(text) == shown
    plain(text).encode("utf-8")


def test_a_long_text_is_cut() -> None:
    assert plain("a" * 10 * LONGEST) == "a" * LONGEST + "…"


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_what_has_no_text_is_named_by_its_type() -> None:
    assert plain(Mute()) == "<Mute without a text>"


def test_rows_stay_json() -> None:
    row = {"a": None, "b": 1.5, "c": ["x\x00", Mute()], "d": {1: True}, "e": Mute()}
    kept = plain_values(row)
    assert kept["a"] is None and kept["b"] == 1.5 and kept["c"][0] == "x�" and kept["d"] == {"1": True}
    json.dumps(kept)


def test_a_syntax_error_says_its_line() -> None:
    try:
        compile("x = 1\ndef (:", "f", "exec")
    except SyntaxError as error:
        assert sentence(error).startswith("SyntaxError: ") and sentence(error).endswith("(line 2)")
    assert sentence(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("emoji_r/5fe9", "'emoji_r/5fe9b658b61cfb65'"), ("emoji_s", "'emoji_r'"), ("emoji", "'emoji_r'")],
)
def test_a_name_that_is_cut_short_gets_the_whole_one(name: str, hint: str) -> None:
    assert f"; did you mean {hint}?" in did_you_mean(name, ["digits", "emoji_r", "emoji_r/5fe9b658b61cfb65"])


def test_a_command_in_a_message_gets_the_options_that_it_lacks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    places = ([Path("a b.py")], Path("my data"), Path("my results"))
    monkeypatch.setattr("smope_bench.harness.text.program", lambda: "python run_all.py")
    for command, whole in (
        ("data prepare x", "data prepare x --plugin 'a b.py' --data 'my data'"),
        ("data verify x --data there", "data verify x --data there --plugin 'a b.py'"),
        ("migrate", "migrate --results 'my results'"),
        ("migrate --results there", "migrate --results there"),
    ):
        done = whole_commands(f"call `smope-bench {command}`.", *places)
        assert done == f"call `python run_all.py {whole}`."
    assert whole_commands("call `smope-bench data prepare x`.") == "call `python run_all.py data prepare x`."
    for other in ("the folder data prepare", "`data`", "`smope-bench datasets`", "of smope-bench data"):
        assert whole_commands(other, *places) == other
    monkeypatch.undo()
    once = whole_commands("`smope-bench data prepare x` or `smope-bench migrate`", *places)
    assert whole_commands(once, *places) == once
