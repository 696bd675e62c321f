"""Suites by name, and suites in YAML files: reading, checking and writing. docs/suites.md describes the format.

Files are read as YAML 1.2 reads them: ``no``, ``off`` and ``010`` are text, ``1e3`` is a number. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from smope_bench.benchmarks.protocol import is_order_file
from smope_bench.benchmarks.suites import SUITES, Column, Row, Suite
from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.planning.own_backbones import file_under
from smope_bench.harness.planning.settings import merged, nested, parse_seeds, parse_setting
from smope_bench.harness.text import plain, shell_command

ENDINGS = (".yaml", ".yml")
MOST_BYTES, MOST_NODES, MOST_ROWS = 200_000, 20_000, 1_000
"""Limits of a file: its size, its values with every alias written out, and the rows or columns that it makes."""
LONGEST_LABEL, LONGEST_SUMMARY = 200, 2_000
"""Characters of a label or title, and of a summary."""
DEFAULT_METRICS = ("faa", "caa", "fm")
_NAME = re.compile(r"\w(?:[\w +.-]{0,58}[\w+-])?")
_READ: dict[tuple[str, int, int], Suite] = {}

Lines = Mapping[tuple[object, ...], int]


def is_file_name(name: str) -> bool:
    """Whether an argument names a file and not a suite: it ends in ``.yaml`` or ``.yml``, or names a folder."""
    return name.lower().endswith(ENDINGS) or "/" in name or "\\" in name


def find_suite(name: str) -> Suite:
    """The suite of that name, or that of a file. Raises UserError; an unchanged file is read once a process."""
    if is_file_name(name):
        return read_suite(Path(name))
    if name not in SUITES:
        file = None
        with contextlib.suppress(OSError):  # a name that is too long for a file
            file = next((f"{name}{ending}" for ending in ENDINGS if Path(f"{name}{ending}").is_file()), None)
        hint = f"; did you mean the file {file!r}?" if file else did_you_mean(name, SUITES)
        raise UserError(f"unknown suite {name!r}{hint}")
    return SUITES[name]


def run_argument(name: str) -> str:
    """What to write after ``run`` for a suite of the results folder, which does not know where a user's file is."""
    return name if name in SUITES else f"FILE{ENDINGS[0]}"


def find_suites(names: Iterable[str]) -> list[Suite]:
    """These suites, each once. Raises UserError for an unknown one and for two of one name."""
    found: dict[str, Suite] = {}
    for name in names:
        suite = find_suite(name)
        other = found.setdefault(suite.name, suite)
        if digest(other) != digest(suite):
            raise UserError(
                f"{other.file!r} and {suite.file!r} are both suite {suite.name!r}, under which results are kept;"
                f" give one of them another name, as in: name: {suite.name}_2"
            )
    return list(found.values())


def name_in_results(name: str) -> str:
    """The name under which the results folder keeps the suite that an argument names; a plain name stays as it is."""
    return find_suite(name).name if is_file_name(name) else name


def digest(suite: Suite) -> str:
    """Identity of what a file plans: a hash of rows, columns and settings. Empty for the project's own suites."""
    if not suite.file:
        return ""
    parts = (suite.rows, suite.tiny_rows, suite.tiny, suite.full)
    plans = [[{**asdict(one), "line": 0} for one in part] for part in parts]
    text = json.dumps([plans, suite.settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Row(_Strict):
    method: str = Field(min_length=1)
    label: str = ""
    settings: dict[str, Any] = {}
    sweep: dict[str, list[Any]] = {}
    ablate: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"method": data} if isinstance(data, str) else data


class _Column(_Strict):
    benchmark: str = Field(min_length=1)
    backbone: str = ""
    label: str = ""
    settings: dict[str, Any] = {}
    sweep: dict[str, list[Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"benchmark": data} if isinstance(data, str) else data


class _Drawing(_Strict):
    kind: str
    x: str = ""
    y: str = ""
    x_label: str = ""
    y_label: str = ""


class _File(_Strict):
    """The file's top; field by field as in ``Suite``."""

    name: str = ""
    title: str = ""
    summary: str = ""
    tiny: bool = False
    counts_only: bool = False
    seeds: list[int] = Field(default=[0], min_length=1)
    backbone: str = ""
    settings: dict[str, Any] = {}
    columns: list[_Column] = Field(min_length=1)
    tiny_columns: list[_Column] = []
    rows: list[_Row] = Field(min_length=1)
    tiny_rows: list[_Row] = []
    sweep: dict[str, list[Any]] = {}
    ablate: dict[str, Any] = {}
    observe: list[str] = []
    metrics: list[str] = Field(default=list(DEFAULT_METRICS), min_length=1)
    drawings: list[_Drawing] = []

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, data: Any) -> Any:
        if isinstance(data, str):
            try:
                pairs = parse_seeds([data])
            except UserError as error:
                raise ValueError(str(error).removeprefix("--seeds ")) from error
            if any(pair.order != pair.train for pair in pairs):
                raise ValueError("seeds of a file are of class order and training alike; give ORDER:TRAIN to --seeds")
            return [pair.order for pair in pairs]
        if isinstance(data, list) and any(isinstance(seed, int) and seed < 0 for seed in data):
            raise ValueError("a seed is 0 or more")
        return data


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
        self.values, self.lines = self._parsed(data)

    def fail(self, sentence: str, *where: object) -> NoReturn:
        """Raise UserError for what stands at a place in the file, or for the file as a whole."""
        places = (where[:length] for length in range(len(where), 0, -1))
        line = next((self.lines[place] for place in places if place in self.lines), None)
        self._fail_at(sentence, line)

    def _fail_at(self, sentence: str, line: int | None) -> NoReturn:
        raise UserError(f"{str(self.file)!r}{f', line {line}' if line else ''}: {plain(sentence)}")

    def suite(self) -> Suite:
        """The file as a suite."""
        try:
            given = _File.model_validate(self.values)
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
            self.fail("tiny: true makes columns the tiny form already; leave tiny_columns out", "tiny_columns")
        return Suite(
            name=name,
            title=given.title or name,
            summary=given.summary,
            rows=self._rows(given, "rows"),
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
            file=str(self.file),
        )

    def _require_names(self, given: _File) -> None:
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
                self.fail(
                    "counts are those of methods with their default settings, so that settings, sweep and ablate have no"
                    " effect; leave them out, or counts_only",
                    *(("rows", changed) if changed is not None else ("counts_only",)),
                )

    def _require_line(self, text: str, *place: object) -> None:
        longest = LONGEST_SUMMARY if place == ("summary",) else LONGEST_LABEL
        if len(text) > longest:
            self.fail(f"{place[-1]} has {len(text):,} characters; give at most {longest:,}", *place)
        if not text.isprintable():
            self.fail(f"{place[-1]} has line breaks or control characters; write it in one line", *place)

    def _name(self, given: _File) -> str:
        name = given.name or self.file.stem
        remedy = "give it one of its own, as in: name: my_suite"
        if name.lower() in {known.lower() for known in SUITES}:
            self.fail(
                f"{name!r} is the name of a suite of this project, whose results it would mix with; {remedy}", "name"
            )
        if not _NAME.fullmatch(name) or name.lower().endswith((".cost", *ENDINGS)):
            self.fail(
                f"{name!r} cannot be a suite's name: use letters, digits, spaces, '_', '+', '.' and '-', at most 60; {remedy}",
                "name",
            )
        return name

    def _of_all(self, given: _File) -> dict[str, Any]:
        """The settings of all rows by dotted name."""
        found: dict[str, Any] = {}
        for key, value in given.settings.items():
            if key.split(".")[0] == "backbone":
                self.fail(
                    "a backbone is no setting of rows; write backbone: NAME at the top or in a column", "settings", key
                )
            is_scope = key in ("schedule", "benchmark") and isinstance(value, dict)
            found |= {f"{key}.{inner}": one for inner, one in value.items()} if is_scope else {key: value}
            self._require_plain(value, "settings", key)
        return found

    def _columns(self, given: _File, part: str, settings: Mapping[str, Any], *, is_tiny: bool) -> tuple[Column, ...]:
        of_all = {
            key.removeprefix("benchmark."): value for key, value in settings.items() if key.startswith("benchmark.")
        }
        found: list[Column] = []
        entries: list[_Column] = getattr(given, part)
        for number, entry in enumerate(entries):
            place = (part, number)
            of_all_columns = "" if part == "tiny_columns" else given.backbone
            backbone = entry.backbone or of_all_columns or ("tiny" if is_tiny else "")
            if not backbone:
                self.fail(
                    f"column {entry.benchmark!r} names no backbone; add backbone: NAME ('list backbones' shows them),"
                    " or tiny: true at the top for the one that comes with the installation",
                    *place,
                )
            for kind in ("settings", "sweep"):
                for key in getattr(entry, kind):
                    if key.split(".")[0] == "backbone":
                        self.fail(
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
                        line=self.lines[place],
                    )
                )
        self._require_distinct([column.label for column in found if column.label], part)
        return tuple(found)

    def _rows(self, given: _File, part: str) -> tuple[Row, ...]:
        titles = {row.method: row.label for suite in SUITES.values() for row in suite.rows if not row.settings}
        found: list[Row] = []
        entries: list[_Row] = getattr(given, part)
        for number, entry in enumerate(entries):
            place, label = (part, number), entry.label or titles.get(entry.method, entry.method)
            settings = self._nested(entry.settings, *place, "settings", scope=entry.method)
            for key in settings:
                if key in ("benchmark", "backbone"):
                    self.fail(f"{key} is not of a row; write it in a column", *place, "settings")
            for inner, values in self._variants(label, settings, entry.sweep, entry.ablate, entry.method, place):
                for outer, changed in self._variants(inner, values, given.sweep, given.ablate, entry.method, ()):
                    found.append(Row(outer, entry.method, changed, line=self.lines[place]))
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
                self.fail(f"sweep of {key} has no values; give a list, as in: {key}: [1, 2]", *place, "sweep", key)
        if math.prod(map(len, sweep.values())) * (1 + len(ablate)) > MOST_ROWS:
            self.fail(f"the sweep makes more than {MOST_ROWS:,} of one; give fewer values", *place, "sweep")
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
                self.fail(f"{where} is given twice, the second time by {key!r}; keep one", *place, key)
            if not all(part.strip() for part in path):
                self.fail(f"{key!r} is not a setting's name", *place, key)
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
            self.fail(f"{value!r} is no number, text, list or mapping; put text in quotes", *place)

    def _require_distinct(self, labels: Sequence[str], part: str) -> None:
        if len(labels) > MOST_ROWS:
            self.fail(f"{part} are {len(labels):,}; a suite has at most {MOST_ROWS:,}", part)
        seen: set[str] = set()
        for label in labels:
            if label in seen:
                self.fail(
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
                known = _FIELDS.get(str(loc[0]) if len(loc) > 1 else "", _File).model_fields
                said = f"{last!r} is not a key here{did_you_mean(last, known)}"
            case "missing":
                said = f"{where} is missing; docs/suites.md has a whole file"
            case "too_short" | "string_too_short":
                said = f"{where} is empty; give at least one"
            case "value_error":
                said = f"{where}: {str(first['msg']).removeprefix('Value error, ')}"
            case kind:
                said = f"{where}{value} must be {_MUST.get(kind, str(first['msg']).lower())}"
        self.fail(said, *loc)

    def _parsed(self, data: bytes) -> tuple[Any, Lines]:
        self.lines: Lines = {}
        if b"\0" in data:
            self.fail("this is not a text file; a suite is YAML in UTF-8")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            self._fail_at("this is not UTF-8; save it with that encoding", line)
        loader = _Loader(text) if text.isprintable() or not _CONTROL.search(text) else None
        if loader is None:
            self.fail("this is not a text file: it has control characters; a suite is YAML in UTF-8")
        try:
            node = loader.get_single_node()
            if node is None:
                self.fail(
                    f"the file is empty; write a suite with: {shell_command('suite', 'table1', '--out', 'my.yaml')}"
                )
            if not isinstance(node, yaml.MappingNode):
                self._fail_at(
                    "a suite's file holds KEY: VALUE lines, such as rows and columns", node.start_mark.line + 1
                )
            self._require_small(node)
            lines = dict(self._walk(node, ()))
            return loader.construct_document(node), lines
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = f"{error.context or ''} {error.problem or ''}".strip()
            remedy = (
                "indent with spaces, not tabs"
                if "\\t" in said
                else "look for a missing quote, bracket, colon or indent"
            )
            self._fail_at(f"this is not YAML ({said}); {remedy}", mark.line + 1 if mark else None)
        except (yaml.YAMLError, ValueError) as error:
            self.fail(f"this is not YAML ({error})")
        except RecursionError:
            self.fail("values are nested too deeply; a suite needs a few levels")

    def _require_small(self, top: yaml.Node) -> None:
        """Refuse a file whose aliases, written out, would be very many values, or that holds itself."""
        sizes: dict[int, int] = {}

        def size(node: yaml.Node, above: frozenset[int]) -> int:
            if id(node) in above:
                self._fail_at("an alias stands inside what it names; write the values out", node.start_mark.line + 1)
            if id(node) not in sizes:
                sizes[id(node)] = 1 + sum(size(inner, above | {id(node)}) for inner in _inner(node))
            return sizes[id(node)]

        if (found := size(top, frozenset())) > MOST_NODES:
            self.fail(
                f"the file has {min(found, 10**12):,} values with its aliases written out; a suite has at most {MOST_NODES:,}"
            )

    def _walk(self, node: yaml.Node, place: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], int]]:
        """The line of each place; refuses keys that are not text or occur twice."""
        yield place, node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            for number, one in enumerate(node.value):
                yield from self._walk(one, (*place, number))
        elif isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                    shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "it"
                    self._fail_at(f"a key must be text; put {shown} in quotes", line)
                if key.value in seen:
                    self._fail_at(
                        f"{key.value!r} is written twice here, first in line {seen[key.value]}; keep one", line
                    )
                seen[key.value] = line
                yield from self._walk(value, (*place, key.value))
                yield (*place, key.value), line


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FIELDS: dict[str, type[BaseModel]] = {
    "rows": _Row, "tiny_rows": _Row, "columns": _Column, "tiny_columns": _Column, "drawings": _Drawing,
}  # fmt: skip
_MUST = {
    "string_type": "text; put it in quotes",
    "list_type": "a list, as in [1, 2] or lines that begin with '- '",
    "dict_type": "KEY: VALUE pairs, as in {tasks: 5}",
    "model_type": "KEY: VALUE pairs, as in {method: NAME}",
    "model_attributes_type": "KEY: VALUE pairs, as in {method: NAME}",
    "bool_type": "true or false",
    "int_type": "a whole number, as 1000 and not 1e3 or '1000'",
}


class _Loader(yaml.SafeLoader):
    """Plain data with the types of YAML 1.2: of 1.1, ``no`` is false, ``010`` is 8, ``12:30`` is 750 and ``1e3`` is text."""


_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z")
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", re.compile(r"(?:null|Null|NULL|~|)\Z"), ["n", "N", "~", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would read as something else than text."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _dotted(loc: Sequence[object]) -> str:
    """``rows.2.method`` as ``method of row 3``."""
    if len(loc) > 1 and isinstance(loc[1], int):
        entry = f"{str(loc[0]).removesuffix('s')} {loc[1] + 1}"
        return f"{'.'.join(map(str, loc[2:]))} of {entry}" if loc[2:] else entry
    return ".".join(map(str, loc)) or "the file"


def _clash(found: Mapping[str, Any], path: Sequence[str], value: Any) -> str | None:
    """The dotted name of a setting that ``found`` has already; None where there is none."""
    for one, _ in _leaves(nested(tuple(path), value)):
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


def suite_text(suite: Suite, name: str) -> str:
    """A suite as a YAML file of that name, from which the same runs are planned."""
    full = suite.full or suite.tiny
    top = {
        "name": name,
        "title": suite.title,
        "summary": suite.summary,
        "tiny": suite.is_tiny_only,
        "counts_only": suite.counts_only,
        "seeds": list(suite.seeds),
        "settings": {setting.partition("=")[0]: parse_setting(setting).value for setting in suite.settings},
        "observe": list(suite.observe),
        "metrics": list(suite.metrics),
    }
    columns = {"columns": full, "tiny_columns": suite.tiny if suite.full else ()}
    parts: dict[str, list[dict[str, Any]]] = {
        "drawings": [asdict(one) for one in suite.drawings],
        **{key: [_column_entry(one) for one in some] for key, some in columns.items()},
        "rows": [_row_entry(one) for one in suite.rows],
        "tiny_rows": [_row_entry(one) for one in suite.tiny_rows],
    }
    lines = [_flow({key: value})[1:-1] for key, value in top.items() if value not in (False, "", [], {})]
    for key, entries in parts.items():
        some = [{name: value for name, value in entry.items() if value not in ("", {})} for entry in entries]
        lines += [f"{key}:", *(f"  - {_flow(entry)}" for entry in some)] if some else []
    return "\n".join(lines) + "\n"


def _row_entry(row: Row) -> dict[str, Any]:
    return {"label": row.label, "method": row.method, "settings": dict(_leaves(row.settings))}


def _column_entry(column: Column) -> dict[str, Any]:
    settings = dict(_leaves(column.config))
    return {"label": column.label, "benchmark": column.benchmark, "settings": settings, "backbone": column.backbone}


def _leaves(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", list(value) if isinstance(value, tuple) else value


def _flow(value: Any) -> str:
    return yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    ).strip()
