"""Table of the records and manifests that cannot be used."""

from __future__ import annotations

from smope_bench.harness.records.record import RECORD_SCHEMA
from smope_bench.reports.loading.integrity import KIND_WORDS, Integrity
from smope_bench.reports.loading.run_result import LeftOut
from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell


def integrity_table(integrity: Integrity) -> Table | None:
    """Each record and manifest that was left out, with its reason and remedy; ``None`` where there is none."""
    if integrity.is_sound:
        return None
    headings = tuple(
        Heading(text, help=said, fields=(text.lower(),), sort="text", is_numeric=False, is_whole=is_whole)
        for text, said, is_whole in (
            ("Fault", "what kind of damage it is", False),
            ("Reason", "what was found", True),
            ("Planned by", "the suites that lack the run because of it", False),
            ("Remedy", "what makes it whole", True),
        )
    )
    plans = [(one, integrity.named.get(one.run_id, ())) for one in integrity.broken]
    records = tuple(
        _line(one.run_id, KIND_WORDS[one.kind], one.reason, ", ".join(suites) or "no suite", _remedy(one, integrity))
        for one, suites in plans
    )
    remedy = "delete suites/{}.json and run the suite again: finished runs are kept"
    manifests = tuple(
        _line(f"suites/{suite}.json", "unusable", f"the manifest {reason}", suite, remedy.format(suite))
        for suite, reason in integrity.manifests.items()
    )
    blocks = [Block(records, "Records")] if records else []
    blocks += [Block(manifests, "Manifests of suites")] if manifests else []
    return Table(
        key="left-out",
        title="Left out",
        corner="Record",
        headings=headings,
        blocks=tuple(blocks),
        lead=f"Of {integrity.records} records in the folder, {len(integrity.broken)} cannot be used: they stand in no table, "
        "figure or test.",
    )


def _line(label: str, *texts: str) -> Row:
    return Row(label, tuple(TableCell(text, (text,), tone="word" if i == 0 else "") for i, text in enumerate(texts)))


def _remedy(one: LeftOut, integrity: Integrity) -> str:
    if one.kind == "schema" and "migrate" in one.reason:
        return f"bring it up to date, which keeps the original beside it: {integrity.migration}"
    if one.kind == "schema":
        return f"read it with the version that wrote it; this one reads schema {RECORD_SCHEMA}"
    if one.kind == "misplaced":
        return "delete the folder, or give it back the name of its run where that is missing"
    again = integrity.again.get(one.run_id)
    return (
        f"put the original back, or {f'do the run again: {again}' if again else 'delete its folder: no suite plans it'}"
    )
