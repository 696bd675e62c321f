"""The checksum of a record (``seal``), which shows that it was edited by hand. It protects against mistakes, not forgery."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from smope_bench.harness.run_spec import canonical_json

RECORD_SCHEMA = 2
"""Version of the form of ``result.json``. Version 1 had no checksum and no hash of the predictions; ``migrate`` converts it."""


def with_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its checksum. Raises ValueError for NaN and infinity."""
    return {**record, "seal": checksum_of(record)}


def checksum_of(record: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of the canonical JSON of all fields but ``seal``."""
    return hashlib.sha256(canonical_json({k: v for k, v in record.items() if k != "seal"}).encode()).hexdigest()
