"""Hostile files for every parser: Hypothesis changes sound ones, and is told how many lines of this project each one reached.

From the project's folder: ``python tests/robustness/hostile.py --cases 5000``. It prints as JSON the cases of each parser, the
lines that they reached, and what went wrong; the exit status is 1 where anything did. Wrong is: another error than the
project's own, more than ``LONGEST_S`` seconds of processor time, and more than ``MOST_MB`` more memory than before.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings, target
from hypothesis import strategies as st

import smope_bench
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.memory import forget_peak, peak_mb
from smope_bench.harness.records.record import with_checksum
from smope_bench.methods.common.errors import MethodError

sys.path.append(str(Path(__file__).parent))

from hostile_parsers import Parser, parsers  # pyright: ignore[reportMissingImports]
from inputs import places_of  # pyright: ignore[reportMissingImports]

LONGEST_S, MOST_MB = 20, 1024
OURS = (UserError, BenchmarkError, MethodError)
ROOM = f"{Path(smope_bench.__file__).parent}{os.sep}"
TOKENS = (
    b"", b"\0", b"\xff", b"\xed\xa0\x80", b"[" * 2000, b"{", b"}", b"]", b"null", b"true", b"-1", b"0", b"1e999", b"NaN",
    b"9" * 400, b"9" * 5000, b"4294967296", b'"\\ud800"', b'"\\u0000"', b"../", b"/etc/passwd", b"~nobody_of_this_name/x", b"\n",
    b"\r\n", b"\t", b": ", b"- ", b"&a [*a]", b"*a", b"!!python/name:os.system", b"<<: ", b"\x80\x02", b"PK\x03\x04", b"\x1f\x8b",
    b"\xe2\x80\xae", b"\x1b[2J", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"{}", b"[]", b'""',
    b"0x10", b"1_0", b"\xef\xbb\xbf",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 2**70, 10**400, 0.5, 1e308, -0.0, "", "x", "0", "nan", "1e999", "\0", "\ud800", "../x", "/",
    "~no_one/x", "\x1b[2J", "a" * 5000, [], [[]], {}, {"a": []}, {"": 0}, [None] * 3, [0] * 2000,
)  # fmt: skip


class HangsError(BaseException):
    """The alarm went off."""


@dataclass
class Found:
    """What the cases of a parser gave: their number, the lines that they reached, and faults by the place that raised them."""

    cases: int = 0
    lines: set[tuple[str, int]] = field(default_factory=set)
    faults: dict[str, str] = field(default_factory=dict)


@st.composite
def damaged(draw: st.DrawFn, parser: Parser) -> bytes:
    """One of a parser's samples after one to four changes."""
    data = draw(st.sampled_from(parser.samples))
    if parser.is_json and draw(st.booleans()):
        return _with_other_value(draw, data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, 2**16)) * (len(data) + 1) >> 16
        length = draw(st.sampled_from((0, 1, 2, 4, 8, 64, 1 << 20)))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            data = data[:at] + draw(st.sampled_from(TOKENS)) + data[at + length :]
        elif kind == 1:
            data = data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at + length :]
        elif kind == 2:
            data = data[:at] + data[at : at + length] * 2 + data[at + length :]
        else:
            data = data[:at]
    return data


def _with_other_value(draw: st.DrawFn, data: bytes) -> bytes:
    """JSON with one value replaced or removed; a seal, where it has one, fits again."""
    value = json.loads(data)
    node, key = draw(st.sampled_from(places_of(value)))
    if draw(st.booleans()):
        node[key] = draw(st.sampled_from(VALUES))
    else:
        del node[key]
    if isinstance(value, dict) and "seal" in value and draw(st.booleans()):
        with contextlib.suppress(ValueError):
            value = with_checksum(value)
    return json.dumps(value).encode()


def attack(parser: Parser, cases: int, number: int = 0) -> Found:
    """Read so many damaged files, each in an empty folder, drawn from a seed; goes on after a fault."""
    found = Found()

    @seed(number)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.target),
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example),
    )
    @given(damaged(parser))
    def one(data: bytes) -> None:
        found.cases += 1
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            lines, fault = read(parser, data, Path(folder))
        found.lines |= lines
        if fault is not None:
            found.faults.setdefault(*fault)
        target(float(len(lines)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one()
    return found


def read(parser: Parser, data: bytes, folder: Path) -> tuple[set[tuple[str, int]], tuple[str, str] | None]:
    """(lines of the project that were reached, place and words of a fault)."""
    lines: set[tuple[str, int]] = set()
    fault: tuple[str, str] | None = None
    forget_peak()
    before = peak_mb()
    shown = f"{len(data)} bytes, {data[:60]!r}"
    try:
        with (
            _alarm(),
            _traced(lines),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            parser.read(data, folder)
    except OURS as error:
        if not str(error).strip() or "\x1b" in str(error).replace(str(folder), ""):
            fault = (f"words of {type(error).__name__}", f"{str(error)[:200]!r} for {shown}")
    except (HangsError, Exception, KeyboardInterrupt) as error:
        place = next(
            (one for one in reversed(traceback.extract_tb(error.__traceback__)) if one.filename.startswith(ROOM)), None
        )
        where = f"{place.filename.removeprefix(ROOM)}:{place.lineno}" if place else "?"
        fault = (f"{type(error).__name__} at {where}", f"{str(error)[:200]} for {shown}")
    if peak_mb() - before > MOST_MB:
        fault = ("memory", f"{peak_mb() - before:.0f} MiB for {shown}")
    return lines, fault


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    """Raise HangsError inside after ``LONGEST_S`` seconds of processor time, or ten times as long by the clock."""

    def ring(*_: object) -> None:
        raise HangsError

    alarms = {signal.SIGPROF: (signal.ITIMER_PROF, LONGEST_S), signal.SIGALRM: (signal.ITIMER_REAL, 10 * LONGEST_S)}
    before = {number: signal.signal(number, ring) for number in alarms}
    for timer, seconds in alarms.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for number, (timer, _) in alarms.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


@contextlib.contextmanager
def _traced(lines: set[tuple[str, int]]) -> Iterator[None]:
    """Note the lines of the project that are run inside."""

    def local(frame: FrameType, event: str, _: object) -> Any:
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def entered(frame: FrameType, event: str, argument: object) -> Any:
        return local if frame.f_code.co_filename.startswith(ROOM) else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        yield
    finally:
        sys.settrace(before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Attack every parser; returns the exit status."""
    from smope_bench import run_all

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=5000, help="of all parsers together")
    options.add_argument("--seed", type=int, default=0)
    given_ = options.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        places = ["--results", f"{folder}/results", "--data", f"{folder}/data"]
        with contextlib.redirect_stdout(sys.stderr):
            assert run_all.main(["run", "ci", "--methods", "ncm", "--workers", "1", "--device", "cpu", *places]) == 0
        known = parsers(Path(folder) / "results")
        each = -(-given_.cases // len(known))
        found = {name: attack(parser, each, given_.seed) for name, parser in known.items()}
    said = {name: {"cases": one.cases, "lines": len(one.lines), "faults": one.faults} for name, one in found.items()}
    cases, faults = sum(one.cases for one in found.values()), sum(len(one.faults) for one in found.values())
    print(json.dumps({"parsers": said, "cases": cases, "faults": faults}, indent=1))
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
