"""The commands ``list`` and ``plan``, and their rows, for tables and JSON alike."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.markup import escape
from rich.text import Text

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.cli.request import Request, read_request
from smope_bench.harness.console import Columns, Rows, counted, duration, make_console, print_rows
from smope_bench.harness.errors import as_user_errors
from smope_bench.harness.run_options import RunOptions
from smope_bench.harness.text import plain

if TYPE_CHECKING:
    from smope_bench.harness.cost.pricing import Pricing
    from smope_bench.harness.planning.planner import PlannedRun
    from smope_bench.harness.records.store import Store
    from smope_bench.harness.registry.registry import Registries

NEEDS_WEIGHTS = "needs weights"
_STATE_STYLES = {"done": "green", "failed": "red", "stale": "yellow", "new": "cyan", NEEDS_WEIGHTS: "magenta"}


@command("list")
def list_(
    kind: opt.KindToList, as_json: opt.AsJson = False, data: opt.Data = opt.DATA, plugin: opt.Plugins = None
) -> None:
    """Show what there is: methods, benchmarks, backbones, suites, executors, trackers."""
    from smope_bench.harness.facts import lists
    from smope_bench.harness.registry.registry import open_registries

    if kind is opt.Kind.suites:
        rows = lists.list_suites()
    elif kind is opt.Kind.executors:
        rows = lists.list_executors(plugin or ())
    elif kind is opt.Kind.trackers:
        rows = lists.list_trackers(plugin or ())
    elif kind is opt.Kind.backbones:
        rows = lists.list_backbones(open_registries(plugin or ()), data)
    elif kind is opt.Kind.benchmarks:
        rows = lists.list_benchmarks(open_registries(plugin or ()), data)
    else:
        rows = lists.list_methods(open_registries(plugin or ()))
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    print_rows(rows, LIST_COLUMNS[kind.value])
    lines = [f"{row['name']}: {row['error']}" for row in rows if row.get("error")]
    commands = [command for row in rows if (command := _state_and_command(row)[1])]
    lines += [f"to prepare one: {commands[0]}"] if commands else []
    for line in lines:
        print(line)


@command("plan")
def plan(
    suites: opt.Suites,
    as_json: opt.AsJson = False,
    tiny: opt.Tiny = False,
    methods: opt.ChosenMethods = None,
    benchmarks: opt.ChosenBenchmarks = None,
    backbone: opt.Backbone = None,
    seeds: opt.Seeds = None,
    settings: opt.Settings = None,
    recipe: opt.Recipe = opt.RecipeName.published,
    recipe_of: opt.RecipeOf = None,
    limit: opt.Limit = None,
    precision: opt.Precision = opt.PrecisionName.fp32,
    tflops: opt.Tflops = None,
    power: opt.Power = None,
    results: opt.Results = opt.RESULTS,
    data: opt.Data = opt.DATA,
    plugin: opt.Plugins = None,
) -> None:
    """Show each run with its id, its state and what it would cost. Trains nothing."""
    from smope_bench.harness.planning.suites.find import find_suites
    from smope_bench.harness.planning.summary.power import power as seeds_for
    from smope_bench.harness.planning.summary.remarks import further_columns, remarks
    from smope_bench.harness.records.store import Store

    request = read_request(
        suites,
        RunOptions(results, data, plugins=tuple(plugin or ())),
        tiny=tiny,
        methods=methods,
        benchmarks=benchmarks,
        backbone=backbone,
        seeds=seeds,
        settings=settings,
        recipe=recipe,
        recipe_of=recipe_of,
        limit=limit,
        precision=precision,
    )
    for note in request.notes:
        print(note, file=sys.stderr)
    for name in request.counted if not as_json else ():
        print(f"{name} trains nothing: it counts parameters and operations, without data or weights.")
    if request.counted and not (request.trained or as_json):
        return
    runs, rows, registries = planned(request, tflops)
    suites_asked = find_suites(request.trained)
    references = {suite.name: suite.reference for suite in suites_asked}
    needed = [] if power is None else seeds_for(runs, Store(results), power, references)
    if as_json:
        found = rows if power is None else {"runs": rows, "power": [asdict(one) for one in needed]}
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    notes = [plain(line) for line in remarks(runs, [row["notes"] for row in rows])]
    notes += further_columns(suites_asked, request.selection, registries, data)
    notes += _precision_notes(runs)
    notes += [plain(one.words) for one in needed]
    if power is not None and not needed:
        notes.append("no spread is known yet: two class orders of two rows must have finished, as of --seeds 0,1")
    print_plan(rows, [*notes, *plan_summary(rows, registries, data).splitlines()])


def _precision_notes(runs: Sequence[PlannedRun]) -> list[str]:
    """What fp32 costs on this machine's GPUs, which the driver's tool lists without a CUDA context."""
    from smope_bench.harness.hardware.device import fp32_remark
    from smope_bench.harness.hardware.gpus import machine_gpus

    if not any(run.spec.precision == "fp32" for run in runs):
        return []
    gpus, _ = machine_gpus()
    remark = fp32_remark([gpu.name for gpu in gpus if gpu.name])
    return [f"note: {remark}"] if remark else []


def planned(request: Request, tflops: float | None = None) -> tuple[list[PlannedRun], Rows, Registries]:
    """The runs of a request, their rows (``list_plan``), and the registries that they were planned with."""
    from smope_bench.harness.execution.launcher import plan_suites
    from smope_bench.harness.records.index import IndexedStore
    from smope_bench.harness.registry.registry import uncollected

    options = request.options
    with as_user_errors(options.plugins, options.data, options.results), IndexedStore(options.results) as store:
        runs, registries = plan_suites(request.trained, request.selection, options)
        with uncollected():
            return runs, list_plan(runs, store, registries, options.data, tflops), registries


def _text(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: escape(str(row.get(key) or ""))


def _summary(row: dict[str, Any]) -> str:
    return "[red]cannot be used, see below[/]" if row.get("error") else escape(str(row["summary"]))


def _state_and_command(row: dict[str, Any]) -> tuple[str, str]:
    """``not prepared`` and the command that prepares it, which a cell would break."""
    state, _, command = str(row.get("state") or "").partition(": ")
    return state, command


def _name(row: dict[str, Any]) -> str:
    owner = "" if row.get("owner", "built-in") == "built-in" else f"\n[dim]{escape(row['owner'])}[/]"
    return f"[bold]{escape(row['name'])}[/]{owner}"


def _sources(row: dict[str, Any]) -> str:
    parts = [row.get("paper"), row.get("url"), row.get("code")]
    return "\n".join(escape(str(part)) for part in parts if part)


def _weights(row: dict[str, Any]) -> str:
    if row.get("error") or row["random"]:
        return "" if row.get("error") else "random"
    if not row["sha256"]:
        return "not prepared"
    from smope_bench.methods.common.backbone.imported import NOT_VERIFIED

    return "ready" if row["verified"] else f"ready, {NOT_VERIFIED}"


def _state(row: dict[str, Any]) -> str:
    return f"[{_STATE_STYLES[row['state']]}]{row['state']}[/]"


def _run(row: dict[str, Any]) -> str:
    more = f" +{row['runs'] - 1}" if row.get("runs", 1) > 1 else ""
    return f"{row['run_id']}{more}" if row["run_id"] else "weights missing"


def _seeds(row: dict[str, Any]) -> str:
    """The seeds of one run or of several, in the form of ``--seeds``: ``0-4``, ``0,2``, ``0:1``."""
    pairs: list[tuple[int, int]] = row.get("seeds") or [(row["order_seed"], row["train_seed"])]
    parts: list[list[int]] = []
    for order in sorted(order for order, train in pairs if order == train):
        if parts and order == parts[-1][-1] + 1:
            parts[-1].append(order)
        else:
            parts.append([order])
    alike = [f"{part[0]}-{part[-1]}" if len(part) > 2 else ",".join(map(str, part)) for part in parts]
    return ",".join([*alike, *(f"{order}:{train}" for order, train in pairs if order != train)])


def seeds_together(rows: Rows) -> Rows:
    """The rows of ``list_plan`` with runs that differ in their seeds alone as one row, which has their sums and ``seeds``."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    texts: dict[tuple[str, ...], tuple[str, ...]] = {}
    for row in rows:
        cell = row["suite"], row["row"], row["benchmark"], row["state"], str(bool(row["run_id"]))
        if cell not in texts:
            texts[cell] = tuple(text(row) for heading, text in PLAN_COLUMNS if heading not in _BY_RUN)
        groups.setdefault((*texts[cell], cell[-1]), []).append(row)
    return [_together(found) if len(found) > 1 else found[0] for found in groups.values()]


def _together(rows: Rows) -> dict[str, Any]:
    rows = list({row["run_id"] or number: row for number, row in enumerate(rows)}.values())  # suites may share runs

    def total(key: str) -> Any:
        return None if any(row[key] is None for row in rows) else sum(row[key] for row in rows)

    sums = {key: total(key) for key in ("train_image_passes", "flops", "seconds")}
    pairs = [(row["order_seed"], row["train_seed"]) for row in rows]
    return {**rows[0], **sums, "runs": len(rows), "seeds": list(dict.fromkeys(pairs))}


def _passes(row: dict[str, Any]) -> str:
    passes = row["train_image_passes"]
    return "?" if passes is None else f"{passes:,}"


def _petaflops(row: dict[str, Any]) -> str:
    return "?" if row["flops"] is None else f"{row['flops'] / 1e15:,.3g}"


def _seconds(row: dict[str, Any]) -> str:
    return "?" if row["seconds"] is None else duration(row["seconds"])


LIST_COLUMNS: dict[str, Columns] = {
    "methods": (("method", _name), ("kind", _text("kind")), ("what it is", _summary), ("paper and code", _sources)),
    "benchmarks": (
        ("benchmark", _name),
        ("what it is", _summary),
        ("images from", _text("source")),
        ("state", lambda row: _state_and_command(row)[0]),
    ),
    "backbones": (
        ("backbone", _name),
        ("what it is", _summary),
        ("px", _text("image_size")),
        ("feature", _text("feature")),
        ("weights", _weights),
    ),
    "trackers": (("tracker", _name), ("what it does", _summary)),
    "executors": (("executor", _name), ("where", _text("place")), ("what it does", _summary)),
    "suites": (("suite", _name), ("what it compares", _summary), ("methods", lambda row: str(len(row["methods"])))),
}
PLAN_COLUMNS: Columns = (
    ("run", _run),
    ("state", _state),
    ("row", lambda row: escape(row["row"])),
    ("benchmark", lambda row: escape(row["benchmark"])),
    ("seeds", _seeds),
    ("recipe", lambda row: escape(short_source(row["recipe"]))),
    ("lr", lambda row: f"{row['schedule']['lr']:g}"),
    ("epochs", lambda row: str(row["schedule"]["epochs"])),
    ("batch", lambda row: str(row["schedule"]["batch_size"])),
    ("set by hand", lambda row: escape(", ".join(plain(text) for text in row["settings"]))),
    ("image passes", _passes),
    ("PFLOP", _petaflops),
    ("time", _seconds),
)
_BY_RUN = ("run", "seeds", "image passes", "PFLOP", "time")
DROPPED_FIRST = ("image passes", "batch", "PFLOP", "epochs", "lr", "run", "recipe", "set by hand", "time")
"""Columns that a terminal may be too narrow for, in the order in which they are left out."""
GAP = 3
"""Blanks between two columns."""


def print_plan(rows: Rows, closing: Sequence[str]) -> None:
    """Print planned runs, those that differ in their seeds alone as one line, without the columns that the terminal has no room
    for; then sources and ``closing``."""
    console = make_console()
    counts = Counter(row["recipe"] for row in rows)
    rows = seeds_together(rows)
    empty = {"run": not any(row["run_id"] for row in rows), "set by hand": not any(row["settings"] for row in rows)}
    columns = [one for one in PLAN_COLUMNS if not empty.get(one[0])]
    widths = {
        heading: max(len(heading), *(cell_len(Text.from_markup(text(row)).plain) for row in rows)) + GAP
        for heading, text in columns
    }
    room = console.width if console.is_terminal else sum(widths.values())
    dropped = list(_without_room(widths, room))
    lines = [f"Too narrow for the columns {', '.join(dropped)}; --json has all."] if dropped else []
    for source, count in counts.items():
        lines += [f"recipe {plain(source)} ({counted(count, 'run')})"] if short_source(source) != source else []
    console.width = room
    fixed = {heading: width - GAP for heading, width in widths.items()} if sum(widths.values()) <= room else None
    print_rows(rows, tuple(one for one in columns if one[0] in widths), console, fixed)
    for line in (*lines, *closing):
        console.print(line, markup=False)


def _without_room(widths: dict[str, int], room: int) -> Iterator[str]:
    """Remove columns from ``widths`` until the others fit ``room``; yields their headings."""
    for heading in DROPPED_FIRST:
        if sum(widths.values()) > room and widths.pop(heading, None):
            yield heading


def short_source(source: str) -> str:
    """``NAME card`` for ``NAME card, section 7``; ``inferred`` or ``generic`` for what is explained after a colon."""
    kind, colon, _ = plain(source).partition(": ")
    return kind if colon else re.split(r"[,(]", plain(source))[0].strip()


def plan_summary(rows: Rows, registries: Registries, data: Path = opt.DATA) -> str:
    """``24 runs: 18 done, 6 new; about 2:10 min of computing, ...`` for the rows of ``list_plan``, and downloads to ``data``."""
    states = Counter(row["state"] for row in rows)
    counts = ", ".join(f"{states[state]} {state}" for state in _STATE_STYLES if states[state])
    left = {row["run_id"] or number: row for number, row in enumerate(rows) if row["state"] != "done"}
    if not left:
        return f"{counted(len(rows), 'run')}: {counts}; nothing is left to do."
    return (
        f"{counted(len(rows), 'run')}: {counts}; {_time_left(list(left.values()))}{_downloads(rows, registries, data)}"
    )


def _time_left(left: Rows) -> str:
    known = [row["seconds"] for row in left if row["seconds"] is not None]
    if not known:
        return "times are known once runs of the same kind have finished."
    guess = sum(known) * len(left) / len(known)
    rates = list(dict.fromkeys(row["throughput"] for row in left if row.get("throughput")))
    if not rates:
        return f"about {duration(guess)} of computing, divided by the workers, is left."
    time = f"{guess / 3600:,.3g} hours" if guess >= 3600 else duration(guess)
    at = " and ".join(rates)
    if all(row.get("throughput") for row in left):
        return f"about {time} of computing at {at}."
    return f"about {time} of computing is left; kinds of runs that never finished here are reckoned at {at}."


def _downloads(rows: Rows, registries: Registries, data: Path) -> str:
    """Sentence on data and weights that must be downloaded first, with the command; empty if there are none."""
    from smope_bench.harness.facts.lists import size_text
    from smope_bench.harness.planning.assets import prepare_command

    found = [need for row in rows for need in row.get("needs", ())]
    if not found:
        return ""
    needed = {need["name"]: need for need in found}
    sizes = [need["bytes"] for need in needed.values()]
    listed = ", ".join(f"{name} ({size_text(need['bytes'])})" for name, need in sorted(needed.items()))
    total = sum(size for size in sizes if size)
    more = f"; {size_text(total)} in all, and about as much again on disk once converted" if total else ""
    commands: dict[tuple[str, ...], list[str]] = {}
    for name, settings in sorted({(need["name"], tuple(need["settings"])) for need in found}):
        commands.setdefault(settings, []).append(name)
    does = " && ".join(prepare_command(names, registries, data, settings) for settings, names in commands.items())
    return f"\nto fetch first: {listed}{more}; run does it, as does {does}"


def list_plan(
    runs: Sequence[PlannedRun], store: Store, registries: Registries, data: Path, tflops: float | None = None
) -> Rows:
    """Each planned run with its state and what it would cost: passes over images, operations, and seconds.

    Seconds are the median of finished runs of the same kind, else operations at a throughput (``harness/cost/pricing.py``).
    """
    from smope_bench.harness.cost.pricing import Pricing
    from smope_bench.harness.execution.scheduler import merge_duplicates
    from smope_bench.harness.records.record import Broken, Record

    wanted = {run.run_id: run for run in merge_duplicates(runs) if not run.lacks_weights}
    states: dict[str, str] = {}

    def judged(found: Record | Broken | None, run: PlannedRun) -> str:
        return store.state_of(found, run.run_id, run.spec.fingerprint, run.observe)

    def finished() -> Iterator[Record]:  # of a hundred thousand records none is read twice or kept
        for found in store.outlines():
            if found.run_id in wanted:
                states[found.run_id] = judged(found, wanted[found.run_id])
            if isinstance(found, Record):
                yield found

    pricing = Pricing(finished(), registries, data, store.root, tflops)
    states |= {run_id: judged(None, run) for run_id, run in wanted.items() if run_id not in states}
    cells: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in runs:  # the runs of a cell differ in their seeds alone
        cell = run.suite, run.row, run.benchmark
        if cell not in cells:
            cells[cell] = _cell_row(run, pricing, registries)
    return [
        {
            "run_id": None if run.lacks_weights else run.run_id,
            # Without its weights' hash a run has no identity that a record could have.
            "state": NEEDS_WEIGHTS if run.lacks_weights else states[run.run_id],
            "suite": run.suite,
            "row": run.row,
            "method": run.method,
            "benchmark": run.benchmark,
            "order_seed": run.spec.order_seed,
            "train_seed": run.spec.train_seed,
            **cells[run.suite, run.row, run.benchmark],
        }
        for run in runs
    ]


def _cell_row(run: PlannedRun, pricing: Pricing, registries: Registries) -> dict[str, Any]:
    """The columns of ``list_plan`` that the runs of a cell have alike."""
    from smope_bench.harness.planning.summary.remarks import notes_of

    return {
        "recipe": run.recipe,
        "schedule": run.spec.schedule,
        "method_settings": run.spec.method.config,
        "benchmark_settings": run.spec.benchmark.config,
        "settings": list(run.settings),
        "notes": notes_of(run, registries, pricing.train_images),
        **pricing.price(run),
    }
