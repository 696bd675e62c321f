"""Class orders and splits as users write them: read, checked, and made plain tuples; settings as users write them."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from smope_bench.benchmarks.errors import BenchmarkError

OrderRule = Literal["shuffled", "natural_first", "natural", "numpy", "numpy_inverse"]
ClassOrder = OrderRule | tuple[int, ...] | tuple[str, ...]
RULES: tuple[str, ...] = get_args(OrderRule)
ORDER_FILES = (".txt", ".json", ".npy")
LARGEST_FILE = 4_000_000  # bytes
MOST_TASKS = 10_000
LARGEST_NUMPY_SEED = 2**32 - 1
NAMED = 8
"""Classes that a message names before it only counts them."""
_PART = re.compile(r"(\d{1,7})(?:x(\d{1,7}))?")
_BASE_AND_INCREMENT = re.compile(r"b(\d{1,7})[ _-]?inc(\d{1,7})", re.IGNORECASE)


def read_class_order(value: Any) -> str | tuple[int, ...] | tuple[str, ...]:
    """A rule, or the ids or names of a list, of the text ``4,2,0`` or of a file. Raises ValueError naming the entry.

    Files: ``.txt`` has one entry a line, ``.json`` a list, ``.npy`` a vector. Entries of a text that are all whole numbers are
    ids, others are names.
    """
    if isinstance(value, str):
        if value in RULES:
            return value
        if "," in value:
            return _entries([part.strip() for part in value.split(",") if part.strip()], "", is_text=True)
        if is_order_file(value):
            return _read_order_file(Path(value).expanduser())
    elif isinstance(value, (list, tuple)):
        return _entries(value, "")
    raise ValueError(
        f"a class order is one of {', '.join(RULES)}, a list such as 4,2,0, or a file ({', '.join(ORDER_FILES)})"
    )


def is_order_file(value: str) -> bool:
    """Whether the text of a class order names a file."""
    return "," not in value and Path(value).suffix.lower() in ORDER_FILES


def _read_order_file(path: Path) -> tuple[int, ...] | tuple[str, ...]:
    where = f" in {str(path)!r}"
    try:
        if not path.is_file():
            raise ValueError(f"{str(path)!r} {'is no regular file' if path.exists() else 'does not exist'}")
    except OSError as error:  # a name that is too long
        raise ValueError(f"{str(path)[:40]!r}... cannot be read: {error.strerror}") from error
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE // 10**6} MB")
        if path.suffix.lower() == ".npy":
            import numpy as np  # a mistyped command is answered without it

            # Mapped, so that a header that promises more than the file holds allocates nothing.
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "iuU":
                raise ValueError("it holds no vector of whole numbers or names")
            return _entries(found.tolist(), where)
        text = path.read_text(encoding="utf-8")
        listed = json.loads(text) if path.suffix.lower() == ".json" else None
    except (ValueError, OSError, EOFError, RecursionError, MemoryError, OverflowError, SyntaxError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else " ".join(str(error).split())
        raise ValueError(f"the file {str(path)!r} cannot be read as a class order: {reason}") from error
    if listed is None:
        return _entries([line.strip() for line in text.splitlines() if line.strip()], where, is_text=True)
    if not isinstance(listed, list):
        raise ValueError(f"the file {str(path)!r} must hold one list of class ids or names")
    return _entries(listed, where)


def _entries(values: Sequence[Any], where: str, *, is_text: bool = False) -> tuple[int, ...] | tuple[str, ...]:
    """All ids or all names, each once. ``where``: the end of a message, such as `` in 'order.txt'``."""
    if not values:
        raise ValueError(f"there is no class{where}")
    if is_text and all(value.isascii() and value.isdigit() and len(value) < 10 for value in values):
        values = [int(value) for value in values]
    kind = str if isinstance(values[0], str) else int
    for place, value in enumerate(values, start=1):
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"entry {place}{where}, {short(value)}, is no class {'name' if kind is str else 'id'}")
    places: dict[Any, int] = {}
    for place, value in enumerate(values, start=1):
        if (first := places.setdefault(value, place)) != place:
            raise ValueError(f"class {short(value)} occurs twice{where}, at places {first} and {place}")
    return tuple(values)


def arrange(order: Sequence[int] | Sequence[str], names: Sequence[str] | None, count: int) -> tuple[int, ...]:
    """The ids of a listed order. ``names``: the classes' names, needed only for an order of names.

    Raises BenchmarkError where a class is unknown or missing.
    """
    known: Sequence[Any] = range(count) if names is None else names
    positions: dict[Any, int] = {value: index for index, value in enumerate(known)}
    valid = f"ids are 0 to {count - 1}" if names is None else f"names are {_listed(known)}"
    for place, value in enumerate(order, start=1):
        if value not in positions:
            raise BenchmarkError(f"benchmark.class_order: place {place} has unknown class {short(value)}; {valid}")
    listed = set(order)
    if missing := [value for value in known if value not in listed]:
        raise BenchmarkError(
            f"benchmark.class_order has {len(order)} of {count} classes and lacks {_listed(missing)}; every class needs a place"
        )
    return tuple(positions[value] for value in order)


def require_order_seed(rule: object, seed: int) -> None:
    """Raise BenchmarkError for a seed that the rule cannot draw with."""
    if seed < 0:
        # Python seeds with the absolute value: -1 and 1 would be two names of one order.
        raise BenchmarkError(f"order seed {seed} is negative; use 0 or more")
    if rule in ("numpy", "numpy_inverse") and seed > LARGEST_NUMPY_SEED:
        raise BenchmarkError(f"order seed {seed} is too large for class_order={rule}; use 0 to {LARGEST_NUMPY_SEED}")


def permuted(count: int, seed: int, *, inverse: bool) -> tuple[int, ...]:
    """Numpy's legacy permutation p of ``count`` classes in order of arrival.

    As it stands, the n-th class to arrive is p[n] (LAMDA-PILOT); ``inverse``: class c becomes label p[c] (mammoth).
    """
    import numpy as np

    drawn = np.random.RandomState(seed).permutation(count)
    return tuple((np.argsort(drawn) if inverse else drawn).tolist())


def read_split(value: Any) -> list[Any]:
    """Sizes of tasks from a list or a text in which ``10x5`` is five tasks of ten classes. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, (str, list, tuple)):
        raise ValueError(f"split={short(value)}: give the classes of every task, for example 50,10x5")
    sizes: list[Any] = []
    for part in value.split(",") if isinstance(value, str) else value:
        if not isinstance(part, str):
            sizes.append(part)
            continue
        if found := _BASE_AND_INCREMENT.fullmatch(part.strip()):
            base, step = found.groups()
            raise ValueError(
                f"split={short(value)}: write {base},{step}xN with the number N of tasks after the first,"
                " for example 50,10x5 for B50-Inc10 on 100 classes"
            )
        found = _PART.fullmatch(part.strip())
        if not found:
            raise ValueError(f"split={short(value)}: {short(part)} is no number of classes; write for example 50,10x5")
        size, repeats = int(found[1]), int(found[2] or 1)
        if repeats + len(sizes) > MOST_TASKS:
            raise ValueError(f"split={short(value)} has more than {MOST_TASKS:,} tasks")
        sizes += [size] * repeats
    return sizes


def spelled(sizes: Iterable[int]) -> str:
    """Sizes of tasks as ``read_split`` reads them: ``50,10x5``."""
    groups = [(size, len(list(group))) for size, group in itertools.groupby(sizes)]
    return ",".join(str(size) if count == 1 else f"{size}x{count}" for size, count in groups)


def task_sizes(classes: int, tasks: int, split: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Split ``classes`` into ``tasks`` equal tasks, or as ``split`` gives them; no class is dropped.

    Raises BenchmarkError with settings that would do.
    """
    if split is not None:
        if sum(split) != classes:
            raise BenchmarkError(
                f"split={spelled(split)} has {sum(split)} classes but there are {classes};"
                f" give --set benchmark.split={spelled(_fitted(split, classes))}"
            )
        return split
    if classes % tasks == 0:
        return (classes // tasks,) * tasks
    even = [count for count in range(1, classes + 1) if classes % count == 0]
    nearest = min(even, key=lambda count: (abs(count - tasks), count))
    others = ", ".join(str(count) for count in even if count != nearest)
    some = f"--set benchmark.tasks={nearest}" + (f" (or {others})" if others else "")
    if tasks > classes:
        raise BenchmarkError(f"{classes} classes cannot be split into {tasks} tasks; give {some}")
    small, larger = divmod(classes, tasks)
    uneven = spelled(small + (index < larger) for index in range(tasks))
    raise BenchmarkError(
        f"{classes} classes cannot be split evenly into {tasks} tasks; give --set benchmark.split={uneven} or {some}"
    )


def _fitted(split: Sequence[int], classes: int) -> list[int]:
    """The split cut off after ``classes``, or continued with tasks of its last size and a remainder."""
    sizes, left = [], classes
    for size in itertools.chain(split, itertools.repeat(split[-1])):
        sizes.append(min(size, left))
        left -= sizes[-1]
        if not left:
            break
    return sizes


def setting_text(name: str, value: Any) -> str:
    """``name=value`` as it is given after ``--set``: a text as it is, any other value as JSON without white space."""
    return f"{name}={value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(',', ':'))}"


def setting_texts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings of a benchmark as they are given after ``--set``: ``benchmark.FIELD=VALUE`` each."""
    return tuple(setting_text(f"benchmark.{name}", value) for name, value in settings.items())


def data_command(word: Literal["prepare", "verify"], name: str, root: Path, settings: Mapping[str, Any] = {}) -> str:
    """``smope-bench data WORD NAME`` for these settings and this data folder, quoted for a shell.

    In a message it stands in backquotes: there the harness writes how its program was started, and adds the plugins.
    """
    words = ["smope-bench", "data", word, name]
    words += [part for text in setting_texts(settings) for part in ("--set", text)]
    return shlex.join(words if root == Path("data") else [*words, "--data", str(root)])


def short(value: Any) -> str:
    """A value for a message, cut off after 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(values: Sequence[Any]) -> str:
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return ", ".join(short(value) if isinstance(value, str) else str(value) for value in values[:NAMED]) + more
