"""The commands ``data prepare``, ``data verify`` and ``migrate``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from smope_bench.harness.planning.assets import Prepared, Verified

BAD_FILES = 1
UNVERIFIED = (
    "weights not verified: no public source states this file's hash; results are marked, not compared with printed ones"
)

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...", help="Benchmarks and backbones; 'list benchmarks' and 'list backbones' show them."
    ),
]
From = Annotated[
    list[Path] | None,
    typer.Option(
        "--from",
        metavar="PATH",
        help="A file that you have already, or a folder with it, instead of a download; it stays as it is. Repeatable.",
    ),
]
BenchmarkSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="benchmark.FIELD=VALUE", help="Prepare for these settings of the benchmark. Repeatable."
    ),
]

data = typer.Typer(name="data", help="Images and weights: made ready, and read through again.")


@data.command("prepare")
def prepare(
    names: Names,
    given: From = None,
    data_root: opt.Data = opt.DATA,
    settings: BenchmarkSettings = None,
    plugin: opt.Plugins = None,
) -> None:
    """Download, verify and convert what benchmarks and backbones need. What is there already is only verified."""
    from smope_bench.harness.console import make_console
    from smope_bench.harness.planning.assets import kind_of, prepare_named
    from smope_bench.harness.planning.settings import parse_setting
    from smope_bench.harness.registry.registry import open_registries

    registries, console = open_registries(plugin or ()), make_console()
    parsed = [parse_setting(text) for text in settings or ()]
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        kind_of(name, registries)  # a typing error in the last name is answered before the first download
    if given and len(wanted) > 1:
        raise UserError(f"--from belongs to one name: prepare {', '.join(wanted)} one after another.")

    def notify(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    for name in wanted:
        _show(console, prepare_named(name, registries, data_root, given or (), notify, parsed))


@data.command("verify")
def verify(
    names: Names, data_root: opt.Data = opt.DATA, as_json: opt.AsJson = False, plugin: opt.Plugins = None
) -> None:
    """Read prepared images, downloads and weights through and compare every hash; exit status 1 if one does not fit."""
    from smope_bench.harness.console import make_console
    from smope_bench.harness.planning.assets import kind_of, verify_named
    from smope_bench.harness.registry.registry import open_registries

    registries, console = open_registries(plugin or ()), make_console()
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        kind_of(name, registries)
    rows: list[Verified] = []
    for name in wanted:
        found = verify_named(name, registries, data_root)
        rows += found
        for row in () if as_json else found:
            mark, style = ("✓", "green") if row.state == "intact" else ("✗", "red")
            text = f"{mark} {row.name}: {row.what}: {row.state}, {_size(row.bytes)}"
            console.print(text, style=style, markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
    bad = [row for row in rows if row.state != "intact"]
    for row in bad:
        print(f"failed: {row.name}: {row.what}: {row.state}: {row.remedy}", file=sys.stderr)
    raise typer.Exit(BAD_FILES if bad else 0)


def _show(console: Console, prepared: Prepared) -> None:
    """Print where something lies, its size, and its content hash."""
    where = f"ready in {prepared.where}" if prepared.where is not None else "ready; no file belongs to it"
    images = "".join(f", {count:,} {split} images" for split, count in prepared.images.items())
    size = f", {_size(prepared.bytes)}" if prepared.bytes else ""
    console.print(f"{prepared.name}: {where}{images}{size}", markup=False, soft_wrap=True)
    console.print(f"{prepared.name}: content {prepared.content}", markup=False, soft_wrap=True)
    if not prepared.is_verified:
        console.print(f"{prepared.name}: {UNVERIFIED}", markup=False, soft_wrap=True)


def _size(count: int) -> str:
    from smope_bench.benchmarks.download.transfer import shown_bytes

    return shown_bytes(count)


@command("migrate")
def migrate(results: opt.Results = opt.RESULTS) -> None:
    """Bring records of older schemas up to date; the originals are kept, and what cannot be trusted is left alone."""
    from smope_bench.harness.records import migrate as records

    if not results.is_dir():
        raise UserError(f"--results {str(results)!r} is not a folder; name a results folder")
    print("\n".join(records.sentences(records.migrate(results))))
