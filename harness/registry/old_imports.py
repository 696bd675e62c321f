"""What to write in place of an import of an earlier layout, when a plugin fails on one.

Before version 0.2 ``methods``, ``benchmarks``, ``harness`` and ``reports`` were top-level packages; since then modules have moved.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import traceback
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from smope_bench.harness.provenance import PROJECT_ROOT
from smope_bench.harness.text import plain

PACKAGE = "smope_bench"
API = f"{PACKAGE}.api"
ROOMS = ("methods", "benchmarks", "harness", "reports")
RENAMED = {
    "benchmarks.avalanche_bridge": "benchmarks.avalanche.bridge",
    "benchmarks.cached": "benchmarks.image_store.cached_benchmark",
    "benchmarks.image_cache": "benchmarks.image_store.cache",
    "benchmarks.imagefolder": "benchmarks.datasets.folders.image_folder",
    "benchmarks.picture_store": "benchmarks.image_store.picture_benchmark",
    "benchmarks.stored": "benchmarks.image_store.arrays",
    "benchmarks.transforms": "benchmarks.transforms.batch",
    "harness.conformance": "harness.conformance.check",
    "harness.new_method": "harness.registry.scaffold",
    "harness.spec": "harness.run_spec",
    "methods.common.checkpoints": "methods.common.pretrained_files.conversion",
    "methods.common.history": "methods.common.prompts.usage_history",
    "methods.common.prompt_routing": "methods.common.prompts.routing",
    "methods.common.published": "methods.common.pretrained_files.zoo",
    "methods.common.rules": "methods.common.vit.attention_rules",
    "methods.common.vit": "methods.common.vit.vit",
}
"""Modules that plugins may import whole and that have a new name; one that only moved is found by its name."""


def advice(error: BaseException) -> str | None:
    """What to write instead, where an error comes from the old layout's imports or from the argument ``is_tiny``; else None."""
    if isinstance(error, TypeError) and "'is_tiny'" in str(error):
        from smope_bench.methods.common.backbone.backbones import NO_IS_TINY

        return NO_IS_TINY
    if not isinstance(error, ImportError):
        return None
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith("<frozen") or _is_own(frame.filename):
            continue
        statement = _import_at(frame.filename, frame.lineno or 0)
        written = _rewritten(statement) if statement is not None else None
        where = f"line {frame.lineno} of {plain(frame.filename)} imports from an earlier layout"
        return f"{where}; write: {written}" if written else None
    return None


def _is_own(file: str) -> bool:
    return any(Path(file).resolve().is_relative_to(PROJECT_ROOT / room) for room in ROOMS)


def _import_at(file: str, line: int) -> ast.Import | ast.ImportFrom | None:
    """The import statement at a line of a file; None where there is none."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    return next((node for node in imports if node.lineno <= line <= (node.end_lineno or 0)), None)


def _rewritten(statement: ast.Import | ast.ImportFrom) -> str | None:
    """The statement in the new layout; None for an import of something else."""
    if isinstance(statement, ast.Import):
        moved = [ast.alias(_new_module(_moved(one.name) or "") or one.name, one.asname) for one in statement.names]
        return ast.unparse(ast.Import(moved)) if ast.dump(ast.Import(moved)) != ast.dump(statement) else None
    old = _moved(statement.module or "")
    if statement.level or old is None:
        return None
    lines: dict[str, list[ast.alias]] = defaultdict(list)
    gone: list[str] = []
    for one in statement.names:
        place, name = _new_place(old, one.name)
        lines[place].append(ast.alias(name, one.asname or (one.name if name != one.name else None)))
        gone += [one.name] if place == API and name not in importlib.import_module(API).__all__ else []
    if gone:
        is_users = old == statement.module and not _is_ours(old.partition(".")[0])
        return (
            None if is_users else f"from {API} import … ({', '.join(gone)} is not there; it lists what plugins may use)"
        )
    return "; ".join(ast.unparse(ast.ImportFrom(module, names, 0)) for module, names in lines.items())


def _moved(module: str) -> str | None:
    """A module of an earlier layout by its name before 0.2; None for one that is there, and for others' modules."""
    old = module.removeprefix(f"{PACKAGE}.")
    is_there = old != module and _place(old) is not None
    return None if is_there or old.partition(".")[0] not in ROOMS else old


def _place(name: str) -> Path | None:
    """The folder or file of a dotted name; None where there is none."""
    place = PROJECT_ROOT.joinpath(*name.split("."))
    return place if place.is_dir() or place.with_suffix(".py").is_file() else None


def _new_place(old: str, name: str) -> tuple[str, str]:
    """Module and name of what was imported from an old module; the public face where nothing of that name is left."""
    if name in importlib.import_module(API).__all__:  # not imported above: it names modules of all rooms
        return API, name
    if (module := _new_module(f"{old}.{name}")) is not None:  # from methods.common import vit
        return module.rpartition(".")[0], module.rpartition(".")[2]
    near = RENAMED.get(old, old).rpartition(".")[2]
    places = sorted(_modules_with(name, old.partition(".")[0]), key=lambda place: (near not in place.split("."), place))
    return (places or [API])[0], name


def _new_module(old: str) -> str | None:
    """The module or package of an old dotted name; None where there is none."""
    name = RENAMED.get(old, old)
    top, last = name.partition(".")[0], name.rpartition(".")[2]
    if top not in ROOMS:
        return None
    place = _place(name) or next(iter(sorted((PROJECT_ROOT / top).rglob(f"{last}.py"))), None)
    return None if place is None else _dotted(place)


def _modules_with(name: str, top: str) -> Iterator[str]:
    """The modules of a top folder that define a name."""
    for file in (PROJECT_ROOT / top).rglob("*.py"):
        for node in ast.parse(file.read_bytes()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if name in {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}:
                yield _dotted(file)


def _dotted(place: Path) -> str:
    return ".".join([PACKAGE, *place.relative_to(PROJECT_ROOT).with_suffix("").parts])


def _is_ours(top: str) -> bool:
    """Whether a top-level name is not a package of the user's own."""
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # the project's own folder, which refuses to be imported as this
        return True
    return found is None or found.origin is None or Path(found.origin).resolve().is_relative_to(PROJECT_ROOT)
