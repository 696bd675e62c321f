"""docs/files.md describes the files of runs: each field that is there, and none that is not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from smope_bench import run_all
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.training import trainer
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]

ROOT = Path(run_all.__file__).resolve().parent
PAGE = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
OPEN = ("spec.method.config", "spec.benchmark.config", "spec.schedule", "provenance.plugins")
"""Mappings whose names are settings or kinds of plugins."""


def rows(file: str) -> list[list[str]]:
    """The cells of the table of a file."""
    table = PAGE.partition(f"<!-- fields of {file} -->\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    assert table, file
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in table]


def names(cell: str) -> list[str]:
    """The names in a cell: ``a.b``, `.c` and `.d` are a.b, a.c and a.d."""
    found: list[str] = []
    for name in re.findall(r"`([^`]+)`", cell):
        found.append(f"{found[-1].rpartition('.')[0]}{name}" if name.startswith(".") else name)
    return found


def fields(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all values in JSON; those of lists of objects with ``[]``."""
    if isinstance(value, Mapping) and path not in OPEN:
        for name, one in value.items():
            yield from fields(one, f"{path}.{name}".removeprefix("."))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for one in value:
            yield from fields(one, f"{path}[]")
    else:
        yield path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs that leave every field between them."""
    return []


def trained(registries: Registries, folder: Path, *observe: str, **changes: Any) -> Path:
    spec = micro_spec("linear_probe", **changes)
    trainer.run(spec, RunOptions(folder, folder), RunContext(), registries, observe=observe)
    return folder / spec.run_id
