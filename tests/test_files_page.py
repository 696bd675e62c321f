"""docs/files.md describes the files of runs: each field that is there, and none that is not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from smope_bench import run_all
from smope_bench.harness import provenance
from smope_bench.harness.checkpointing.checkpoint import Checkpoint, Checkpoints
from smope_bench.harness.conformance.fixtures import ColouredDomains
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.run_options import RunContext, RunOptions
from smope_bench.harness.run_spec import Component
from smope_bench.harness.trained.extend import plan_extension
from smope_bench.harness.training import trainer
from smope_bench.methods.baselines.linear_probe import LinearProbe
from smope_bench.methods.common.api import Batch
from tests.conftest import micro_spec  # pyright: ignore[reportMissingImports]

ROOT = Path(run_all.__file__).resolve().parent
PAGE = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
OPEN = (
    "spec.method.config",
    "spec.benchmark.config",
    "spec.schedule",
    "provenance.plugins",
    "model.learned",
    "spec.parent.before",
)
"""Mappings whose names are settings or kinds of plugins."""


RARE = {
    "spec.backbone.*",
    "devices[].*",
    "device_changes[].from",
    "device_changes[].to",
    "device_changes[].task",
    "flags.device_changed",
    "flags.exemplars",
}
WRITERS = "".join(
    (ROOT / "harness" / part).read_text()
    for part in ("training/publish.py", "training/batches/data.py", "checkpointing/manager.py")
)


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


class Short(LinearProbe):
    """Runs out of memory once where ``errors`` has an error."""

    name: ClassVar[str] = "short"
    errors: ClassVar[list[Exception]] = []

    def training_step(self, batch: Batch) -> Tensor:
        if self.errors:
            raise self.errors.pop()
        return super().training_step(batch)


@pytest.fixture
def runs(registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders of runs that leave every field between them."""
    registries.benchmarks.add("domains", "tests", ColouredDomains)
    registries.methods.add("short", "tests", Short)

    def train(
        folder: str, *observe: str, method: str = "linear_probe", benchmark: str = "", keep: bool = True, **config: Any
    ) -> Path:
        spec = micro_spec(method)
        changed = Component(name=benchmark or spec.benchmark.name, config={**spec.benchmark.config, **config})
        spec = spec.model_copy(update={"benchmark": changed})
        options = RunOptions(tmp_path / folder, tmp_path, keep=keep)
        trainer.run(spec, options, RunContext(), registries, observe=observe)
        return tmp_path / folder / spec.run_id

    made = [train("plain", keep=False), train("domains", benchmark="domains")]
    monkeypatch.setattr(provenance, "is_deterministic", lambda: True)
    made.append(train("observed", "validation_loss", holdout=0.2))
    Short.errors.append(torch.OutOfMemoryError("CUDA out of memory."))
    save, errors = Checkpoints.save, [OSError(28, "No space left on device")]

    def failing(checkpoints: Checkpoints, state: Checkpoint) -> None:
        if errors:
            raise errors.pop()
        save(checkpoints, state)

    monkeypatch.setattr(Checkpoints, "save", failing)
    made.append(train("short", method="short"))
    half = train("half", stop_after=2)
    planned = plan_extension(half.name, half.parent, tmp_path, registries)
    trainer.run(planned.spec, RunOptions(half.parent, tmp_path), RunContext(), registries)
    return [*made, half.parent / planned.run_id]


def test_the_page_has_the_fields_of_every_file(runs: list[Path]) -> None:
    records = [json.loads((run / "result.json").read_text()) for run in runs]
    written = [set(fields(record)) for record in records]
    described = {name: row for row in rows("result.json") for name in names(row[0])}
    some, every = set[str]().union(*written), set[str].intersection(*written)
    for name in RARE & set(described):  # written for what a test has not: several types of devices
        assert name.endswith(".*") or re.search(rf'"{re.split("[.]", name)[-1]}"', WRITERS), name
    assert some == set(described) - RARE
    only = {name for name, row in described.items() if re.search(r"\bonly\b", row[2])} - RARE
    assert only == (some - every), "fields that not every run has are those that say so"

    events = [json.loads(line) for run in runs for line in (run / "events.jsonl").read_text().splitlines()]
    found = {event["event"]: event.keys() - {"event", "t"} for event in events}
    assert all(event.keys() - {"event", "t"} == found[event["event"]] for event in events)
    assert found == {
        names(row[0])[0]: set(names(row[1])) - {"accuracy_matrix", "devices", "precision_remark"}
        for row in rows("events.jsonl")
    }

    for run, record in zip(runs, records, strict=True):
        with np.load(run / "predictions.npz", allow_pickle=False) as arrays:
            stages = {f"stage_{stage}" for stage in range(len(record["accuracy_matrix"]))}
            assert {
                name.replace("stage_t", "stage_0") for row in rows("predictions.npz") for name in names(row[0])
            } == {
                "labels",
                "stage_0",
            }
            assert set(arrays) == {"labels", *stages} and {array.dtype for array in arrays.values()} == {
                np.dtype("int32")
            }
            assert len(arrays["labels"]) == sum(record["test_counts"])
            counts = record["test_counts"]
            last, first = arrays[f"stage_{len(stages) - 1}"], arrays["labels"][: counts[0]]
            right = 100 * (last[: counts[0]] == first).mean()
            assert right == pytest.approx(record["accuracy_matrix"][-1][0])

    table = PAGE.partition("| file | what it is |\n|---|---|\n")[2].partition("\n\n")[0]
    listed = {names(line.split("|")[1])[0] for line in table.splitlines()}
    assert {file.name for run in runs for file in run.iterdir()} - {"progress.json"} == listed - {"failure.json"}


def test_a_field_that_nobody_described_would_be_noticed() -> None:
    assert set(fields({"a": {"b": 1}, "c": [{"d": 2}], "e": [[1]], "spec": {"schedule": {"lr": 1}}})) == {
        "a.b",
        "c[].d",
        "e",
        "spec.schedule",
    }
    assert names("`a.b[].c`, `.d`, `e`") == ["a.b[].c", "a.b[].d", "e"]
