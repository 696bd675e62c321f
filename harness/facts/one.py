"""All that is known of one method, benchmark, backbone, suite, executor, tracker or metric.

PyTorch is imported only where the file of the described thing does so, as those of methods do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.harness.console import Rows
from smope_bench.harness.errors import CLOSE, UserError
from smope_bench.harness.facts.settings import Facts, settings_of
from smope_bench.harness.registry.plugins import call_outside_code
from smope_bench.harness.text import plain, shell_command

if TYPE_CHECKING:
    from smope_bench.harness.metrics import Metric
    from smope_bench.harness.registry.registry import Registries

NEAREST = 4
"""Names offered for one that is unknown, at most."""


def find_facts(name: str, data: Path, plugins: Sequence[Path]) -> list[Facts]:
    """What is known of everything that has a name, one entry a kind. Raises UserError, with the nearest names, without any."""
    from smope_bench.benchmarks.suites import SUITES
    from smope_bench.harness.execution.executor_registry import open_executors
    from smope_bench.harness.planning.suites.find import find_suite, is_file_name
    from smope_bench.harness.registry.metrics import open_metrics
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.harness.tracking.tracker import open_trackers
    from smope_bench.methods.common.backbone.imported import imported_under

    if is_file_name(name):
        suite = find_suite(name)
        return [{"kind": "suite", "name": suite.name, **suite_facts(suite)}]
    registries, executors, trackers = open_registries(plugins), open_executors(plugins), open_trackers(plugins)
    metrics = {metric.name: metric for metric in open_metrics(plugins)}
    known: dict[str, tuple[Sequence[str], Callable[[], Facts]]] = {
        "method": (registries.methods.names(), lambda: method_facts(registries, name)),
        "benchmark": (registries.benchmarks.names(), lambda: benchmark_facts(registries, name, data)),
        "backbone": (
            [*registries.backbones.names(), *(one.name for one in imported_under(data))],
            lambda: backbone_facts(registries, name, data),
        ),
        "suite": (list(SUITES), lambda: suite_facts(SUITES[name])),
        "executor": (
            executors.names(),
            lambda: {"owner": executors.owner(name), **executor_facts(executors.load(name))},
        ),
        "tracker": (
            trackers.names(),
            lambda: {"owner": trackers.owner(name), **tracker_facts(trackers.load(name))},
        ),
        "metric": (list(metrics), lambda: metric_facts(metrics[name])),
    }
    found = []
    for kind, (names, facts) in known.items():
        if name in names:
            what = f"{kind} {plain(name)!r} cannot be described"
            found.append({"kind": kind, "name": name, **call_outside_code(facts, what)})
    if not found:
        raise UserError(
            f"nothing is called {plain(name)!r}{_nearest(name, {kind: names for kind, (names, _) in known.items()})}"
        )
    return found


def _nearest(name: str, known: Mapping[str, Sequence[str]]) -> str:
    kinds: dict[str, list[str]] = {}
    for kind, names in known.items():
        for one in names:
            kinds.setdefault(one, []).append(kind)
    close = get_close_matches(name.lower().replace("-", "_"), kinds, n=NEAREST, cutoff=CLOSE)
    offered = ", ".join(f"{one!r} ({' and '.join(kinds[one])})" for one in close)
    hint = f"; did you mean {offered}?" if close else "."
    lists = (
        f"{shell_command('list', 'methods')} (or benchmarks, backbones, suites, executors, trackers) shows the names"
    )
    return (
        f"{hint} {lists}; one of your own needs --plugin FILE.py, and a weights file has the name that a command with"
        " --backbone FILE prints."
    )


def method_facts(registries: Registries, name: str) -> Facts:
    """Card, settings, those of the schedule, and every recipe, resolved."""
    from smope_bench.methods.common.schedules import Schedule

    method = registries.methods.load(name)
    card = method.card
    return {
        "owner": registries.methods.owner(name),
        "title": card.title,
        "summary": card.summary,
        "facts": {
            "kind": {
                "method": "",
                "floor": "a floor: methods should beat it",
                "ceiling": "a ceiling",
                "adapter": "an adapter, for reference",
            }.get(card.kind, card.kind),
            "paper": [part for part in (card.paper, card.paper_url) if part],
            "code": card.code_url,
            "training": "on the images of all tasks at once" if method.trains_jointly else "",
            "frozen features": "used beside the prompted ones" if method.needs_query else "",
            "observations": ", ".join(method.observes),
        },
        "settings": settings_of(method.Config, f"{name}."),
        "schedule": settings_of(Schedule, "schedule."),
        "recipes": _recipes(method, name),
    }


def _recipes(method: Any, name: str) -> Rows:
    from smope_bench.harness.facts.recipe_text import flat, grouped, schedule_text, settings_text
    from smope_bench.methods.common.schedules import Schedule
    from smope_bench.methods.recipes import ANY, GENERIC, RECIPES

    own = [recipe for recipe in RECIPES if recipe.method == name] or [GENERIC]
    defaults = flat(method.Config.model_construct().model_dump(mode="json"))
    rows = []
    for recipe, tasks in grouped(own):
        config = method.Config(**recipe.config).model_dump(mode="json")
        schedule = Schedule(**recipe.schedule)
        changed = {key: value for key, value in flat(config).items() if defaults.get(key) != value}
        rows.append(
            {
                "benchmark": "any" if recipe.benchmark == ANY else recipe.benchmark,
                "tasks": tasks,
                "backbone": "any" if recipe.backbone == ANY else recipe.backbone,
                "source": recipe.source,
                "text": schedule_text(schedule) + (f"; {settings_text(changed)}" if changed else ""),
                "schedule": schedule.model_dump(mode="json"),
                "settings": config,
                "benchmark_settings": dict(recipe.data),
            }
        )
    return rows


def benchmark_facts(registries: Registries, name: str, data: Path) -> Facts:
    """Card, numbers of classes and images, downloads, the suites that use it, and settings."""
    from smope_bench.benchmarks.suites import SUITES
    from smope_bench.harness.facts.lists import benchmark_state, size_text

    benchmark = registries.benchmarks.load(name)
    remotes, folder = getattr(benchmark, "remotes", ()), data / name
    sizes = [remote.size for remote in remotes]
    tasks: dict[str, list[str]] = {}
    for suite in SUITES.values():
        for column in (*suite.tiny, *suite.where_prepared, *suite.full):
            if column.benchmark == name:
                count = column.config.get("tasks", benchmark.Config.model_fields["tasks"].default)
                tasks.setdefault(f"{count} tasks", []).append(suite.name)
    on_disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    owner = registries.benchmarks.owner(name)
    return {
        "owner": owner,
        "title": benchmark.card.title,
        "summary": benchmark.card.summary,
        "facts": {
            "licence": benchmark.card.licence,
            "images from": benchmark.card.source,
            "classes": _or_unknown(lambda: benchmark(benchmark.Config(), data).num_classes, owner),
            "images": _images(benchmark, data, owner),
            "download": size_text(sum(sizes) if all(sizes) else None) if remotes else "none",
            "files": [
                f"{remote.name}: {remote.digest or 'no published hash, pinned when first fetched'}"
                for remote in remotes
            ],
            "state": benchmark_state(benchmark, registries, data),
            "on disk": f"{size_text(on_disk)} in {folder}" if on_disk else "",
            "protocols in suites": [f"{count}: {', '.join(dict.fromkeys(names))}" for count, names in tasks.items()],
        },
        "settings": settings_of(benchmark.Config, "benchmark."),
    }


def _images(benchmark: Any, data: Path, owner: str) -> str:
    def counted() -> str:
        opened = benchmark(benchmark.Config(), data)
        train, test = (len(opened.image_set(split).labels) for split in ("train", "test"))
        return f"{train:,} for training, {test:,} for test"

    if benchmark.published_counts is None:
        return _or_unknown(counted, owner)
    return "{:,} for training, {:,} for test".format(*benchmark.published_counts)


def _or_unknown(read: Callable[[], Any], owner: str) -> str:
    """What can be read of images that may not be there, or need a setting first; a plugin's benchmark may raise anything."""
    try:
        return str(read())
    except Exception as error:
        if owner == "built-in" and not isinstance(error, BenchmarkError | OSError | ValidationError):
            raise
        return "known once prepared"


def backbone_facts(registries: Registries, name: str, data: Path) -> Facts:
    """Sizes, hash, where the weights come from and are looked for, and of those that are here what prompts receive."""
    from smope_bench.harness.facts.lists import size_text
    from smope_bench.harness.facts.prompt_mass import prompt_mass_facts, prompt_mass_words
    from smope_bench.harness.planning.assets import WEIGHTS, prepare_command
    from smope_bench.methods.common.backbone.backbones import BackboneSettings, WeightsMissingError
    from smope_bench.methods.common.backbone.imported import NOT_VERIFIED

    backbone = registries.backbones.load(name).at(data)
    files, hub, url = (getattr(backbone, key, None) for key in ("files", "hub", "url"))
    try:
        sha256, state = backbone.sha256, "random, from a seed" if backbone.is_random else "ready"
        state += "" if backbone.is_verified else f", {NOT_VERIFIED}"
    except WeightsMissingError:
        sha256, state = "", f"not prepared: {prepare_command([name], registries, data)}"
    downloads = data / WEIGHTS / "downloads"
    places = [f"{downloads / files[0]}" + (f", or as {', '.join(files[1:])}" if files[1:] else "")] if files else []
    places += [f"the Hugging Face cache of {hub}"] if hub else []
    places += [str(url)] if url else []
    megabytes = getattr(backbone, "megabytes", None)
    mass = prompt_mass_facts(backbone) if sha256 and not backbone.is_random else {}
    digests = [part for part in (getattr(backbone, "digest", None), *getattr(backbone, "known", ())) if part]
    return {
        "owner": registries.backbones.owner(name),
        "title": "",
        "summary": backbone.summary,
        "facts": {
            "licence": backbone.licence or "not known here: its publisher's",
            "architecture": ", ".join(f"{key} {value}" for key, value in backbone.architecture.items()),
            "input": f"{backbone.image_size} x {backbone.image_size} px",
            "normalisation": f"mean {backbone.mean}, std {backbone.std}" if backbone.mean else "",
            "feature": backbone.feature,
            "weights": state,
            "hash": f"{sha256} (of the tensors)" if sha256 and not backbone.is_random else sha256,
            "published hash": (", ".join(digests) or "none is known") if files else "",
            "download": size_text(megabytes and int(megabytes) * 10**6) if files else "none",
            "looked for in": places,
            **(prompt_mass_words(mass) if mass else {}),
        },
        "prompt_mass": mass,
        "settings": settings_of(BackboneSettings, "backbone."),
    }


def suite_facts(suite: Any) -> Facts:
    """Rows, columns, seeds, numbers of runs, and what of a paper is printed beside them."""
    from smope_bench.harness.facts.recipe_text import flat, settings_text

    printed = suite.printed
    tiny_rows = suite.tiny_rows or suite.rows
    forms = {"full": (suite.rows, suite.full), "tiny": (tiny_rows, suite.tiny)}
    runs = {
        form: 0 if suite.counts_only else len(rows) * len(columns) * len(suite.seeds)
        for form, (rows, columns) in forms.items()
    }
    return {
        "owner": suite.file or "built-in",
        "title": suite.title,
        "summary": suite.summary,
        "facts": {
            "runs": "; ".join(f"{count} in its {form} form" for form, count in runs.items() if forms[form][1]),
            "where prepared": ", ".join(column.label for column in suite.where_prepared),
            "seeds": ", ".join(map(str, suite.seeds)),
            "metrics": ", ".join(suite.metrics),
            "settings": list(suite.settings),
            "observes": ", ".join(suite.observe),
            "figures": ", ".join(dict.fromkeys(drawing.kind for drawing in suite.drawings)),
            "printed beside it": f"{printed.paper}, {printed.source or printed.table}" if printed else "",
        },
        "settings": [],
        "runs": runs,
        "rows": [_suite_row(row, settings_text(flat(row.settings))) for row in suite.rows],
        "tiny_rows": [_suite_row(row, settings_text(flat(row.settings))) for row in suite.tiny_rows],
        "columns": [
            {
                "label": column.label or column.benchmark,
                "benchmark": column.benchmark,
                "backbone": column.backbone,
                "settings": settings_text(flat(column.config)),
                "form": form,
            }
            for form, (_, columns) in forms.items()
            for column in columns
        ],
    }


def _suite_row(row: Any, settings: str) -> Facts:
    return {"label": row.label, "method": row.method, "settings": settings if row.settings else ""}


def tracker_facts(tracker: Any) -> Facts:
    """What is known of a tracker."""
    return {
        "title": "",
        "summary": tracker.summary,
        "facts": {"needs": tracker.library and f"pip install {tracker.library}"},
        "settings": [],
    }


def executor_facts(executor: Any) -> Facts:
    """Where it does runs, and the options that are for it alone."""
    return {
        "title": "",
        "summary": executor.summary,
        "facts": {"where": executor.place, "takes": ", ".join(f"--{option}" for option in executor.takes)},
        "settings": [],
    }


def metric_facts(metric: Metric) -> Facts:
    """Definition, unit and better direction."""
    facts = {"heading in tables": metric.heading, "unit": metric.unit, "better": metric.better}
    return {"title": "", "summary": metric.help, "facts": facts, "settings": []}
