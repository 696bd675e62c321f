"""smope-bench: the reference comparison of prompt-based continual learning.

Methods and benchmarks of one's own build on ``smope_bench.api``. Importing this package imports neither torch nor pandas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import os

    import pandas as pd

    from smope_bench.harness.errors import UserError
    from smope_bench.harness.library import File, Files, RunOutcomes, Seeds, Settings
    from smope_bench.harness.registry.named import Names
    from smope_bench.harness.run_spec import Precision
    from smope_bench.harness.trained.model import TrainedModel
    from smope_bench.reports.loading.frames import ResultFrames

_HERE = Path(__file__).resolve().parent
if not (_HERE / "harness").is_dir():
    # A checkout on a file system without symbolic links: the links beside this file are then plain text files.
    __path__.append(str(_HERE.parents[1]))


__all__ = ["UserError", "load_model", "plan", "results", "run"]


def run(
    suites: Files = "smoke",
    *,
    methods: Names | None = None,
    benchmarks: Names | None = None,
    seeds: Seeds | None = None,
    settings: Settings | None = None,
    tiny: bool = False,
    backbone: File | None = None,
    recipe: Literal["published", "nearest"] = "published",
    recipe_of: str | None = None,
    limit: int | None = None,
    precision: Precision = "fp32",
    plugins: Files = (),
    results: File = "results",
    data: File = "data",
    workers: int | None = None,
    threads: int | None = None,
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"] = "auto",
    executor: str = "auto",
    address: str | None = None,
    slurm: Iterable[str] = (),
    gpus_per_run: float = 1.0,
    gpus: int | str | Iterable[int] | None = None,
    allow_device_change: bool = False,
    deterministic: bool = False,
    checkpoint_every: float = 5.0,
    keep: bool = True,
    extendable: bool = False,
    track: str | Iterable[str] = (),
    quiet: bool = False,
) -> RunOutcomes:
    """Do the runs of some suites that are not done yet, as the command ``run`` does, and return all of them.

    ``methods``, ``benchmarks``: names, plugin files (``"my_method.py"``) or classes, instead of the suite's. ``seeds``: numbers,
    pairs (order, training), or a text such as ``"0-4"``. ``settings``: what ``--set`` takes, as a mapping
    (``{"schedule.epochs": 3, "smope": {"epsilon": 0.6}}``) or as texts. ``checkpoint_every``: minutes. ``quiet``: print nothing.
    The others: ``smope-bench run --help``.

    A run that fails is among the returned ones, with state ``failed`` and the reason. Raises ``UserError`` with one sentence for a
    mistake, and KeyboardInterrupt after Ctrl-C, once the runs in progress are saved: the same call goes on from there.
    """
    from smope_bench.harness import library

    return library.run(
        suites=suites,
        methods=methods,
        benchmarks=benchmarks,
        seeds=seeds,
        settings=settings,
        tiny=tiny,
        backbone=backbone,
        recipe=recipe,
        recipe_of=recipe_of,
        limit=limit,
        precision=precision,
        plugins=plugins,
        results=results,
        data=data,
        workers=workers,
        threads=threads,
        device=device,
        executor=executor,
        address=address,
        slurm=slurm,
        gpus_per_run=gpus_per_run,
        gpus=gpus,
        allow_device_change=allow_device_change,
        deterministic=deterministic,
        checkpoint_every=checkpoint_every,
        keep=keep,
        extendable=extendable,
        track=track,
        quiet=quiet,
    )


def plan(
    suites: Files = "smoke",
    *,
    methods: Names | None = None,
    benchmarks: Names | None = None,
    seeds: Seeds | None = None,
    settings: Settings | None = None,
    tiny: bool = False,
    backbone: File | None = None,
    recipe: Literal["published", "nearest"] = "published",
    recipe_of: str | None = None,
    limit: int | None = None,
    precision: Precision = "fp32",
    plugins: Files = (),
    results: File = "results",
    data: File = "data",
    tflops: float | None = None,
) -> pd.DataFrame:
    """The runs that ``run`` would do, a row each, with id, state, recipe, settings and costs; trains nothing.

    Columns: those of ``smope-bench plan --json``, described in docs/python.md. Arguments: as of ``run``. ``tflops``: effective
    TFLOP/s to estimate ``seconds`` with. Raises ``UserError`` with one sentence for a mistake.
    """
    from smope_bench.harness import library

    return library.plan(
        suites=suites,
        methods=methods,
        benchmarks=benchmarks,
        seeds=seeds,
        settings=settings,
        tiny=tiny,
        backbone=backbone,
        recipe=recipe,
        recipe_of=recipe_of,
        limit=limit,
        precision=precision,
        plugins=plugins,
        results=results,
        data=data,
        tflops=tflops,
    )


def results(
    folder: str | os.PathLike[str] = "results", suites: str | Sequence[str] | None = None, *, mixed: bool = False
) -> ResultFrames:
    """The results of a folder as two pandas data frames, ``.runs`` (one row a run) and ``.cells`` (one row a cell).

    ``suites``: some of the suites that were run, by default all. ``mixed``: average runs of several code versions together.
    Columns: see ``ResultFrames``. Raises ``UserError`` for a folder that cannot be read.
    """
    from smope_bench.reports.loading.frames import read_results

    return read_results(folder, suites, mixed=mixed)


def load_model(
    run: str | os.PathLike[str],
    *,
    results: str | os.PathLike[str] = "results",
    data: str | os.PathLike[str] = "data",
    plugins: File | Sequence[File] = (),
    device: str = "auto",
) -> TrainedModel:
    """The trained model of a run, by its id, by the beginning of one, or from a folder that ``export`` wrote.

    ``model.predict(images)`` names the classes of pictures; ``model.class_names``, ``model.preprocess``: see ``TrainedModel``.
    ``plugins``: the files that the run was made with. Raises ``UserError`` where there is no such
    model, where it is damaged, or where method, benchmark or backbone are no longer those of the run.
    """
    from smope_bench.harness.trained.model import load_model as load

    return load(run, results=results, data=data, plugins=plugins, device=device)


def __getattr__(name: str) -> Any:
    if name == "UserError":
        from smope_bench.harness.errors import UserError

        return UserError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
