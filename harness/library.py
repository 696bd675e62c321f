"""``smope_bench.run`` and ``smope_bench.plan``: values of Python made the command line's options, and what comes back.

The options are read and the runs are done by the functions that the commands call.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
import random
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from smope_bench.harness.cancellation import INTERRUPTED, Stopped, stop_signals
from smope_bench.harness.cli.commands.listing import planned
from smope_bench.harness.cli.options import DeviceName, PrecisionName, RecipeName, read_gpus, split_values
from smope_bench.harness.cli.request import Request, read_request
from smope_bench.harness.console import make_console
from smope_bench.harness.cost.cost_suites import count_suite
from smope_bench.harness.errors import UserError, as_user_errors
from smope_bench.harness.execution.launcher import LaunchSummary, launch, print_summary, require_guard
from smope_bench.harness.planning.settings import parse_setting
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.harness.registry.metrics import open_metrics, values_of
from smope_bench.harness.registry.registry import open_registries
from smope_bench.harness.run_options import RunOptions
from smope_bench.harness.text import plain

if TYPE_CHECKING:
    import pandas as pd

File: TypeAlias = "str | os.PathLike[str]"
Files: TypeAlias = "File | Iterable[File]"
Seeds: TypeAlias = "int | str | Iterable[int | str | tuple[int, int]]"
Settings: TypeAlias = "Mapping[str, Any] | Iterable[str]"
_IN_PROGRESS = threading.Lock()


@dataclass(frozen=True)
class RunOutcome:
    """One run of a call of ``smope_bench.run``.

    ``state``: ``done``, also where it was done before, or ``failed``, with the reason in ``error``. ``column``: the benchmark with
    what sets it apart, as tables head it. ``metrics``: values by name, None where one is not defined; empty for a failed run.
    ``folder``: where its files lie (docs/files.md).
    """

    run_id: str
    state: Literal["done", "failed"]
    suite: str
    row: str
    method: str
    benchmark: str
    column: str
    order_seed: int
    train_seed: int
    metrics: Mapping[str, float | None]
    folder: Path
    error: str | None = None


@dataclass(frozen=True)
class RunOutcomes:
    """What a call of ``smope_bench.run`` did: its runs in the order of the plan, and the seconds that it took."""

    runs: tuple[RunOutcome, ...]
    seconds: float

    @property
    def failed(self) -> tuple[RunOutcome, ...]:
        """The runs that failed."""
        return tuple(run for run in self.runs if run.state == "failed")

    def frame(self) -> pd.DataFrame:
        """A pandas data frame with a row for each run and a column for each metric."""
        import pandas as pd

        return pd.DataFrame([{**vars(run), "metrics": None, **run.metrics} for run in self.runs]).drop(
            columns="metrics"
        )

    def _repr_html_(self) -> str:  # how notebooks show it
        return self.frame().to_html(notebook=True)


# Words of the command line, which a strict model would take as members of the enumerations alone.
Recipe: TypeAlias = Annotated[RecipeName, Field(strict=False)]
Number: TypeAlias = Annotated[PrecisionName, Field(strict=False)]
Device: TypeAlias = Annotated[DeviceName, Field(strict=False)]


class _Values(BaseModel, strict=True, extra="forbid"):
    """Arguments that are numbers, switches and words; the others are read by functions of their own."""

    tiny: bool
    backbone: str | None
    recipe: Recipe
    recipe_of: str | None
    limit: int | None
    precision: Number
    workers: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    device: Device = DeviceName.auto
    executor: str = "auto"
    address: str | None = None
    gpus_per_run: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    allow_device_change: bool = False
    deterministic: bool = False
    checkpoint_every: Annotated[float, Field(ge=0)] = 0.0
    keep: bool = True
    extendable: bool = False
    quiet: bool = False
    tflops: Annotated[float, Field(ge=0.001)] | None = None


def run(*, quiet: bool, track: str | Iterable[str], **arguments: Any) -> RunOutcomes:
    """See ``smope_bench.run``."""
    with _library_call():
        request = _read(quiet=quiet, **arguments)
        trackers = split_values(_texts("track", track))
        options, summary = request.options, LaunchSummary(0, 0)
        require_guard(options)  # before PyTorch is imported
        console = make_console()
        console.quiet = quiet
        for note in request.notes:
            console.print(note, markup=False)
        with _alone(), _undisturbed():
            if request.trained:
                summary = launch(request.trained, request.selection, options, console, trackers)
            for name in request.counted:
                store = Store(options.results)
                store.require_writable()
                count_suite(name, request.selection.methods, open_registries(options.plugins), store)
            if not quiet:
                print_summary(console, summary)
        return RunOutcomes(tuple(_outcomes(summary, options)), summary.seconds)


def plan(*, tflops: float | None, **arguments: Any) -> pd.DataFrame:
    """See ``smope_bench.plan``."""
    import pandas as pd

    with _library_call():
        return pd.DataFrame(planned(_read(tflops=tflops, **arguments), tflops)[1])


def _outcomes(summary: LaunchSummary, options: RunOptions) -> Iterator[RunOutcome]:
    store, metrics = Store(options.results), open_metrics(options.plugins)
    errors = {status.planned.run_id: status.error for status in summary.failures}
    for one in summary.runs:
        record, folder, error = store.load(one.run_id), store.path(one.run_id), errors.get(one.run_id)
        seeds = one.spec.order_seed, one.spec.train_seed
        head = one.suite, one.row, one.method, one.spec.benchmark.name, one.benchmark, *seeds
        if error is None and isinstance(record, Record):
            matrix, counts = record.result["accuracy_matrix"], record.result["test_counts"]
            values = values_of(metrics, one.run_id, matrix, counts)
            yield RunOutcome(one.run_id, "done", *head, values, folder)
        else:
            yield RunOutcome(one.run_id, "failed", *head, {}, folder, error)


def _read(
    suites: Files,
    methods: Any,
    benchmarks: Any,
    seeds: Any,
    settings: Settings | None,
    plugins: Files,
    results: File,
    data: File,
    slurm: Iterable[str] = (),
    gpus: Any = None,
    **others: Any,
) -> Request:
    """The request of a call. Raises UserError for a value of another type or outside of its range."""
    methods, benchmarks, seeds = (list(one) if _is_several(one) else one for one in (methods, benchmarks, seeds))
    for name, one in (("suites", suites), ("methods", methods), ("benchmarks", benchmarks), ("seeds", seeds)):
        if isinstance(one, list | tuple) and not one:
            raise UserError(
                f"{name}={one} names nothing: leave it out for {'smoke' if name == 'suites' else 'those of the suite'}"
            )
    try:
        values = _Values(**{name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in others.items()})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{first['loc'][0]}={plain(repr(first['input']), 80)}: {first['msg']}") from error
    options = RunOptions(
        _path("results", results),
        _path("data", data),
        values.device.value,
        values.workers,
        values.threads,
        tuple(_path("plugins", file) for file in _each("plugins", plugins)),
        values.executor,
        values.address,
        tuple(_texts("slurm", slurm)),
        values.gpus_per_run,
        values.deterministic,
        values.checkpoint_every * 60,
        keep=values.keep,
        extendable=values.extendable,
        gpu_numbers=read_gpus(None if gpus is None else ",".join(_gpu_numbers(gpus))),
        allow_device_change=values.allow_device_change,
    )
    return read_request(
        [str(_path("suites", name)) for name in _each("suites", suites)],
        options,
        tiny=values.tiny,
        methods=methods,
        benchmarks=benchmarks,
        backbone=values.backbone,
        seeds=None if seeds is None else list(_seed_texts(seeds)),
        settings=None if settings is None else list(_setting_texts(settings)),
        recipe=values.recipe,
        recipe_of=values.recipe_of,
        limit=values.limit,
        precision=values.precision,
    )


def _is_several(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | os.PathLike | type | Mapping)


def _each(name: str, values: Any) -> Iterable[Any]:
    """The values of an argument that may be one or several."""
    if isinstance(values, str | os.PathLike):
        return [values]
    if not _is_several(values):
        raise UserError(
            f"{name}={plain(repr(values), 80)} is of type {type(values).__name__}: give a text or a list of them"
        )
    return values


def _texts(name: str, values: Any) -> list[str]:
    found = list(_each(name, values))
    if wrong := [value for value in found if not isinstance(value, str)]:
        raise UserError(f"{name}: {plain(repr(wrong[0]), 80)} is of type {type(wrong[0]).__name__}, not a text")
    return found


def _path(name: str, value: Any) -> Path:
    if not isinstance(value, str | os.PathLike) or not isinstance(text := os.fspath(value), str):
        raise UserError(f"{name}={plain(repr(value), 80)} is of type {type(value).__name__}, not a text or a path")
    return Path(os.path.expanduser(text))  # noqa: PTH111  # never raises


def _seed_texts(seeds: Any) -> Iterator[str]:
    """Seeds as ``--seeds`` takes them: a number, a pair (order, training), or a text."""
    for seed in seeds if isinstance(seeds, list) else [seeds]:
        parts = seed if isinstance(seed, tuple) else (seed,)
        if isinstance(seed, str):
            yield seed
        elif len(parts) in (1, 2) and not any(isinstance(part, bool) for part in parts) and all(map(_is_whole, parts)):
            yield ":".join(str(operator.index(part)) for part in parts)
        else:
            raise UserError(
                f"seeds: {plain(repr(seed), 80)} is not a seed: give whole numbers, pairs (order, training), or a text such as"
                " '0-4'"
            )


def _gpu_numbers(gpus: Any) -> list[str]:
    return [str(one) for one in (list(gpus) if _is_several(gpus) else [gpus])]


def _is_whole(value: Any) -> bool:
    return hasattr(value, "__index__") and operator.index(value) >= 0


def _setting_texts(settings: Settings) -> Iterator[str]:
    """Settings as ``--set`` takes them; nested mappings are joined by dots."""
    if not isinstance(settings, Mapping):
        yield from _texts("settings", settings)
        return
    for key, value in settings.items():
        if not isinstance(key, str):
            raise UserError(f"settings: the name {plain(repr(key), 80)} is not a text such as 'schedule.epochs'")
        if isinstance(value, Mapping) and value:
            inner = sorted(
                value.items(), key=lambda item: item[0] != "kind"
            )  # the kind decides which other fields there are
            yield from _setting_texts({f"{key}.{name}": one for name, one in inner})
        else:
            yield f"{key}={_setting_value(key, value)}"


def _setting_value(key: str, value: Any) -> str:
    """A value as text, as it is where that reads as the same value, else as JSON."""
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(given, str) and isinstance(parse_setting(f"{key}={given}").value, str):
        return given
    given = given.tolist() if isinstance(given, np.generic | np.ndarray) else given
    try:
        return json.dumps(given, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"settings: {key}={plain(repr(value), 80)} is of type {type(value).__name__}, which no setting takes"
        ) from error


@contextlib.contextmanager
def _library_call() -> Iterator[None]:
    """Mistakes as UserError; Ctrl-C as KeyboardInterrupt and SIGTERM as SystemExit, once the runs are saved."""
    try:
        with stop_signals(), as_user_errors():
            yield
    except Stopped as stop:
        if stop.status == INTERRUPTED:
            raise KeyboardInterrupt("what was finished is kept, and the same call goes on from there") from None
        raise SystemExit(stop.status) from None


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Raise UserError where this process runs already: random generators and arithmetic are the process's."""
    if not _IN_PROGRESS.acquire(blocking=False):
        raise UserError(
            "a call of smope_bench.run is in progress in this process: give all runs to one call, with workers=N, or start"
            " another process"
        )
    try:
        yield
    finally:
        _IN_PROGRESS.release()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Runs in this process neither feel the caller's settings of PyTorch, NumPy and ``random`` nor leave others behind."""
    import torch
    from threadpoolctl import threadpool_limits

    python, numpy, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    dtype, products = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    deterministic, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    cudnn = torch.backends.cudnn
    flags = {name: getattr(cudnn, name) for name in ("allow_tf32", "deterministic", "benchmark")}
    try:
        with (
            threadpool_limits(limits=None),
            torch.random.fork_rng(devices=range(torch.cuda.device_count())),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            torch.device("cpu"),
        ):
            torch.set_default_dtype(torch.float32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(products)
        if torch.are_deterministic_algorithms_enabled() != deterministic:  # the call imports torch's compiler
            torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        for name, value in flags.items():
            setattr(cudnn, name, value)
