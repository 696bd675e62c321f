"""The record of a finished run: its fields, its checksum, and the checks that every reader relies on.

The checksum (``seal``) shows that a record was edited by hand. It protects against mistakes, not forgery.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from smope_bench.harness.provenance import with_sources
from smope_bench.harness.run_spec import canonical_json
from smope_bench.harness.text import INSTALLED

RECORD_SCHEMA = 2
"""Version of the form of ``result.json``. Version 1 had no checksum and no hash of the predictions; ``migrate`` converts it."""

Fault = Literal["unreadable", "schema", "incomplete", "edited", "misplaced"]

RECORD = "result.json"
SEEDS = ("order_seed", "train_seed")
"""Fields of a specification in which the runs of a cell differ."""
OBSERVATIONS, PREDICTIONS, MODEL = "observations.npz", "predictions.npz", "model.safetensors"
"""Files beside a record, which has their hashes: observations for figures, predicted classes, and the trained model."""
REQUIRED = ("spec", "accuracy_matrix", "test_counts", "provenance", "costs", "timings")
"""Fields of every record."""


@dataclass(frozen=True)
class Record:
    """A stored record that has passed all checks of ``Store.load``."""

    run_id: str
    result: Mapping[str, Any]

    @property
    def spec(self) -> Mapping[str, Any]:
        """The run's specification."""
        return self.result["spec"]

    @property
    def fingerprint(self) -> str:
        """Hash of the code that made the record, its plugins included."""
        made = self.result["provenance"]
        plugins = made.get("plugins")
        sources = {str(kind): str(source) for kind, source in plugins.items()} if isinstance(plugins, dict) else {}
        return with_sources(str(made["code_fingerprint"]), sources)

    @property
    def observes(self) -> frozenset[str]:
        """Names of the run's observations."""
        return frozenset(self._observations.get("names", ()))

    @property
    def observations_sha256(self) -> str | None:
        """Hash of the file with the observations, or None."""
        return self._observations.get("sha256")

    @property
    def kept_model(self) -> Mapping[str, Any] | None:
        """Hash of the file with the trained model and the tasks that it has learnt; None where none was kept."""
        found = self.result.get("model")
        return found if isinstance(found, dict) else None

    @property
    def file_hashes(self) -> dict[str, str | None]:
        """Hash by name of each file beside the record; older records, and those of runs that keep no model, name fewer."""
        named = {PREDICTIONS: self.result.get("predictions_sha256"), OBSERVATIONS: self.observations_sha256}
        found = {name: sha256 for name, sha256 in named.items() if sha256 is not None}
        return found if self.kept_model is None else {**found, MODEL: self.kept_model.get("sha256")}

    @property
    def _observations(self) -> Mapping[str, Any]:
        found = self.result.get("observations")
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Broken:
    """A record that cannot be used, with the reason as a sentence; ``misplaced``: a copy, or a renamed folder."""

    run_id: str
    reason: str
    fault: Fault


def with_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its checksum. Raises ValueError for NaN and infinity."""
    return {**record, "seal": checksum_of(record)}


def checksum_of(record: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of the canonical JSON of all fields but ``seal``."""
    return hashlib.sha256(_sealed_text(record).encode()).hexdigest()


def _sealed_text(record: Mapping[str, Any]) -> str:
    return canonical_json({key: value for key, value in record.items() if key != "seal"})


def outline_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a record that decide the state of its run, and what others of its kind will take: which code made it, the
    hashes of its files, specification without seeds, device, and time. A part of another form than real ones stays as it is."""
    parts = {key: result[key] for key in ("predictions_sha256", "observations") if key in result}
    model = result.get("model")
    if isinstance(model, dict):
        parts["model"] = {"sha256": model.get("sha256")}
    return {
        **parts,
        "timings": _only(("total_s",), result["timings"]),
        "provenance": _only(("code_fingerprint", "plugins", "device_name"), result["provenance"]),
        "spec": without_seeds(result["spec"]),
    }


def without_seeds(spec: Any) -> Any:
    """A specification without ``SEEDS``; itself where it has none."""
    if not isinstance(spec, dict) or not any(name in spec for name in SEEDS):
        return spec
    return {name: value for name, value in spec.items() if name not in SEEDS}


def _only(names: Collection[str], part: Any) -> Any:
    return {name: part[name] for name in names if name in part} if isinstance(part, dict) else part


def checked(run_id: str, result: object) -> Record | Broken:
    """All checks of a record; every reader relies on them."""
    if not isinstance(result, dict):
        return Broken(run_id, f"the record of {run_id} is not a JSON object", "unreadable")
    fault = _schema_fault(result) or form_fault(run_id, result) or _content_fault(result)
    return Record(run_id, result) if fault is None else Broken(run_id, f"the record of {run_id} {fault[1]}", fault[0])


def _schema_fault(result: Mapping[str, Any]) -> tuple[Fault, str] | None:
    schema = result.get("schema_version")
    if schema == RECORD_SCHEMA:
        return None
    remedy = f"; bring it up to date with `{INSTALLED} migrate`" if schema in range(1, RECORD_SCHEMA) else ""
    return "schema", f"has schema {schema!r}, not {RECORD_SCHEMA}{remedy}"


def form_fault(run_id: str, result: Mapping[str, Any]) -> tuple[Fault, str] | None:
    """Why ``result``, of any schema, is not the record of this run, or None."""
    if result.get("run_id") != run_id:
        return "misplaced", f"is a copy, or its folder was renamed: it says that it is run {result.get('run_id')!r}"
    missing = sorted(set(REQUIRED) - result.keys())
    if missing:
        return "incomplete", f"lacks {', '.join(missing)}"
    if not isinstance(result["provenance"], dict) or "code_fingerprint" not in result["provenance"]:
        return "incomplete", "does not say which code made it"
    return None


def _content_fault(result: Mapping[str, Any]) -> tuple[Fault, str] | None:
    text = _sealed_text(result)
    if result.get("seal") != hashlib.sha256(text.encode()).hexdigest():
        return "edited", "was changed after it was written: its seal does not fit"
    if r"\ud" in text and has_half_character(result):  # half characters, and whole ones beyond 16 bits, are escaped so
        return "edited", "holds half a character, which no file can be written with"
    return None


def has_half_character(value: object) -> bool:
    """Whether JSON values hold a lone surrogate: JSON can escape one, but no file can be written with it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
