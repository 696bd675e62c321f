"""The commands ``report`` and ``cost``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smope_bench.benchmarks.disk import refusal
from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.text import shell_command

if TYPE_CHECKING:
    from rich.console import Console

    from smope_bench.harness.records.store import Store
    from smope_bench.reports.loading.load import Loaded
    from smope_bench.reports.loading.model import SuiteResults


@dataclass(frozen=True)
class Comparisons:
    """Which rows are compared: with ``reference``, a row's label or method, or the suite's own; ``all_pairs``: each with each."""

    reference: str | None = None
    all_pairs: bool = False

    def applied(self, loaded: Loaded) -> Loaded:
        """``loaded`` with the reference row of each suite that has it. Raises UserError where none has."""
        if self.reference is None:
            return loaded
        suites = [replace(results, reference=self._row(results) or results.reference) for results in loaded.suites]
        if not any(map(self._row, loaded.suites)):
            labels = dict.fromkeys(row.label for results in loaded.suites for row in results.rows)
            raise UserError(
                f"--reference {self.reference!r}: no row is called so{did_you_mean(self.reference, labels)}"
            )
        return replace(loaded, suites=tuple(suites))

    def _row(self, results: SuiteResults) -> str | None:
        names = {name: row.label for row in reversed(results.rows) for name in (row.method, row.label)}
        return names.get(self.reference or "")


@command("report")
def report(
    suites: opt.SuitesFound = None,
    results: opt.Results = opt.RESULTS,
    out: opt.Out = opt.REPORT,
    against: opt.Against = None,
    mixed: opt.Mixed = False,
    reference: opt.Reference = None,
    all_pairs: opt.AllPairs = False,
    tables_only: opt.TablesOnly = False,
    merge: opt.Merge = None,
    plugin: opt.Plugins = None,
) -> None:
    """Write page, tables and figures of some suites, or of all that were run, from stored records. Never trains."""
    if merge:
        given = {"--against": against, "--mixed": mixed, "--reference": reference, "--all-pairs": all_pairs}
        given |= {"--tables-only": tables_only}
        if named := [name for name, value in given.items() if value]:
            raise UserError(
                f"--merge makes a site of all its folders, without what {named[0]} adds; leave one of them out"
            )
        merge_folders(merge, suites or (), out, plugin or ())
        return
    found = (suites or (), results, out)
    asked = Comparisons(reference, all_pairs)
    more = {
        "against": against,
        "mixed": mixed,
        "comparisons": asked,
        "plugins": plugin or (),
        "tables_only": tables_only,
    }
    write(*found, **more, with_tables=True)


def write(
    suites: Sequence[str],
    results: Path,
    out: Path,
    *,
    against: Path | None = None,
    mixed: bool = False,
    comparisons: Comparisons = Comparisons(),
    plugins: Sequence[Path] = (),
    tables_only: bool = False,
    with_tables: bool,
) -> None:
    """As the command ``report``; ``with_tables``: print them too. ``tables_only``: no page and no figures."""
    from smope_bench.harness.console import make_console
    from smope_bench.harness.provenance import code_fingerprint
    from smope_bench.harness.records.index import IndexedStore
    from smope_bench.harness.registry.metrics import open_metrics
    from smope_bench.harness.registry.plugins import run_file
    from smope_bench.reports.build import make_document, write_report
    from smope_bench.reports.loading.load import load_suites
    from smope_bench.reports.writers.terminal import print_document

    _require_places(results, out)
    with IndexedStore(results) as store:
        trained, counted = _asked(suites, store)
        metrics = open_metrics(plugins)
        loaded = load_suites(store, trained, code_fingerprint(), mixed=mixed, metrics=metrics, brief=tables_only)
        loaded = comparisons.applied(loaded)
        counts, wrong = _counts(store, counted, asked=bool(suites))
        other = None if against is None else _other(against, trained)
        document = make_document(
            loaded,
            store,
            counts,
            other,
            [run_file(file) for file in plugins],
            all_pairs=comparisons.all_pairs,
            with_figures=not tables_only,
        )
    document = replace(document, warnings=(*document.warnings, *wrong, *_said_of(other)))
    if with_tables:
        print_document(make_console(), document)
    files = write_report(document, out, with_page=not tables_only)
    print(f"tables: {files.markdown}" if tables_only else f"page: {files.page}")


def merge_folders(folders: Sequence[str], suites: Sequence[str], out: Path, plugins: Sequence[Path] = ()) -> None:
    """Join results folders, ``LABEL=DIR`` or ``DIR`` each, and write the site of all their results."""
    from smope_bench.harness.console import make_console
    from smope_bench.harness.planning.suites.find import name_in_results
    from smope_bench.harness.registry.metrics import open_metrics
    from smope_bench.reports.leaderboard.site import DATA, INDEX, make_site, parse_folders, read_folders, write_site
    from smope_bench.reports.writers.terminal import print_document

    found = parse_folders(folders)
    for folder in found.values():
        _require_places(folder, out)
    joined = read_folders(found, list(map(name_in_results, suites)), open_metrics(plugins))
    site = make_site(joined)
    print_document(make_console(), site[INDEX])
    page = write_site(site, joined, out)
    print(f"site: {page}")
    print(f"data: {page.parent / DATA}")


def print_suites(console: Console, suites: Sequence[str], results: Path, plugins: Sequence[Path] = ()) -> None:
    """Print the tables of some suites as they stand, as ``run`` does at its end, with the metrics of ``plugins``."""
    from smope_bench.harness.planning.suites.find import name_in_results
    from smope_bench.harness.provenance import code_fingerprint
    from smope_bench.harness.records.index import IndexedStore
    from smope_bench.harness.registry.metrics import open_metrics
    from smope_bench.reports.loading.load import load_suite
    from smope_bench.reports.writers.terminal import print_results

    metrics = open_metrics(plugins)
    with IndexedStore(results) as store:
        for name in dict.fromkeys(map(name_in_results, suites)):
            print_results(console, load_suite(store, name, code_fingerprint(), metrics, brief=True))


@command("cost")
def cost(
    methods: opt.Methods = None,
    as_json: opt.AsJson = False,
    out: opt.CostOut = None,
    plugin: opt.Plugins = None,
) -> None:
    """Count parameters and operations an image on ViT-B/16, beside the paper's Table 3. Needs no weights, trains nothing."""
    from smope_bench.harness.console import make_console
    from smope_bench.harness.cost.report import count_costs
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.reports.tables.costs import with_printed
    from smope_bench.reports.writers.markdown import cost_markdown
    from smope_bench.reports.writers.terminal import print_costs

    registries = open_registries(plugin or ())
    counts = count_costs(registries, opt.split_values(methods) or registries.methods.loadable_names()).as_json()
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(cost_markdown(counts), encoding="utf-8")
        except OSError as error:
            raise UserError(f"--out {str(out)!r} cannot be written: {refusal(error, out)}") from error
    if as_json:
        print(json.dumps(with_printed(counts), indent=2, ensure_ascii=False))
    else:
        print_costs(make_console(), counts)


def count(suites: Sequence[str], methods: Sequence[str], plugins: Sequence[Path], results: Path) -> None:
    """Do the suites that only count, and print their tables."""
    from smope_bench.harness.console import make_console
    from smope_bench.harness.cost.cost_suites import count_suite
    from smope_bench.harness.records.store import Store
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.reports.writers.terminal import print_costs

    for name in suites:
        Store(results).require_writable()
        counts = count_suite(name, methods, open_registries(plugins), Store(results))
        print_costs(make_console(), counts)


def _require_places(results: Path, out: Path) -> None:
    """Raise UserError for places that are no folders, and for a page among the manifests."""
    if results.exists() and not results.is_dir():
        raise UserError(f"--results {str(results)!r} is not a folder; name a results folder")
    there = next((place for place in (out, *out.parents) if os.path.lexists(place)), None)
    if there is not None and not there.is_dir():
        raise UserError(
            f"the report cannot be written to {str(out)!r}: {str(there)!r} is a file; name another --out DIR"
        )
    manifests = (results / "suites").resolve()
    if manifests in (out.resolve(), *out.resolve().parents):
        raise UserError(f"--out {str(out)!r} is where {str(results)!r} keeps its manifests; name another --out DIR")


def _asked(suites: Sequence[str], store: Store) -> tuple[list[str], list[str]]:
    """(trained suites, counted suites): those named, or all in the folder. Raises UserError for none."""
    from smope_bench.harness.cost.cost_suites import counted_suites
    from smope_bench.harness.planning.suites.find import find_suite, name_in_results
    from smope_bench.reports.loading.load import suites_in
    from smope_bench.reports.loading.manifest import manifest_names

    counted = counted_suites(store)
    # Damaged manifests of suites that are not named do not matter.
    trained = manifest_names(store) if suites else suites_in(store)
    names = list(dict.fromkeys(map(name_in_results, suites))) or [*trained, *counted]
    if not names:
        raise UserError(
            f"nothing was run in {str(store.root)!r} yet; run a suite first, as in: "
            + shell_command("run", "smoke", results=store.root)
        )
    of_files = set(names) - set(suites)
    for name in names:
        if name not in (*trained, *counted, *of_files):
            # Unknown names raise here, with a suggestion; suites that were not run, in the reader.
            find_suite(name)
    counts = [name for name in names if (SUITES[name].counts_only if name in SUITES else name in counted)]
    return [name for name in names if name not in counts], counts


def _counts(store: Store, names: Sequence[str], *, asked: bool) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Stored counts by suite, and warnings for unusable ones, which raise UserError where ``asked`` for by name."""
    from smope_bench.harness.cost.cost_suites import read_counted

    found, wrong = {}, []
    for name in names:
        try:
            found[name] = read_counted(store, name)
        except UserError as error:
            if asked:
                raise
            wrong.append(f"Suite {name!r} is not shown: {error}.")
    return found, wrong


def _said_of(other: Loaded | None) -> list[str]:
    """Warnings about records of the baseline of a comparison."""
    from smope_bench.reports.loading.integrity import integrity_warnings

    return (
        []
        if other is None
        else [f"In {other.label}: {said}" for said in integrity_warnings(other.integrity, listed=False)]
    )


def _other(folder: Path, suites: Sequence[str]) -> Loaded:
    """The baseline of a comparison: those of the suites that it has, of any code version."""
    from smope_bench.harness.records.store import Store
    from smope_bench.reports.loading.load import load_suites, suites_in

    if not folder.is_dir():
        raise UserError(f"--against {str(folder)!r} is not a folder; name a results folder")
    store = Store(folder)
    if not suites:
        raise UserError("--against compares runs, and a suite that only counts has none; name a suite that trains")
    there = [name for name in suites_in(store) if name in suites]
    if not there:
        named = ", ".join(suites)
        raise UserError(
            f"--against {str(folder)!r} holds none of the suites {named}; name the results folder of their runs"
        )
    return replace(load_suites(store, there, None, mixed=True), label=str(folder))
