"""The settings of a typed configuration as rows: name, default, what is allowed, and description."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from smope_bench.harness.console import Rows

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Facts = dict[str, Any]


def settings_of(model: type[BaseModel], scope: str) -> Rows:
    """Every setting, nested ones too: name as in ``--set``, default as JSON value, what is allowed, and its description."""
    return list(_settings(model.model_construct(), scope))


def _settings(config: BaseModel, scope: str, only_with: str = "") -> Iterator[Facts]:
    """Rows of ``settings_of``; ``only_with``: the choice that these settings belong to."""
    for name, info in type(config).model_fields.items():
        default = "required" if info.is_required() else getattr(config, name)
        path, forms = f"{scope}{name}", _models(info.annotation)
        row: Facts = {"setting": path, "default": "", "allowed": "", "description": info.description or ""}
        row |= {"only_with": only_with} if only_with else {}
        if not forms:
            yield row | {"default": json.loads(json.dumps(default, default=str)), "allowed": _allowed(info)}
        elif len(forms) == 1:
            inner = default if isinstance(default, forms[0]) else forms[0].model_construct()
            yield row | {"setting": f"{path}.*"}
            yield from _settings(inner, f"{path}.", only_with)
        else:
            kinds = [str(form.model_fields["kind"].default) for form in forms]
            chosen = getattr(default, "kind", default)
            yield row | {"setting": f"{path}.kind", "default": chosen, "allowed": " | ".join(kinds)}
            for form, kind in zip(forms, kinds, strict=True):
                rows = _settings(form.model_construct(), f"{path}.", f"{path}.kind={kind}")
                yield from (one for one in rows if one["setting"] != f"{path}.kind")


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The typed configurations that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _allowed(info: FieldInfo) -> str:
    """``whole number from 1 to 64``, ``number above 0 or null``, ``mean | per_token``, ``true | false``."""
    names = ("ge", "gt", "le", "lt", "multiple_of")
    limits: dict[str, Any] = {
        name: getattr(one, name) for one in info.metadata for name in names if getattr(one, name, None) is not None
    }
    steps = f"in steps of {limits.pop('multiple_of'):g}" if "multiple_of" in limits else ""
    if limits.keys() == {"ge", "le"}:
        text = (
            f"from {limits['ge']:g} to {limits['le']:,g}"
            if limits["le"] < 1e6
            else f"from {limits['ge']:g} to {limits['le']:g}"
        )
    else:
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        text = " and ".join(f"{words[name]} {limits[name]:g}" for name in words if name in limits)
    kind, null = _kind(info.annotation)
    return " ".join(part for part in (kind, text, steps, null) if part)


def _kind(annotation: Any) -> tuple[str, str]:
    """A type in words, and ``or null`` for one that allows None."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(part) for part in parts), ""
    if origin in (Union, types.UnionType):
        kinds = " or ".join(_kind(part)[0] for part in parts if part is not type(None))
        return kinds, "or null" if type(None) in parts else ""
    if origin is tuple:
        kind = _kind(parts[0])[0]
        return (f"list of {kind}" if get_origin(parts[0]) is Literal else f"list of {kind}s"), ""
    names: dict[Any, str] = {bool: "true | false", int: "whole number", float: "number", str: "text", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation))), ""
