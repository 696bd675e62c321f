"""The commands of ``data``, and ``migrate``."""

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
        help="A file that you have already, or a folder with it, instead of a download; or your own folder of pictures. It"
        " stays as it is. Repeatable.",
    ),
]
BenchmarkSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="benchmark.FIELD=VALUE", help="Prepare for these settings of the benchmark. Repeatable."
    ),
]

data = typer.Typer(name="data", help="Images and weights: made ready, listed, removed, and read through again.")


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
    from smope_bench.harness.text import shell_command

    registries, console = open_registries(plugin or ()), make_console()
    parsed = [parse_setting(text) for text in settings or ()]
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        kind_of(name, registries)  # a typing error in the last name is answered before the first download
    if given and len(wanted) > 1:
        raise UserError(f"--from belongs to one name: prepare {', '.join(wanted)} one after another.")

    def notify(text: str) -> None:
        console.print(text, markup=False)

    for name in wanted:
        prepared = prepare_named(name, registries, data_root, given or (), notify, parsed)
        _show(console, prepared)
        if prepared.settings:
            more = {"settings": prepared.settings, "plugins": plugin or (), "data": data_root}
            notify(f"a run on these images:\n  {shell_command('run', 'smoke', '--benchmarks', name, **more)}")


@data.command("list")
def list_prepared(data_root: opt.Data = opt.DATA, as_json: opt.AsJson = False) -> None:
    """Show all that the data folder holds: prepared images, downloads, weights; its size, and when it was used last."""
    from datetime import datetime

    from rich.markup import escape

    from smope_bench.benchmarks.image_store.other_data import WORDS
    from smope_bench.harness.console import counted, print_rows
    from smope_bench.harness.planning.assets import data_in
    from smope_bench.harness.text import plain, shell_command

    stores, others = data_in(data_root)
    rows = [{**asdict(store), "folder": str(store.folder), "kind": "images"} for store in stores]
    for row in rows:
        del row["settings"]
    for other in others:
        facts = {"name": other.name, "folder": str(other.files[0]), "bytes": other.bytes, "kind": other.kind}
        rows.append({**facts, "images": None, "source": "", "used": other.used, "match": ""})
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        print(f"nothing is in {plain(data_root)}")
        return
    print_rows(
        rows,
        (
            ("name", lambda row: escape(plain(row["name"]))),
            ("images", lambda row: "" if row["images"] is None else f"{row['images']:,}"),
            ("size", lambda row: _size(row["bytes"])),
            ("used", lambda row: datetime.fromtimestamp(row["used"]).strftime("%Y-%m-%d %H:%M")),
            ("what", lambda row: WORDS.get(row["kind"], "images")),
            ("", lambda row: escape(row["match"])),
        ),
    )
    for row in rows:
        if row["source"]:
            print(f"{plain(row['name'])} is of {plain(row['source'])}")
    print(
        f"{counted(len(stores), 'store')} of images, {_size(sum(row['bytes'] for row in rows))} in all; to remove one:"
    )
    print(f"  {shell_command('data', 'remove', rows[0]['name'], data=data_root)}")
    old = [store for store in stores if store.match]
    if old:
        print(f"{_size(sum(store.bytes for store in old))} of them match no folder any more; to remove them:")
        print(f"  {shell_command('data', 'remove', *(store.name for store in old), data=data_root)}")


@data.command("remove")
def remove(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Names that 'data list' shows, or a benchmark for all of its images."),
    ],
    data_root: opt.Data = opt.DATA,
) -> None:
    """Delete prepared images, or downloads and weights by their names. Runs that need them again prepare them again."""
    from smope_bench.harness.planning.assets import data_named, remove_data
    from smope_bench.harness.text import plain

    parts = data_named(list(dict.fromkeys(names)), data_root)
    remove_data(parts)
    for part in parts:
        print(f"removed {plain(part.name)}: {_size(part.bytes)}")
    print(f"freed {_size(sum(part.bytes for part in parts))}")


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
            console.print(text, style=style, markup=False)
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
    console.print(f"{prepared.name}: {where}{images}{size}", markup=False)
    console.print(f"{prepared.name}: content {prepared.content}", markup=False)
    for note in prepared.notes:
        console.print(f"note: {note}", markup=False)
    if not prepared.is_verified:
        console.print(f"{prepared.name}: {UNVERIFIED}", markup=False)


def _size(count: int) -> str:
    from smope_bench.benchmarks.disk import shown_bytes

    return shown_bytes(count)


@command("migrate")
def migrate(results: opt.Results = opt.RESULTS) -> None:
    """Bring records of older schemas up to date; the originals are kept, and what cannot be trusted is left alone."""
    from smope_bench.harness.records import migrate as records

    if not results.is_dir():
        raise UserError(f"--results {str(results)!r} is not a folder; name a results folder")
    print("\n".join(records.sentences(records.migrate(results))))
