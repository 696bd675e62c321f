"""Removal of the files that a run needs only while it is unfinished. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from smope_bench.harness.records.event_log import PROGRESS

CHECKPOINT = "checkpoint"
TEMPORARY = (".*.npz-*", ".*.json-*", ".*.safetensors-*")
"""Files of atomic writes that were interrupted before the rename."""


def remove_temporary_files(folder: Path) -> None:
    """Remove checkpoints and temporary files from a run's folder. Only the holder of the run's lease may call this.

    A process that is killed after publication leaves them, and nobody repeats a finished run. Errors are ignored.
    """
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    with contextlib.suppress(OSError):
        for file in (folder / PROGRESS, *matching_files(folder, TEMPORARY)):
            file.unlink(missing_ok=True)


def matching_files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Files of a run's folder, where there is one, that fit one of the patterns."""
    with contextlib.suppress(FileNotFoundError):
        return [folder / name for name in os.listdir(folder) if any(fnmatchcase(name, one) for one in patterns)]  # noqa: PTH208  # a Path each is slow
    return []
