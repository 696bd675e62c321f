"""Data and weights by name: prepared once, and verified on demand. The only place where backbones download."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from smope_bench.benchmarks.base import SPLITS, ProgressCallback, silent
from smope_bench.benchmarks.download.fetch import (
    FOLDER,
    Remote,
    digests_of,
    downloads_folder,
    fault_of_download,
    fetch,
    pin_file,
    read_pin,
    unpinned_on_error,
)
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.cache import cache_folder, verify_caches
from smope_bench.benchmarks.image_store.other_data import OtherData, other_data, remove_other
from smope_bench.benchmarks.image_store.stores import (
    PreparedStore,
    made_of,
    prepared_stores,
    remove_store,
    require_free,
)
from smope_bench.benchmarks.protocol import data_command, setting_texts, spelled
from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.planning.settings import Setting, scoped, validated
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.text import shell_command, whole_commands
from smope_bench.methods.common.backbone.imported import NOT_VERIFIED

Kind = Literal["benchmark", "backbone"]
FaultOf = Callable[[Path, Remote, Path, ProgressCallback], str]
State = Literal["intact", "damaged", "missing"]
EVEN = (5, 4, 6, 3, 2)
"""Numbers of tasks that are tried on a user's classes."""
WEIGHTS = "weights"  # folder of all backbones' files in the data folder


@dataclass(frozen=True)
class Prepared:
    """What is ready under a name. ``images``: number in each split; empty for a backbone."""

    name: str
    kind: Kind
    where: Path | None
    images: dict[str, int]
    bytes: int
    content: str
    is_verified: bool = True
    """False for weights of which no public source states a hash."""
    notes: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    """``--set`` texts of a run on these images, where they are the user's own."""


@dataclass(frozen=True)
class Verified:
    """One file or folder that was verified. ``remedy``: what to do if it is not intact."""

    name: str
    what: str
    state: State
    bytes: int
    remedy: str = ""


def kind_of(name: str, registries: Registries) -> Kind:
    """Whether a name is a benchmark's or a backbone's. Raises UserError for one that is neither."""
    if name in registries.benchmarks.names():
        return "benchmark"
    if registries.backbones.knows(name):
        return "backbone"
    known = [*registries.benchmarks.names(), *registries.backbones.names()]
    raise UserError(f"{name!r} is neither a benchmark nor a backbone{did_you_mean(name, known)}")


def prepare_command(names: Sequence[str], registries: Registries, data_root: Path, settings: Sequence[str] = ()) -> str:
    """The command that prepares benchmarks and backbones; ``settings``: ``benchmark.FIELD=VALUE`` each."""
    return shell_command("data", "prepare", *names, settings=settings, plugins=registries.plugins, data=data_root)


def image_settings(name: str, values: Mapping[str, Any], registries: Registries, data_root: Path) -> tuple[str, ...]:
    """The settings ``benchmark.FIELD=VALUE`` with which ``data prepare`` makes the images of a benchmark of this configuration.

    They are the fields that are not at their defaults and that change what is stored; and the tasks where the usual ones do not
    fit the classes.
    """
    benchmark = registries.benchmarks.load(name)
    opened = benchmark(benchmark.Config(**values), data_root)
    deciding = opened.image_settings()
    try:
        benchmark(benchmark.Config(**deciding), data_root).task_sizes()
    except BenchmarkError:
        changed = opened.changed_settings()
        deciding |= {field: changed[field] for field in ("tasks", "split") if field in changed}
    return setting_texts(deciding)


def prepare_named(
    name: str,
    registries: Registries,
    data_root: Path,
    given: Sequence[Path] = (),
    progress: ProgressCallback = silent,
    settings: Sequence[Setting] = (),
) -> Prepared:
    """Download, verify and convert what a benchmark or backbone needs; a second call only verifies.

    ``given``: files or folders that the user already has. ``settings``: those of the scope ``benchmark``. Raises
    UserError and the rooms' errors.
    """
    for path in given:
        if not path.exists():
            raise UserError(f"--from {str(path)!r} does not exist: give a file, or a folder that holds it.")
    if kind_of(name, registries) == "backbone":
        return _prepare_backbone(registries.backbones.load(name).at(data_root), data_root, given, progress)
    return _prepare_benchmark(name, registries, data_root, given, progress, settings)


def verify_named(
    name: str, registries: Registries, data_root: Path, progress: ProgressCallback = silent
) -> list[Verified]:
    """Verify all files under a name, whatever settings they were made with: caches, downloads, weights."""
    again = f"`{prepare_command([name], registries, data_root)}`"
    if kind_of(name, registries) == "backbone":
        backbone = registries.backbones.load(name).at(data_root)
        return [
            _verified_weights(backbone, registries, data_root),
            *_verified_checkpoints(backbone, data_root, again, progress),
        ]
    rows = [
        *_verified_caches(name, registries, data_root),
        *_verified_downloads(name, registries, data_root, again, progress),
    ]
    if not hasattr(registries.benchmarks.load(name), "cache_parent"):
        return [*rows, Verified(name, "images, kept in no file of ours", "intact", 0)]
    if not any(row.what.startswith("images") for row in rows):
        place = ("--from", "FOLDER") if registries.benchmarks.load(name).takes_user_data else ()
        call = f"call `{prepare_command([name, *place], registries, data_root)}`"
        rows.insert(0, Verified(name, f"images in {data_root / name}", "missing", 0, call))
    return rows


def prepare_benchmarks(
    planned: Iterable[PlannedRun], registries: Registries, data_root: Path, progress: ProgressCallback
) -> list[Any]:
    """Fetch, verify and convert the data of each distinct benchmark of some runs.

    Benchmarks that differ in protocol or augmentation alone share their images, which are read through once. Returns the
    opened images of stores: while they are referenced, ``data remove`` refuses to delete them.
    """
    distinct = {one.model_dump_json(): one for run in planned for one in run.spec.benchmarks}
    ready: set[str] = set()
    held: list[Any] = []
    for component in distinct.values():
        benchmark = registries.benchmarks.load(component.name)
        opened = benchmark(benchmark.Config(**component.config), data_root)
        if (images := f"{component.name} {opened.images_key()}") not in ready:
            opened.prepare(progress)
            ready.add(images)
            held += [opened.image_set(split) for split in SPLITS] if hasattr(opened, "cache_parent") else []
        opened.learnt_sizes()  # raises for an impossible split, before anything trains
    return held


def backbone_fetch(
    name: str,
    urls: Sequence[str],
    digest: str | None,
    folder: Path,
    given: Sequence[Path] = (),
    progress: ProgressCallback = silent,
    size: int | None = None,
    preparation: str = "",
) -> Path:
    """``benchmarks.download.fetch.fetch`` with the signature that backbones call."""
    return fetch(Remote(name, tuple(urls), digest, size), folder, given, progress, preparation)


def supply_weights(data_root: Path, progress: ProgressCallback = silent) -> Callable[[Any], None]:
    """The ``supply`` of a planner: prepares missing weights in the data folder."""

    def supply(backbone: Any) -> None:
        _supply(backbone.at(data_root), data_root, (), progress)

    return supply


def _supply(backbone: Any, data_root: Path, given: Sequence[Path], progress: ProgressCallback) -> None:
    with unpinned_on_error(data_root / WEIGHTS / FOLDER, _published_names(backbone)):
        try:
            fetched = partial(backbone_fetch, preparation=data_command("prepare", backbone.name, data_root))
            backbone.prepare(fetch=fetched, given=tuple(given), progress=progress)
        except BenchmarkError as error:
            raise UserError(f"weights of backbone {backbone.name!r}: {error}") from error


def _published_names(backbone: Any) -> tuple[str, ...]:
    """Names of the published file in the weights' downloads folder; none for a backbone that is not published."""
    return tuple(getattr(backbone, "files", ()))


def _prepare_backbone(backbone: Any, data_root: Path, given: Sequence[Path], progress: ProgressCallback) -> Prepared:
    _supply(backbone, data_root, given, progress)
    file = backbone.verify()
    size = file.stat().st_size if file is not None else 0
    verified = backbone.is_verified or file is None
    return Prepared(backbone.name, "backbone", file, {}, size, backbone.sha256, verified)


def _prepare_benchmark(
    name: str,
    registries: Registries,
    data_root: Path,
    given: Sequence[Path],
    progress: ProgressCallback,
    settings: Sequence[Setting],
) -> Prepared:
    benchmark = registries.benchmarks.load(name)
    values = benchmark_values(settings)
    takes_folder = benchmark.takes_user_data and "path" in benchmark.Config.model_fields
    if takes_folder and given:
        if len(given) > 1:
            raise UserError(f"{name} is made of one folder: give one --from.")
        values, given = {**values, "path": str(given[0])}, ()
    data = benchmark(validated(benchmark.Config, values, "benchmark"), data_root)
    used: tuple[str, ...] = ()
    if takes_folder and data.config.path is not None:
        fitting = _fitting_tasks(data)
        data.config = data.config.model_copy(update=fitting)
        tasks = f"benchmark.split={spelled(fitting['split'])}" if "split" in fitting else ""
        tasks = tasks or "".join(f"benchmark.tasks={count}" for count in fitting.values())
        path = f"benchmark.path={Path(data.config.path).expanduser().absolute()}"
        own = [setting.text for setting in settings if setting.path[1] != "path"]
        used = (path, *own, *filter(None, [tasks]))
    data.prepare(progress, tuple(path.resolve() for path in given))
    images = {split: len(data.image_set(split).labels) for split in SPLITS}
    parent = data_root / name
    size = sum(file.stat().st_size for file in parent.rglob("*") if file.is_file()) if parent.is_dir() else 0
    where = parent if parent.is_dir() else None
    return Prepared(name, "benchmark", where, images, size, data.content_hash(), notes=data.notes(), settings=used)


def _fitting_tasks(data: Any) -> dict[str, Any]:
    """Tasks into which a user's classes can be split, where neither the user nor the images give them."""
    config = data.config
    if type(config).tasks_follow_data or {"tasks", "split"} & config.model_fields_set:
        return {}
    classes = data.num_classes
    if classes % config.tasks == 0:
        return {}
    even = next((tasks for tasks in EVEN if classes % tasks == 0), None)
    if even is not None:
        return {"tasks": even}
    each, more = divmod(classes, config.tasks)
    return {"tasks": config.tasks, "split": (each + more, *(each,) * (config.tasks - 1))}


def data_in(data_root: Path) -> tuple[list[PreparedStore], list[OtherData]]:
    """What a data folder holds: stores of images, and everything else."""
    stores = prepared_stores(data_root)
    return stores, other_data(data_root, {store.folder for store in stores})


def data_named(names: Sequence[str], data_root: Path) -> list[PreparedStore | OtherData]:
    """The parts of a data folder by their names: ``BENCHMARK/ID``, ``BENCHMARK`` for all stores of one, ``BENCHMARK/downloads``.

    Raises UserError for another name.
    """
    stores, others = data_in(data_root)
    found: dict[str, PreparedStore | OtherData] = {}
    for name in names:
        fitting: dict[str, PreparedStore | OtherData] = {
            store.name: store for store in stores if name in (store.name, store.folder.parent.name)
        }
        fitting |= {other.name: other for other in others if other.name == name}
        if not fitting:
            known = [*(one.name for one in (*stores, *others)), *(store.folder.parent.name for store in stores)]
            raise UserError(f"{name!r} is not prepared in {str(data_root)!r}{did_you_mean(name, known)}")
        found |= fitting
    return list(found.values())


def remove_data(parts: Sequence[PreparedStore | OtherData]) -> None:
    """Delete parts of a data folder, all of them or none where a store is in use. Raises UserError."""
    for part in parts:
        if isinstance(part, PreparedStore):
            require_free(part)
    for part in parts:
        if isinstance(part, PreparedStore):
            remove_store(part)
        else:
            remove_other(part)


def benchmark_values(settings: Sequence[Setting]) -> dict[str, Any]:
    """``--set benchmark.FIELD=VALUE`` texts as a configuration. Raises UserError for any other setting."""
    for setting in settings:
        if setting.path[0] != "benchmark" or len(setting.path) < 2:
            raise UserError(f"--set {setting.text!r}: only benchmark.FIELD=VALUE has a meaning here.")
    return scoped(settings, "benchmark")


def _verified_caches(name: str, registries: Registries, data_root: Path) -> Iterator[Verified]:
    parent = data_root / name
    for cache in verify_caches(parent):
        folder, remedy = parent / cache.name, ""
        if cache.bad:
            again = _made_again(name, folder, registries, data_root)
            remedy = f"{', '.join(cache.bad)} does not fit its manifest: delete {folder}{again}"
        yield Verified(name, f"images in {folder}", cache.state, cache.bytes, remedy)


def _made_again(name: str, folder: Path, registries: Registries, data_root: Path) -> str:
    """How the images of a store are made again, with the settings that it was made with, as the end of a sentence."""
    made = made_of(folder)
    if made.settings is None and not _is_usual(registries.benchmarks.load(name), folder, data_root):
        return "; its settings are not known, and a run that needs its images makes them again"
    place = {"path": made.source} if made.source else {}
    settings = setting_texts({**place, **(made.settings or {})})
    return f" and call `{prepare_command([name], registries, data_root, settings)}`"


def _is_usual(benchmark: Any, folder: Path, data_root: Path) -> bool:
    """Whether a store is that of the default configuration."""
    try:
        usual = benchmark(benchmark.Config(), data_root).parts()
    except (BenchmarkError, ValidationError):  # a user's own images, or a configuration without a default
        return False
    return folder in {cache_folder(folder.parent, part.recipe) for part in usual}


def _verified_downloads(
    name: str, registries: Registries, data_root: Path, again: str, progress: ProgressCallback
) -> Iterator[Verified]:
    """Downloads verified against their published digests, else against their pins."""
    folder = downloads_folder(data_root, name)
    benchmark = registries.benchmarks.load(name)
    remotes: dict[str, Remote] = {remote.name: remote for remote in getattr(benchmark, "remotes", ())}
    fault_of = getattr(benchmark, "download_fault", fault_of_download)
    pinned = {pin.name.removesuffix(".pin") for pin in folder.glob("*.pin")}
    for file in (folder / wanted for wanted in sorted({*remotes, *pinned})):
        if file.is_file():
            yield _verified_download(name, file, remotes.get(file.name), fault_of, again, progress)


def _verified_checkpoints(backbone: Any, data_root: Path, again: str, progress: ProgressCallback) -> Iterator[Verified]:
    """A backbone's files in the downloads folder of weights, verified against digest or pin."""
    folder = data_root / WEIGHTS / FOLDER
    for file in (folder / wanted for wanted in _published_names(backbone)):
        remote = Remote(file.name, (), getattr(backbone, "digest", None))
        if file.is_file() and (remote.digest or pin_file(remote, folder).exists()):  # else nothing to compare it with
            yield _verified_download(backbone.name, file, remote, fault_of_download, again, progress)


def _verified_download(
    name: str, file: Path, remote: Remote | None, fault_of: FaultOf, again: str, progress: ProgressCallback
) -> Verified:
    try:
        fault = fault_of(file, remote, file.parent, progress) if remote is not None else _against_pin(file, progress)
    except BenchmarkError as error:
        fault = str(error)
    remedy = f"{fault}: delete {file} and call {again}" if fault else ""
    return Verified(name, f"download {file}", "damaged" if fault else "intact", file.stat().st_size, remedy)


def _against_pin(file: Path, progress: ProgressCallback) -> str:
    found = digests_of(file, {"sha256"}, progress)["sha256"]
    expected = read_pin(file.with_name(f"{file.name}.pin"))
    return "" if found == expected else f"it has sha256:{found}, pinned is sha256:{expected}"


def _verified_weights(backbone: Any, registries: Registries, data_root: Path) -> Verified:
    from smope_bench.methods.common.backbone.backbones import WeightsMissingError
    from smope_bench.methods.common.errors import MethodError

    try:
        file = backbone.verify()
    except MethodError as error:
        state: State = "missing" if isinstance(error, WeightsMissingError) else "damaged"
        return Verified(backbone.name, "weights", state, 0, whole_commands(str(error), registries.plugins, data_root))
    if file is None:
        return Verified(backbone.name, "random weights, kept in no file", "intact", 0)
    what = f"weights {file}" if backbone.is_verified else f"{NOT_VERIFIED} against a public hash, {file}"
    return Verified(backbone.name, what, "intact", file.stat().st_size)
