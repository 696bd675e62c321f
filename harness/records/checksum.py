"""The seal of a record: a hash over all that it says, so that an edit by hand is seen. It guards against mistakes, not forgers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from smope_bench.harness.run_spec import canonical_json

RECORD_SCHEMA = 2
"""The form of ``result.json``. 1 had no seal and no hash of the predictions; ``smope_bench.harness.records.migrate`` brings it here."""


def with_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the seal that fits it. Raises ValueError for NaN and infinity."""
    return {**record, "seal": checksum_of(record)}


def checksum_of(record: Mapping[str, Any]) -> str:
    """SHA-256 in hexadecimal of the canonical JSON of everything but the seal."""
    return hashlib.sha256(canonical_json({k: v for k, v in record.items() if k != "seal"}).encode()).hexdigest()
