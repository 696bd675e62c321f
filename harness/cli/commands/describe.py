"""The command ``describe``: all that is known of one method, benchmark, backbone, suite, executor, tracker or metric.

PyTorch is imported only where the file of the described thing does so, as those of methods do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.console import make_console
from smope_bench.harness.text import plain, plain_values

if TYPE_CHECKING:
    from smope_bench.harness.facts.settings import Facts

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A method, benchmark, backbone, suite, executor, tracker or metric: 'list methods' and so on.",
    ),
]


@dataclass(frozen=True)
class Section:
    """A heading and its rows: each a line and what explains it, indented below it or beside it."""

    heading: str
    rows: list[tuple[str, str]]
    note: str = ""
    is_beside: bool = False


@command("describe")
def describe(name: Name, as_json: opt.AsJson = False, data: opt.Data = opt.DATA, plugin: opt.Plugins = None) -> None:
    """Show all that is known of one thing: its settings with defaults and ranges, recipes, sources, licence and size."""
    from smope_bench.harness.facts.one import find_facts
    from smope_bench.harness.registry.registry import uncollected

    with uncollected():
        found = [plain_values(facts) for facts in find_facts(name, data, plugin or ())]
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    console = make_console()
    if len(found) > 1:
        console.print(
            f"{escape(plain(name))} is a {' and a '.join(facts['kind'] for facts in found)}; all are shown.\n"
        )
    for facts in found:
        _print(console, facts)


def _print(console: Console, facts: Facts) -> None:
    """One thing, for any width of the terminal: facts in two columns, everything else a line and an indented explanation."""
    owner = "" if facts.get("owner", "built-in") == "built-in" else f", {escape(facts['owner'])}"
    console.print(f"[bold]{escape(facts['name'])}[/]  [dim]{facts['kind']}{owner}[/]")
    console.print(escape(": ".join(filter(None, (facts["title"], facts["summary"])))))
    console.print()
    _beside(console, [(key, value) for key, value in facts["facts"].items() if value], 0)
    for section in _sections(facts):
        if section.rows:
            note = f"  [dim]{escape(section.note)}[/]" if section.note else ""
            console.print(f"\n[bold]{section.heading}[/]{note}")
        if section.is_beside:
            _beside(console, section.rows, 2)
            continue
        for line, below in section.rows:
            console.print(Padding(line, (0, 0, 0, 2)), soft_wrap=False)
            console.print(Padding(f"[dim]{below}[/]", (0, 0, 0, 6)), soft_wrap=False)
    console.print()


def _beside(console: Console, rows: list[tuple[str, Any]], indent: int) -> None:
    """Lines of two columns. They are not broken: what stands right may be a path or a command."""
    width = max((cell_len(left) for left, _ in rows), default=0)
    for left, right in rows:
        for number, line in enumerate(right if isinstance(right, list) else [right]):
            shown = set_cell_size("" if number else left, width)
            console.print(f"{' ' * indent}[dim]{escape(shown)}[/]  {escape(str(line))}")


def _sections(facts: Facts) -> Iterator[Section]:
    for heading, key in (("Rows", "rows"), ("Rows of the tiny form", "tiny_rows")):
        yield Section(heading, [_labelled(row, "method", "settings") for row in facts.get(key, ())], is_beside=True)
    for form in ("full", "tiny"):
        columns = [row for row in facts.get("columns", ()) if row["form"] == form]
        rows = [_labelled(row, "benchmark", "backbone", "settings") for row in columns]
        yield Section(f"Columns of the {form} form", rows, is_beside=True)
    for heading, key in (("Settings", "settings"), ("Schedule", "schedule")):
        yield Section(heading, [_setting(row) for row in facts.get(key, ())], "--set NAME=VALUE")
    yield Section(
        "Recipes", [_recipe(row) for row in facts.get("recipes", ())], "what runs use where nothing is set by hand"
    )


def _labelled(row: Facts, *keys: str) -> tuple[str, str]:
    return row["label"], "; ".join(row[key] for key in keys if row[key])


def _setting(row: Facts) -> tuple[str, str]:
    default = row["default"] if isinstance(row["default"], str) else json.dumps(row["default"])
    name = f"[bold]{escape(row['setting'])}[/]" + (f" = {escape(default)}" if default else "")
    allowed = f"  [cyan]({escape(row['allowed'])})[/]" if row["allowed"] else ""
    only = f" (with {row['only_with']})" if row.get("only_with") else ""
    return f"{name}{allowed}", escape(f"{row['description']}{only}")


def _recipe(row: Facts) -> tuple[str, str]:
    tasks = "any number of tasks" if row["tasks"] == "any" else f"{row['tasks']} tasks"
    where = f"[bold]{escape(row['benchmark'])}[/], {escape(tasks)}, {escape(row['backbone'])}"
    return where, escape(f"{row['text']}\n{row['source']}")
