"""What is prepared in a data folder: every store of images, where it came from, when it was used; and its removal.

Beside its manifest a store has ``use.json`` with its origin, its settings and remarks on its pictures; the time of that file is
that of the last use. The manifest, which is hashed, does not change with its use.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from smope_bench.benchmarks.durable import unfinished
from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.image_store.arrays import is_free
from smope_bench.benchmarks.image_store.cache import MANIFEST, cache_folder, read_manifest

USE = "use.json"
KEPT_EARLIER = 1
"""Stores of earlier states of a user's folder that are kept beside the present one, for runs that are not finished."""

Match = Literal["", "folder has changed", "folder is gone"]


@dataclass(frozen=True)
class PreparedStore:
    """One store. ``name``: ``<benchmark>/<id>``; ``source``: the user's folder, '' for other images; ``used``: seconds since 1970.

    ``match``: whether the folder still holds what was stored, as far as is known without reading it again.
    """

    name: str
    folder: Path
    bytes: int
    images: int
    source: str
    used: float
    settings: str
    match: Match = ""


@dataclass(frozen=True)
class MadeOf:
    """What a store was made of. ``source``: the user's folder, '' for other images; ``settings``: None where not known."""

    source: str
    settings: Mapping[str, Any] | None


def made_of(folder: Path) -> MadeOf:
    """What is noted beside a store, also where its manifest is damaged."""
    use = _use_of(folder)
    return MadeOf(str(use["from"] or ""), use.get("settings"))


def note_use(
    folder: Path,
    source: Path | None,
    remarks: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write that a store was used now. ``source``: the folder it was made from; ``settings``: of the benchmark, with which it
    was made. None = as they are.

    A data folder that cannot be written is left as it is.
    """
    before = _use_of(folder)
    use = {
        "from": before["from"] if source is None else _from_home(source),
        "remarks": before["remarks"] if remarks is None else list(remarks),
    }
    if (made_with := before.get("settings") if settings is None else dict(settings)) is not None:
        use["settings"] = made_with
    with contextlib.suppress(OSError):
        if use == before and (folder / USE).is_file():
            os.utime(folder / USE)
            return
        temporary = unfinished(folder, ".use-")
        with temporary.open("x", encoding="utf-8") as file:
            json.dump(use, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / USE)


def remarks_on(folder: Path) -> tuple[str, ...]:
    """What was remarked on the pictures of a store when it was made."""
    return tuple(_use_of(folder)["remarks"])


def prepared_stores(root: Path) -> list[PreparedStore]:
    """Every store below a data folder, by name. One of a user's folder that a later one has replaced is marked so."""
    found = [store for parent in sorted(root.glob("*")) if parent.is_dir() for store in _stores_in(parent)]
    newest: dict[str, float] = {}
    for store in found:
        newest[store.settings] = max(store.used, newest.get(store.settings, 0.0))
    return [_matched(store, newest[store.settings]) for store in found]


def require_free(store: PreparedStore) -> None:
    """Raise BenchmarkError where a process has a store open."""
    if not all(is_free(file) for file in store.folder.glob("*.images")):
        raise BenchmarkError(f"{store.name} is in use by a run, so that nothing is removed; wait until it has ended")


def remove_store(store: PreparedStore) -> None:
    """Delete a store. Raises BenchmarkError where a process has it open, or where it cannot be deleted."""
    require_free(store)
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{store.folder.name}-", dir=store.folder.parent))
        store.folder.rename(aside / "removed")
        shutil.rmtree(aside)
    except OSError as error:
        raise BenchmarkError(f"{store.folder} cannot be removed ({error.strerror})") from error


def remove_earlier(folder: Path) -> list[PreparedStore]:
    """Delete the stores of earlier states of the folder that a store was made from, all but the last and those in use."""
    stores = list(_stores_in(folder.parent))
    settings = next((store.settings for store in stores if store.folder == folder and store.source), None)
    same = [store for store in stores if store.settings == settings and store.folder != folder]
    removed = []
    for store in sorted(same, key=lambda store: -store.used)[KEPT_EARLIER:]:
        with contextlib.suppress(BenchmarkError):
            remove_store(store)
            removed.append(store)
    return removed


def _stores_in(parent: Path) -> Iterator[PreparedStore]:
    for folder in sorted(parent.glob("[0-9a-f]" * 16)):
        try:
            manifest = read_manifest(folder)
            if cache_folder(parent, manifest["recipe"]) != folder:
                continue
            images = sum(int(count) for count in manifest["counts"].values())
            settings = json.dumps(_without_content(manifest["recipe"]), sort_keys=True)
            size = sum(file.stat().st_size for file in folder.iterdir())
            used = (folder / (USE if (folder / USE).is_file() else MANIFEST)).stat().st_mtime
        except (OSError, ValueError, RecursionError):
            continue  # damaged: 'data verify' names it, 'data prepare' makes it anew
        source = str(_use_of(folder)["from"] or "")
        key = f"{parent.name} {source} {settings}" if source else str(folder)
        yield PreparedStore(f"{parent.name}/{folder.name}", folder, size, images, source, used, key)


def _matched(store: PreparedStore, newest: float) -> PreparedStore:
    match: Match = ""
    if store.source and not os.path.isdir(os.path.expanduser(store.source)):  # noqa: PTH111, PTH112  # Path raises for ~nobody
        match = "folder is gone"
    elif store.used < newest:
        match = "folder has changed"
    return PreparedStore(**{**vars(store), "match": match})


def _without_content(recipe: Any) -> Any:
    """A recipe without the hash of the user's folder: what stores of its several states have in common."""
    if not isinstance(recipe, dict):
        return recipe
    return {key: _without_content(value) for key, value in recipe.items() if key != "content"}


def _use_of(folder: Path) -> dict[str, Any]:
    try:
        use = json.loads((folder / USE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        use = None
    if not isinstance(use, dict) or not isinstance(use.get("remarks"), list) or "from" not in use:
        return {"from": None, "remarks": []}
    settings = {"settings": use["settings"]} if isinstance(use.get("settings"), dict) else {}
    return {"from": use["from"], "remarks": [str(remark) for remark in use["remarks"]], **settings}


def _from_home(path: Path) -> str:
    """A path without the user's name where it lies in the home folder."""
    path = path.expanduser().resolve()
    with contextlib.suppress(ValueError, RuntimeError):
        return str(Path("~") / path.relative_to(Path.home().resolve()))
    return str(path)
