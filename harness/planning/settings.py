"""Users' settings: ``--set`` texts, seeds, and typed configurations whose errors name what is allowed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from smope_bench.benchmarks.protocol import short
from smope_bench.harness.errors import UserError, did_you_mean

ModelT = TypeVar("ModelT", bound=BaseModel)

SCOPES = ("schedule", "benchmark", "backbone")
BACKBONE = ("backbone",)
"""The setting that replaces the backbone of every column: ``--set backbone=NAME``."""
TRANSFORMS = ("augment", "normalize", "test_resize", "test_interpolation", "test_squeeze")
"""Settings of a benchmark that may be given for one method; recipes differ in them, too."""
MOST_SEEDS = 10_000
FOLDER = "path"
"""Field of a benchmark that names a folder."""


@dataclass(frozen=True)
class Setting:
    """One ``--set SCOPE.FIELD=VALUE`` or ``--set FIELD=VALUE``; nested fields are joined by dots."""

    text: str
    path: tuple[str, ...]
    value: Any


@dataclass(frozen=True, order=True)
class Seeds:
    """The seed of the class order and the seed of training: two numbers, both part of a run's identity."""

    order: int
    train: int


def parse_setting(text: str) -> Setting:
    """Read ``key=value``; the value is JSON where it parses as such, else the text itself.

    The name of a folder is a text, also one such as ``2024``, ``1e3`` or ``true``; in it, ``~`` is the user's folder.
    """
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise UserError(f"--set {text!r} is not of the form key=value, for example --set schedule.epochs=3")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = {"True": True, "False": False, "None": None}.get(value.strip(), value.strip())
    if path[-1] == FOLDER and value.strip() not in ("null", "None"):
        parsed = os.path.expanduser(parsed if isinstance(parsed, str) else value.strip())  # noqa: PTH111  # never raises
    return Setting(text, path, parsed)


def parse_seeds(texts: Iterable[str]) -> list[Seeds]:
    """Read ``0``, ``0,1``, ``0-4`` (order and training seed alike) and ``ORDER:TRAIN``."""
    found: list[Seeds] = []
    for text in (part.strip() for joined in texts for part in joined.split(",")):
        found.extend(_seed_range(text))
    return list(dict.fromkeys(found))


def _seed_range(text: str) -> list[Seeds]:
    first, dash, last = text.partition("-")
    order, colon, train = text.partition(":")
    try:
        if colon:
            return [Seeds(_natural(order), _natural(train))]
        if dash:
            low, high = _natural(first), _natural(last)
            if high < low:
                raise ValueError(text)
            if high - low >= MOST_SEEDS:
                raise UserError(f"--seeds {text!r} names more than {MOST_SEEDS:,} seeds; give a shorter range")
            return [Seeds(n, n) for n in range(low, high + 1)]
        return [Seeds(_natural(text), _natural(text))]
    except ValueError as error:
        raise UserError(
            f"--seeds {text!r} is not a seed: give whole numbers such as 0,1,2, a range such as 0-4, or ORDER:TRAIN"
        ) from error


def _natural(text: str) -> int:
    if not text.strip().isdigit():
        raise ValueError(text)
    return int(text)


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """``("tap", "epochs"), 3`` as ``{"tap": {"epochs": 3}}``."""
    for part in reversed(path):
        value = {part: value}
    return value


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` updated by ``over``, recursively; a mapping of another ``kind`` has other fields and replaces the old one."""
    result = dict(base)
    for key, value in over.items():
        old: Any = result.get(key)
        result[key] = merged(old, value) if _nests(old, value) else value
    return result


def leaves(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of nested settings; tuples become lists."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", list(value) if isinstance(value, tuple) else value


def _nests(old: Any, value: Any) -> bool:
    if not (isinstance(old, Mapping) and isinstance(value, Mapping)):
        return False
    return value.get("kind", old.get("kind")) == old.get("kind")


def scoped(settings: Iterable[Setting], scope: str) -> dict[str, Any]:
    """Values of the settings ``SCOPE.FIELD=VALUE`` of one scope, later ones over earlier ones."""
    found: dict[str, Any] = {}
    for setting in settings:
        if setting.path[0] == scope and setting.path[1:]:
            found = merged(found, nested(setting.path[1:], setting.value))
    return found


def validated(model: type[ModelT], values: Mapping[str, Any], where: str) -> ModelT:
    """Make a typed configuration. Raises UserError naming ``where``, the field, the value and what is allowed."""
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(_sentence(model, first, where)) from error


def _sentence(model: type[BaseModel], error: Mapping[str, Any], where: str) -> str:
    path = [str(part) for part in error["loc"]]
    field = ".".join([where, *path])
    if error["type"] == "extra_forbidden":
        return f"{field} is not a setting{did_you_mean(path[-1], _fields_at(model, path[:-1]))}"
    if error["type"].startswith("union_tag"):
        first, *others = _kinds(model, path, error["input"])
        more = f" (or {', '.join(others)})" if others else ""
        return f"{field}={short(error['input'])}: give its form first, by --set {field}.kind={first}{more}"
    if not path:
        return f"{where}: {str(error['msg']).removeprefix('Value error, ')}"
    return f"{field}={short(error['input'])}: {str(error['msg']).removeprefix('Value error, ')}{_bounds(model, path)}"


def _kinds(model: type[BaseModel], path: list[str], given: Any) -> list[str]:
    """The kinds of a setting that has several forms, first those with the fields that were given."""
    owner = _owner(model, path[:-1])
    forms = get_args(owner.model_fields[path[-1]].annotation) if owner and path[-1] in owner.model_fields else ()
    forms = [form for form in forms if "kind" in getattr(form, "model_fields", {})]
    fields = {*given} - {"kind"} if isinstance(given, Mapping) else set[str]()
    forms.sort(key=lambda form: not fields <= form.model_fields.keys())
    return [form.model_fields["kind"].default for form in forms]


def _bounds(model: type[BaseModel], path: list[str]) -> str:
    owner: type[BaseModel] | None = _owner(model, path[:-1])
    info = owner.model_fields.get(path[-1]) if owner else None
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for limit in (info.metadata if info else [])
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if getattr(limit, name, None) is not None
    ]
    return f" (allowed: {' and '.join(limits)})" if limits else ""


def _owner(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    for part in path:
        info = model.model_fields.get(part)
        inner = info.annotation if info else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        model = inner
    return model


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    owner = _owner(model, path)
    return list(owner.model_fields) if owner else []


def has_field(model: type[BaseModel], path: tuple[str, ...]) -> bool:
    """Whether a typed configuration has a, possibly nested, field."""
    owner = _owner(model, list(path[:-1]))
    return owner is not None and path[-1] in owner.model_fields


@dataclass(frozen=True)
class PlacedSetting:
    """A setting as it applies to a row: ``scope`` is ``schedule``, ``benchmark`` or the method, None where it does not apply."""

    setting: Setting
    scope: str | None = None
    path: tuple[str, ...] = ()


def placed_setting(setting: Setting, method: str, config: type[Any], schedule: type[Any]) -> PlacedSetting:
    """Where a setting applies in a row of ``method``, whose configuration is ``config``. Raises UserError."""
    head, rest = setting.path[0], setting.path[1:]
    if rest and head == method:
        if rest[1:] and rest[0] in SCOPES and rest[0] not in config.model_fields:
            if rest[0] == "benchmark" and rest[1] not in TRANSFORMS:
                raise UserError(
                    f"--set {setting.text!r}: the rows of a table share their protocol, only {', '.join(TRANSFORMS)} may"
                    f" differ; give --set {setting.text.partition('.')[2]} for all rows"
                )
            return PlacedSetting(setting, rest[0], rest[1:])
        return PlacedSetting(setting, method, rest)
    if rest and head in SCOPES:
        return PlacedSetting(setting, head, rest)
    if has_field(config, setting.path):
        return PlacedSetting(setting, method, setting.path)
    if has_field(schedule, setting.path):
        return PlacedSetting(setting, "schedule", setting.path)
    return PlacedSetting(setting)


def in_effect(settings: Sequence[PlacedSetting]) -> list[PlacedSetting]:
    """The settings that apply, less those that a later one of the same field replaces."""
    found: dict[tuple[str, ...], PlacedSetting] = {}
    for placed in settings:
        if placed.scope is not None or placed.setting.path == BACKBONE:
            key = (placed.scope or "", *placed.path)
            found.pop(key, None)
            found[key] = placed
    return list(found.values())


def values_of(settings: Sequence[PlacedSetting], scope: str) -> dict[str, Any]:
    """Values of the settings of one scope, later ones over earlier ones."""
    found: dict[str, Any] = {}
    for placed in settings:
        if placed.scope == scope:
            found = merged(found, nested(placed.path, placed.setting.value))
    return found
