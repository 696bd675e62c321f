"""smope-bench: the reference comparison of prompt-based continual learning.

Methods and benchmarks of one's own build on ``smope_bench.api``. Importing this package imports neither torch nor pandas.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from smope_bench.harness.trained.model import TrainedModel
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


def load_model(
    run: str | os.PathLike[str],
    *,
    results: str | os.PathLike[str] = "results",
    data: str | os.PathLike[str] = "data",
    plugins: Sequence[str | os.PathLike[str]] = (),
    device: str = "auto",
) -> TrainedModel:
    """The trained model of a run, by its id, by the beginning of one, or from a folder that ``export`` wrote.

    ``model.predict(images)`` names the classes of pictures; ``model.class_names``, ``model.preprocess``: see ``TrainedModel``.
    ``plugins``: the files that the run was made with. Raises ``smope_bench.harness.errors.UserError`` where there is no such
    model, where it is damaged, or where method, benchmark or backbone are no longer those of the run.
    """
    from smope_bench.harness.trained.model import load_model as load

    return load(run, results=results, data=data, plugins=plugins, device=device)
