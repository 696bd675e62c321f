"""The fields of a suite's YAML file, typed; ``read`` turns them into a ``Suite``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from smope_bench.harness.errors import UserError
from smope_bench.harness.planning.settings import parse_seeds

DEFAULT_METRICS = ("faa", "caa", "fm")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RowEntry(Strict):
    method: str = Field(min_length=1)
    label: str = ""
    settings: dict[str, Any] = {}
    sweep: dict[str, list[Any]] = {}
    ablate: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"method": data} if isinstance(data, str) else data


class ColumnEntry(Strict):
    benchmark: str = Field(min_length=1)
    backbone: str = ""
    label: str = ""
    settings: dict[str, Any] = {}
    sweep: dict[str, list[Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"benchmark": data} if isinstance(data, str) else data


class DrawingEntry(Strict):
    kind: str
    x: str = ""
    y: str = ""
    x_label: str = ""
    y_label: str = ""


class SuiteFile(Strict):
    """The file's top; field by field as in ``Suite``."""

    name: str = ""
    title: str = ""
    summary: str = ""
    tiny: bool = False
    counts_only: bool = False
    seeds: list[int] = Field(default=[0], min_length=1)
    backbone: str = ""
    settings: dict[str, Any] = {}
    columns: list[ColumnEntry] = Field(min_length=1)
    tiny_columns: list[ColumnEntry] = []
    rows: list[RowEntry] = Field(min_length=1)
    tiny_rows: list[RowEntry] = []
    sweep: dict[str, list[Any]] = {}
    ablate: dict[str, Any] = {}
    observe: list[str] = []
    metrics: list[str] = Field(default=list(DEFAULT_METRICS), min_length=1)
    drawings: list[DrawingEntry] = []
    reference: str = ""

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


ENTRIES: dict[str, type[BaseModel]] = {
    "rows": RowEntry, "tiny_rows": RowEntry, "columns": ColumnEntry, "tiny_columns": ColumnEntry, "drawings": DrawingEntry,
}  # fmt: skip
"""The type of a list's entries by the list's name."""
EXPECTED = {
    "string_type": "text; put it in quotes",
    "list_type": "a list, as in [1, 2] or lines that begin with '- '",
    "dict_type": "KEY: VALUE pairs, as in {tasks: 5}",
    "model_type": "KEY: VALUE pairs, as in {method: NAME}",
    "model_attributes_type": "KEY: VALUE pairs, as in {method: NAME}",
    "bool_type": "true or false",
    "int_type": "a whole number, as 1000 and not 1e3 or '1000'",
}
"""What a value must be, by the type of pydantic's error."""
