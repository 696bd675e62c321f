"""Split lists in the form of CODA-Prompt: two YAML lists, paths below ``data/`` and class ids."""

from __future__ import annotations

import re
from pathlib import Path

from smope_bench.benchmarks.errors import BenchmarkError

ENTRY = re.compile(r"- data/imagenet-r/(n\d{8})/([\w.-]+)")
TARGET = re.compile(r"- (\d+)")


def read_split_list(path: Path, wnids: tuple[str, ...]) -> list[tuple[str, str]]:
    """(``<wnid>/<file>``, wnid) of every line, in order.

    Only the exact form is read, which is a small part of YAML. Raises BenchmarkError with the line that is not in it, and
    where an id does not stand for the folder that its picture lies in.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path} cannot be read as a split list ({error}); fetch it again") from error
    if not lines or lines[0] != "data:" or "targets:" not in lines:
        raise BenchmarkError(f"{path} is not a split list: 'data:' and 'targets:' are expected; fetch it again")
    middle = lines.index("targets:")
    if len(lines) - middle - 1 != middle - 1:
        raise BenchmarkError(
            f"{path} lists {middle - 1:,} pictures and {len(lines) - middle - 1:,} targets; fetch it again"
        )
    entries = []
    for row in range(1, middle):
        picture, target = ENTRY.fullmatch(lines[row]), TARGET.fullmatch(lines[middle + row])
        if picture is None or target is None:
            where, line = (row, lines[row]) if picture is None else (middle + row, lines[middle + row])
            raise BenchmarkError(f"{path}, line {where + 1}: {line!r} is not what a split list holds; fetch it again")
        label, wnid = int(target[1]), picture[1]
        if not (label < len(wnids) and wnids[label] == wnid):
            stands = f"class {wnids[label]}" if label < len(wnids) else f"none of the {len(wnids)} classes"
            raise BenchmarkError(
                f"{path}, line {middle + row + 1}: id {label} stands for {stands} but the picture lies in {wnid}; "
                "fetch it again"
            )
        entries.append((f"{wnid}/{picture[2]}", wnid))
    return entries
