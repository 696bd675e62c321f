"""What a run is: a frozen, typed specification whose hash is the run's identity."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from smope_bench.harness import provenance

SCHEMA_VERSION = 1

Precision = Literal["fp32", "bf16"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Component(_Frozen):
    """A registered thing by name with its complete configuration, every default spelled out."""

    name: str
    config: dict[str, Any] = Field(default_factory=dict)


class BackboneRef(_Frozen):
    """A backbone by name and by the hash of the weights that were, or will be, loaded."""

    name: str
    sha256: str


class RunSpec(_Frozen):
    """Everything that decides a run's result, and nothing else: no device, worker count, path or executor.

    The configs are dumps of typed pydantic models (``smope_bench.harness.planning.planner.Planner`` makes them), so that 1 and 1.0
    cannot give two identities to one run.
    """

    schema_version: int = SCHEMA_VERSION
    method: Component
    benchmark: Component
    backbone: BackboneRef
    schedule: dict[str, Any]
    precision: Precision = "fp32"
    order_seed: int = Field(default=0, ge=0)
    train_seed: int = Field(default=0, ge=0)
    sources: dict[str, str] = Field(default_factory=dict, exclude=True)
    """Hashes of the sources of the run's plugins, by kind. No part of the identity, nor of what is written: as other code, an
    edited plugin leaves a run what it is and makes its record stale."""

    def canonical(self) -> str:
        """Canonical JSON: sorted keys, no white space, ASCII, no NaN."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def run_id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    @property
    def fingerprint(self) -> str:
        """Hash of all code that the run would be made by: the project's and its plugins'."""
        return provenance.with_sources(provenance.code_fingerprint(), self.sources)


def canonical_json(value: object) -> str:
    """One text a value: sorted keys, no white space; raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def derive_seed(seed: int, *labels: object) -> int:
    """A 63-bit seed for one purpose of one run, e.g. ``derive_seed(train_seed, "epoch", task, epoch)``.

    Streams are derived instead of consumed, so that any point of a run can be reached again without replaying the
    random numbers before it.
    """
    text = canonical_json([seed, *[str(label) for label in labels]])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
