"""Reads a suite's YAML file, whose format docs/suites.md describes. Imports no torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from smope_bench.benchmarks.protocol import is_order_file
from smope_bench.benchmarks.suites import SUITES, Column, Row, Suite
from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.planning.own_backbones import file_under
from smope_bench.harness.planning.settings import leaves, merged, nested
from smope_bench.harness.planning.suites.schema import ENTRIES, EXPECTED, ColumnEntry, RowEntry, SuiteFile
from smope_bench.harness.planning.suites.yaml_text import YamlFile
from smope_bench.harness.text import plain, shell_command

ENDINGS = (".yaml", ".yml")
MOST_BYTES, MOST_ROWS = 200_000, 1_000
"""Limits of a file: its size, and the rows or columns that it makes."""
LONGEST_LABEL, LONGEST_SUMMARY = 200, 2_000
"""Characters of a label or title, and of a summary."""
_NAME = re.compile(r"\w(?:[\w +.-]{0,58}[\w+-])?")
_READ: dict[tuple[str, int, int], Suite] = {}


def read_suite(file: Path) -> Suite:
    """The suite of a YAML file. Raises UserError naming the file, the line where one is known, and the remedy."""
    shown = repr(str(file))
    try:
        if file.is_dir():
            raise UserError(f"{shown} is a folder; name a suite's YAML file in it")
        state = file.stat()
        key = (str(file.resolve()), state.st_mtime_ns, state.st_size)
        if key in _READ:
            return replace(_READ[key], file=str(file))
        if state.st_size > MOST_BYTES:
            raise UserError(f"{shown} has {state.st_size:,} bytes; a suite's file has at most {MOST_BYTES:,}")
        data = file.read_bytes()
    except FileNotFoundError as error:
        remedy = f"write one with: {shell_command('suite', 'table1', '--out', 'my.yaml')}"
        raise UserError(f"the suite's file {shown} does not exist; {remedy}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"the suite's file {shown} cannot be read: {reason}") from error
    suite = _Reader(file, data).suite()
    _READ[key] = suite
    return suite


class _Reader:
    """Reads one file; every error names it."""

    def __init__(self, file: Path, data: bytes) -> None:
        self.file = file
        self.yaml = YamlFile(file, data)

    def suite(self) -> Suite:
        """The file as a suite."""
        try:
            given = SuiteFile.model_validate(self.yaml.values)
        except ValidationError as error:
            self._refuse(error)
        self._require_names(given)
        name = self._name(given)
        settings = self._of_all(given)
        columns, tiny_columns = (
            self._columns(given, part, settings, is_tiny=given.tiny or part == "tiny_columns")
            for part in ("columns", "tiny_columns")
        )
        if given.tiny and tiny_columns:
            self.yaml.fail("tiny: true makes columns the tiny form already; leave tiny_columns out", "tiny_columns")
        rows = self._rows(given, "rows")
        if given.reference and given.reference not in {row.label for row in rows}:
            hint = did_you_mean(given.reference, [row.label for row in rows])
            self.yaml.fail(f"reference: no row has the label {given.reference!r}{hint}", "reference")
        return Suite(
            name=name,
            title=given.title or name,
            summary=given.summary,
            rows=rows,
            tiny=columns if given.tiny else tiny_columns,
            full=() if given.tiny else columns,
            seeds=tuple(dict.fromkeys(given.seeds)),
            is_tiny_only=given.tiny,
            settings=tuple(
                f"{key}={json.dumps(value)}" for key, value in settings.items() if not key.startswith("benchmark.")
            ),
            observe=tuple(given.observe),
            metrics=tuple(given.metrics),
            drawings=tuple(Drawing(**one.model_dump()) for one in given.drawings),
            counts_only=given.counts_only,
            tiny_rows=self._rows(given, "tiny_rows"),
            reference=given.reference,
            file=str(self.file),
        )

    def _require_names(self, given: SuiteFile) -> None:
        """Refuse labels and texts that would not stand in one line of a table, and settings that a count cannot take."""
        for key in ("title", "summary"):
            self._require_line(getattr(given, key), key)
        for part in ("rows", "tiny_rows", "columns", "tiny_columns"):
            for number, entry in enumerate(getattr(given, part)):
                self._require_line(entry.label, part, number, "label")
        for number, drawing in enumerate(given.drawings):
            for key in ("x_label", "y_label"):
                self._require_line(getattr(drawing, key), "drawings", number, key)
        if given.counts_only:
            changed = next((n for n, row in enumerate(given.rows) if row.settings or row.sweep or row.ablate), None)
            if changed is not None or given.settings or given.sweep or given.ablate:
                self.yaml.fail(
                    "counts are those of methods with their default settings, so that settings, sweep and ablate have no"
                    " effect; leave them out, or counts_only",
                    *(("rows", changed) if changed is not None else ("counts_only",)),
                )

    def _require_line(self, text: str, *place: object) -> None:
        longest = LONGEST_SUMMARY if place == ("summary",) else LONGEST_LABEL
        if len(text) > longest:
            self.yaml.fail(f"{place[-1]} has {len(text):,} characters; give at most {longest:,}", *place)
        if not text.isprintable():
            self.yaml.fail(f"{place[-1]} has line breaks or control characters; write it in one line", *place)

    def _name(self, given: SuiteFile) -> str:
        name = given.name or self.file.stem
        remedy = "give it one of its own, as in: name: my_suite"
        if name.lower() in {known.lower() for known in SUITES}:
            self.yaml.fail(
                f"{name!r} is the name of a suite of this project, whose results it would mix with; {remedy}", "name"
            )
        if not _NAME.fullmatch(name) or name.lower().endswith((".cost", *ENDINGS)):
            self.yaml.fail(
                f"{name!r} cannot be a suite's name: use letters, digits, spaces, '_', '+', '.' and '-', at most 60; {remedy}",
                "name",
            )
        return name

    def _of_all(self, given: SuiteFile) -> dict[str, Any]:
        """The settings of all rows by dotted name."""
        found: dict[str, Any] = {}
        for key, value in given.settings.items():
            if key.split(".")[0] == "backbone":
                self.yaml.fail(
                    "a backbone is no setting of rows; write backbone: NAME at the top or in a column", "settings", key
                )
            is_scope = key in ("schedule", "benchmark") and isinstance(value, dict)
            found |= {f"{key}.{inner}": one for inner, one in value.items()} if is_scope else {key: value}
            self._require_plain(value, "settings", key)
        return found

    def _columns(
        self, given: SuiteFile, part: str, settings: Mapping[str, Any], *, is_tiny: bool
    ) -> tuple[Column, ...]:
        of_all = {
            key.removeprefix("benchmark."): value for key, value in settings.items() if key.startswith("benchmark.")
        }
        found: list[Column] = []
        entries: list[ColumnEntry] = getattr(given, part)
        for number, entry in enumerate(entries):
            place = (part, number)
            of_all_columns = "" if part == "tiny_columns" else given.backbone
            backbone = entry.backbone or of_all_columns or ("tiny" if is_tiny else "")
            if not backbone:
                self.yaml.fail(
                    f"column {entry.benchmark!r} names no backbone; add backbone: NAME, as shown by:"
                    f" {shell_command('list', 'backbones')}; or tiny: true at the top for the one that comes with the"
                    " installation",
                    *place,
                )
            for kind in ("settings", "sweep"):
                for key in getattr(entry, kind):
                    if key.split(".")[0] == "backbone":
                        self.yaml.fail(
                            "settings of a backbone cannot stand in a file: give --set backbone.FIELD=VALUE to the command, or"
                            " import a weights file with them once and name what it is called, vit-…",
                            *place,
                            kind,
                            key,
                        )
            config = merged(
                self._nested(of_all, "settings"), self._nested(entry.settings, *place, "settings", scope="benchmark")
            )
            for key in ("path", "class_order"):  # relative to the suite's file, wherever it is run from
                if isinstance(value := config.get(key), str) and (key == "path" or is_order_file(value)):
                    config[key] = str(self.file.parent / Path(value).expanduser())
            for label, values in self._variants(entry.label, config, entry.sweep, {}, "benchmark", place):
                # A column without a label of its own is named by its configuration, the swept setting included.
                found.append(
                    Column(
                        label if entry.label else "",
                        entry.benchmark,
                        values,
                        file_under(self.file.parent, backbone),
                        line=self.yaml.lines[place],
                    )
                )
        self._require_distinct([column.label for column in found if column.label], part)
        return tuple(found)

    def _rows(self, given: SuiteFile, part: str) -> tuple[Row, ...]:
        titles = {row.method: row.label for suite in SUITES.values() for row in suite.rows if not row.settings}
        found: list[Row] = []
        entries: list[RowEntry] = getattr(given, part)
        for number, entry in enumerate(entries):
            place, label = (part, number), entry.label or titles.get(entry.method, entry.method)
            settings = self._nested(entry.settings, *place, "settings", scope=entry.method)
            for key in settings:
                if key in ("benchmark", "backbone"):
                    self.yaml.fail(f"{key} is not of a row; write it in a column", *place, "settings")
            for inner, values in self._variants(label, settings, entry.sweep, entry.ablate, entry.method, place):
                for outer, changed in self._variants(inner, values, given.sweep, given.ablate, entry.method, ()):
                    found.append(Row(outer, entry.method, changed, line=self.yaml.lines[place]))
        self._require_distinct([row.label for row in found], part)
        return tuple(found)

    def _variants(
        self,
        label: str,
        settings: Mapping[str, Any],
        sweep: Mapping[str, list[Any]],
        ablate: Mapping[str, Any],
        scope: str,
        place: tuple[object, ...],
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(label, settings) of a row itself and of one row for each ablated setting, each with every combination of a sweep."""
        for key, values in sweep.items():
            if not values:
                self.yaml.fail(f"sweep of {key} has no values; give a list, as in: {key}: [1, 2]", *place, "sweep", key)
        if math.prod(map(len, sweep.values())) * (1 + len(ablate)) > MOST_ROWS:
            self.yaml.fail(f"the sweep makes more than {MOST_ROWS:,} of one; give fewer values", *place, "sweep")
        changes = [{}, *({key: value} for key, value in ablate.items())]
        for change, point in product(changes, product(*sweep.values())):
            changed = change | dict(zip(sweep, point, strict=True))
            self._require_plain(changed, *place, "sweep" if sweep else "ablate")
            words = [f"{_bare(key, scope)} {_text(value)}" for key, value in changed.items()]
            yield ", ".join([label, *words]), merged(settings, self._nested(changed, *place, scope=scope))

    def _nested(self, settings: Mapping[str, Any], *place: object, scope: str = "benchmark") -> dict[str, Any]:
        """Dotted names as nested mappings; ``scope.`` before a name is left out."""
        found: dict[str, Any] = {}
        for key, value in settings.items():
            path = tuple(key.split("."))
            path = path[1:] if path[0] == scope and path[1:] else path
            if (where := _clash(found, path, value)) is not None:
                self.yaml.fail(f"{where} is given twice, the second time by {key!r}; keep one", *place, key)
            if not all(part.strip() for part in path):
                self.yaml.fail(f"{key!r} is not a setting's name", *place, key)
            self._require_plain(value, *place, key)
            found = merged(found, nested(path, value))
        return found

    def _require_plain(self, value: Any, *place: object) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                self._require_plain(one, *place, key)
        elif isinstance(value, list):
            for one in value:
                self._require_plain(one, *place)
        elif not (
            value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
        ):
            self.yaml.fail(f"{value!r} is no number, text, list or mapping; put text in quotes", *place)

    def _require_distinct(self, labels: Sequence[str], part: str) -> None:
        if len(labels) > MOST_ROWS:
            self.yaml.fail(f"{part} are {len(labels):,}; a suite has at most {MOST_ROWS:,}", part)
        seen: set[str] = set()
        for label in labels:
            if label in seen:
                self.yaml.fail(
                    f"two {part} have the label {label!r}; give one of them a label of its own, as in: label: another",
                    part,
                )
            seen.add(label)

    def _refuse(self, error: ValidationError) -> NoReturn:
        first = min(
            error.errors(), key=lambda one: one["type"] == "missing"
        )  # a misspelled key before the one it stands for
        loc, last = first["loc"], str(first["loc"][-1]) if first["loc"] else ""
        where = _dotted(loc)
        value = "" if isinstance(first["input"], dict | list) else f" is {_text(first['input'])}, but it"
        match first["type"]:
            case "extra_forbidden":
                known = ENTRIES.get(str(loc[0]) if len(loc) > 1 else "", SuiteFile).model_fields
                said = f"{last!r} is not a key here{did_you_mean(last, known)}"
            case "missing":
                said = f"{where} is missing; docs/suites.md has a whole file"
            case "too_short" | "string_too_short":
                said = f"{where} is empty; give at least one"
            case "value_error":
                said = f"{where}: {str(first['msg']).removeprefix('Value error, ')}"
            case kind:
                said = f"{where}{value} must be {EXPECTED.get(kind, str(first['msg']).lower())}"
        self.yaml.fail(said, *loc)


def _dotted(loc: Sequence[object]) -> str:
    """``rows.2.method`` as ``method of row 3``."""
    if len(loc) > 1 and isinstance(loc[1], int):
        entry = f"{str(loc[0]).removesuffix('s')} {loc[1] + 1}"
        return f"{'.'.join(map(str, loc[2:]))} of {entry}" if loc[2:] else entry
    return ".".join(map(str, loc)) or "the file"


def _clash(found: Mapping[str, Any], path: Sequence[str], value: Any) -> str | None:
    """The dotted name of a setting that ``found`` has already; None where there is none."""
    for one, _ in leaves(nested(tuple(path), value)):
        at: Any = found
        for part in one.split("."):
            at = at.get(part, _clash) if isinstance(at, Mapping) else _clash
        if at is not _clash:
            return one
    return None


def _bare(key: str, scope: str) -> str:
    return key.removeprefix("schedule.").removeprefix(f"{scope}.")


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "none" if value is None else str(value).lower()
    return (
        f"{value:g}"
        if isinstance(value, float)
        else ",".join(map(_text, value))
        if isinstance(value, list)
        else plain(value, 60)
    )
