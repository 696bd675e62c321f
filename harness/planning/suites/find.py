"""Suites by name or by YAML file, and what distinguishes two of them. Imports no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from smope_bench.benchmarks.suites import SUITES, Suite
from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.planning.suites.read import ENDINGS, read_suite


def is_file_name(name: str) -> bool:
    """Whether an argument names a file and not a suite: it ends in ``.yaml`` or ``.yml``, or names a folder."""
    return name.lower().endswith(ENDINGS) or "/" in name or "\\" in name


def find_suite(name: str) -> Suite:
    """The suite of that name, or that of a file. Raises UserError; an unchanged file is read once a process."""
    if is_file_name(name):
        return read_suite(Path(name))
    if name not in SUITES:
        file = None
        with contextlib.suppress(OSError):  # a name that is too long for a file
            file = next((f"{name}{ending}" for ending in ENDINGS if Path(f"{name}{ending}").is_file()), None)
        hint = f"; did you mean the file {file!r}?" if file else did_you_mean(name, SUITES)
        raise UserError(f"unknown suite {name!r}{hint}")
    return SUITES[name]


def run_argument(name: str) -> str:
    """What to write after ``run`` for a suite of the results folder, which does not know where a user's file is."""
    return name if name in SUITES else f"FILE{ENDINGS[0]}"


def find_suites(names: Iterable[str]) -> list[Suite]:
    """These suites, each once. Raises UserError for an unknown one and for two of one name."""
    found: dict[str, Suite] = {}
    for name in names:
        suite = find_suite(name)
        other = found.setdefault(suite.name, suite)
        if digest(other) != digest(suite):
            raise UserError(
                f"{other.file!r} and {suite.file!r} are both suite {suite.name!r}, under which results are kept;"
                f" give one of them another name, as in: name: {suite.name}_2"
            )
    return list(found.values())


def name_in_results(name: str) -> str:
    """The name under which the results folder keeps the suite that an argument names; a plain name stays as it is."""
    return find_suite(name).name if is_file_name(name) else name


def digest(suite: Suite) -> str:
    """Identity of what a file plans: a hash of rows, columns and settings. Empty for the project's own suites."""
    if not suite.file:
        return ""
    parts = (suite.rows, suite.tiny_rows, suite.tiny, suite.full)
    plans = [[{**asdict(one), "line": 0} for one in part] for part in parts]
    text = json.dumps([plans, suite.settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
