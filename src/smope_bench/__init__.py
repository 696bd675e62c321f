"""smope-bench: the reference comparison of prompt-based continual learning.

Methods and benchmarks of one's own build on ``smope_bench.api``. Importing this package imports neither torch nor pandas.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from smope_bench.reports.loading.frames import ResultFrames

_HERE = Path(__file__).resolve().parent
if not (_HERE / "harness").is_dir():
    # A checkout on a file system without symbolic links: the links beside this file are then plain text files.
    __path__.append(str(_HERE.parents[1]))


def results(
    folder: str | os.PathLike[str] = "results", suites: Sequence[str] | None = None, *, mixed: bool = False
) -> ResultFrames:
    """The results of a folder as two pandas data frames, ``.runs`` (one row a run) and ``.cells`` (one row a cell).

    ``suites``: some of the suites that were run, by default all. ``mixed``: average runs of several code versions together.
    Columns: see ``ResultFrames``. Raises ``smope_bench.harness.errors.UserError`` for a folder that cannot be read.
    """
    from smope_bench.reports.loading.frames import read_results

    return read_results(folder, suites, mixed=mixed)
