"""What a run's folder holds only while the run goes on, and its removal once the record is there. No torch.

A process that is killed between publishing and releasing its lease leaves all of it, and nobody does the run again.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from smope_bench.harness.records.event_log import PROGRESS

CHECKPOINT = "checkpoint"
TEMPORARY = (".*.npz-*", ".*.json-*")
"""What an atomic write had not renamed yet."""


def remove_temporary_files(folder: Path) -> None:
    """Remove what only an unfinished run needs. For the holder of the run's lease; what cannot be removed stays."""
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    with contextlib.suppress(OSError):
        for file in (folder / PROGRESS, *_matching(folder, TEMPORARY)):
            file.unlink(missing_ok=True)


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [file for pattern in patterns for file in folder.glob(pattern)]
