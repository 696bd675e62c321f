"""Why two runs of one table cell differ: their specifications, or the code, versions and machines that made them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from smope_bench.reports.loading.environments import FIELD_LABELS, said
from smope_bench.reports.loading.load import VERSION_DIGITS
from smope_bench.reports.loading.run_result import Outcome

FIELDS: Mapping[str, str] = {
    key: FIELD_LABELS[key]
    for key in (
        "project", "git_revision", "git_dirty", "code_fingerprint", "plugins", "python", "torch", "timm", "numpy", "platform",
        "cpu", "device", "device_name",
    )
}  # fmt: skip
"""What is recorded of an environment, by the names of a record's provenance."""
_HASHES = frozenset({"git_revision", "code_fingerprint"})
_MOST = 3
_ABSENT = "none"


def value_of(outcome: Outcome, key: str) -> str:
    """A field of a record's provenance as text; hashes by their first digits."""
    text = said(outcome.provenance.get(key))
    return text[:VERSION_DIGITS] if key in _HASHES else text


def causes(pairs: Sequence[tuple[Outcome, Outcome]]) -> list[str]:
    """What differs between (then, now) of every pair, each cause once, in the order of pairs.

    Pairs of one specification with equal numbers have nothing to explain, whatever made them.
    """
    differing = [pair for pair in pairs if pair[0].run_id != pair[1].run_id or not _are_equal(*pair)]
    return list(dict.fromkeys(_cause(then, now) for then, now in differing))


def _are_equal(then: Outcome, now: Outcome) -> bool:
    return then.accuracy_matrix == now.accuracy_matrix


def _cause(then: Outcome, now: Outcome) -> str:
    if then.run_id != now.run_id:
        return "other specification: " + _listed(_changes(then.spec, now.spec))
    changed = [
        f"{label} {value_of(then, key)} -> {value_of(now, key)}"
        for key, label in FIELDS.items()
        if then.provenance.get(key) != now.provenance.get(key)
    ]
    if then.split_hash != now.split_hash:
        old, new = (str(outcome.split_hash)[:VERSION_DIGITS] for outcome in (then, now))
        changed.insert(0, f"data split {old} -> {new}")
    if not changed:
        return "same specification, code, versions and machine, other numbers: not reproduced"
    return "same specification, other numbers: " + ", ".join(changed)


def _listed(changes: Iterable[str]) -> str:
    found = list(changes)
    more = len(found) - _MOST
    return ", ".join(found[:_MOST]) + (f" and {more} more" if more > 0 else "")


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``method.config.top_k 5 -> 3``, a dotted field each, in the order of names."""
    before, after = dict(_leaves(then)), dict(_leaves(now))
    names = sorted(before.keys() | after.keys())
    return [
        f"{name} {_text(before, name)} -> {_text(after, name)}"
        for name in names
        if (name in before) != (name in after) or before.get(name) != after.get(name)
    ]


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _text(leaves: Mapping[str, object], name: str) -> str:
    """A value as a reader meets it in a specification; long ones (hashes, lists) by their beginning."""
    if name not in leaves:
        return _ABSENT
    text = str(leaves[name])
    return text if len(text) <= 24 else text[:20] + "..."
