"""The specification of a run: frozen and typed; its hash identifies the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from smope_bench.harness import provenance
from smope_bench.methods.common.backbone.backbones import IMPORTED, BackboneSettings

SCHEMA_VERSION = 1

Precision = Literal["fp32", "tf32", "bf16"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Component(_Frozen):
    """Name of a registered method or benchmark, with its complete configuration including all defaults."""

    name: str
    config: dict[str, Any] = Field(default_factory=dict)


class BackboneRef(BackboneSettings):
    """Name of a backbone, hash of its weights, and what was changed of it, which is absent from JSON where it is None."""

    name: str
    sha256: str

    @property
    def settings(self) -> BackboneSettings:
        """What was changed."""
        return BackboneSettings(**{name: getattr(self, name) for name in BackboneSettings.model_fields})

    @property
    def features_key(self) -> str:
        """Identity of its features for equal input: the hash of the weights, unless more decides."""
        plain = self.settings == BackboneSettings() and not self.name.startswith(IMPORTED)
        return self.sha256 if plain else canonical_json(self.model_dump())

    @model_serializer
    def _changes_only(self) -> dict[str, Any]:
        found = {"name": self.name, "sha256": self.sha256}
        return found | {name: value for name, value in self.settings if value is not None}


class Parent(_Frozen):
    """The finished run that another one extends by more tasks, from its trained model on."""

    run_id: str
    state: str
    """SHA-256 of the parent's kept model."""
    tasks: int = Field(ge=1)
    """Tasks that the parent has learnt: the first ones of the whole stream."""
    before: tuple[Component, ...] = ()
    """Benchmarks whose tasks come before those of the run's own benchmark; none where that one has the parent's tasks, too."""


class RunSpec(_Frozen):
    """Everything that decides a run's result, and nothing else: no device, number of workers, path or executor.

    Configurations are dumps of typed pydantic models, so that 1 and 1.0 cannot give one run two identities.
    """

    schema_version: int = SCHEMA_VERSION
    method: Component
    benchmark: Component
    backbone: BackboneRef
    schedule: dict[str, Any]
    precision: Precision = "fp32"
    order_seed: int = Field(default=0, ge=0)
    train_seed: int = Field(default=0, ge=0)
    parent: Parent | None = None
    """Absent from JSON where it is None."""
    sources: dict[str, str] = Field(default_factory=dict, exclude=True)
    """Hashes of the sources of the run's plugins, by kind; excluded from identity and JSON. An edited plugin makes the record
    stale, as edited code of the project does."""

    @model_serializer(mode="wrap")
    def _without_none(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = serialize(self)
        return found if self.parent is not None else {key: value for key, value in found.items() if key != "parent"}

    @property
    def benchmarks(self) -> tuple[Component, ...]:
        """The benchmarks whose tasks the stream has, in this order; more than one only where a run was extended."""
        return (*(self.parent.before if self.parent else ()), self.benchmark)

    @property
    def seeds(self) -> dict[str, int]:
        """The fields that differ between the runs of a cell."""
        return {"order_seed": self.order_seed, "train_seed": self.train_seed}

    @property
    def num_tasks(self) -> int | None:
        """Tasks that are learnt; None where a benchmark of a plugin does not name its number."""
        counts = [one.config.get("stop_after") or one.config.get("tasks") for one in self.benchmarks]
        return None if None in counts else sum(int(count or 0) for count in counts)

    @property
    def run_id(self) -> str:
        """As ``run_id_of``."""
        return run_id_of(self.model_dump(mode="json"))

    @property
    def fingerprint(self) -> str:
        """Hash of the code that executes the run: the project's and that of its plugins."""
        return provenance.with_sources(provenance.code_fingerprint(), self.sources)


def run_id_of(spec: object) -> str:
    """As ``run_id_of_text`` of the specification's canonical JSON."""
    return run_id_of_text(canonical_json(spec))


def run_id_of_text(canonical: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a specification's canonical JSON."""
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def canonical_json(value: object) -> str:
    """JSON with sorted keys, in ASCII and without white space. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@lru_cache(maxsize=10_000, typed=True)
def _scalar_text(value: str | int | None) -> str:
    return canonical_json(value)


class CanonicalTexts:
    """Canonical JSON of mappings. The text of a part that is the same object as before is not made again: records that come
    from an index share their parts, which nobody changes."""

    _MOST = 1000

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, str]] = {}

    def of(self, mapping: Mapping[str, Any]) -> str:
        """As ``canonical_json``."""
        return f"{{{','.join(f'{_scalar_text(key)}:{self._part(mapping[key])}' for key in sorted(mapping))}}}"

    def _part(self, value: object) -> str:
        if value is None or isinstance(value, str | int):
            return _scalar_text(value)
        if not isinstance(value, dict):
            return canonical_json(value)
        known = self._known.get(id(value))
        if known is None or known[0] is not value:
            if len(self._known) >= self._MOST:
                self._known.clear()
            known = self._known[id(value)] = (value, canonical_json(value))
        return known[1]


def derive_seed(seed: int, *labels: object) -> int:
    """A 63-bit seed for one purpose of one run, e.g. ``derive_seed(train_seed, "epoch", task, epoch)``.

    With a seed of its own, any part of a run can be repeated without the random numbers drawn before it.
    """
    text = canonical_json([seed, *[str(label) for label in labels]])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
