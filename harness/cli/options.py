"""Options of the command line: names, types and help texts. A contract with users: it grows, nothing is renamed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smope_bench.harness import text
from smope_bench.harness.errors import UserError

if TYPE_CHECKING:
    from smope_bench.harness.planning.selection import Selection
    from smope_bench.harness.planning.settings import Setting
    from smope_bench.methods.recipes import RecipeFrom


class Kind(StrEnum):
    """What can be listed."""

    methods = "methods"
    benchmarks = "benchmarks"
    backbones = "backbones"
    suites = "suites"
    executors = "executors"
    trackers = "trackers"


class DeviceName(StrEnum):
    """Where runs compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"
    xpu = "xpu"


class PrecisionName(StrEnum):
    """Number format of training."""

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"


class RecipeName(StrEnum):
    """Whose hyper-parameters a setting without a recipe gets."""

    published = "published"
    nearest = "nearest"


WHAT, WHERE, HOW = "What to run", "Where things are", "How to run"
RESULTS, DATA, REPORT = text.RESULTS, text.DATA, Path("report")


def _in(panel: str, *names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def what(*names: str, help: str, **more: Any) -> Any:
    """An option that says what to run."""
    return _in(WHAT, *names, help=help, **more)


def where(*names: str, help: str, **more: Any) -> Any:
    """An option that says where things are."""
    return _in(WHERE, *names, help=help, **more)


def how(*names: str, help: str, **more: Any) -> Any:
    """An option that says how to run."""
    return _in(HOW, *names, help=help, **more)


def suites_that_begin(incomplete: str) -> list[str]:
    """Names of suites for a shell's completion; where none fits, shells offer files."""
    from smope_bench.benchmarks.suites import SUITES

    return [name for name in SUITES if name.startswith(incomplete)]


def runs_that_begin(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of finished runs for a shell's completion, in the results folder that the line names before."""
    from smope_bench.harness.records.record import RECORD

    results = Path(context.params.get("results") or RESULTS)
    return sorted(file.parent.name for file in results.glob(f"*/{RECORD}") if file.parent.name.startswith(incomplete))


KindToList = Annotated[Kind, typer.Argument(help="What to list.")]
Suites = Annotated[
    list[str],
    typer.Argument(
        metavar="SUITE...",
        help="Suites ('list suites') or one's own files, docs/suites.md.",
        autocompletion=suites_that_begin,
    ),
]
SuitesFound = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SUITE...]",
        help="Suites or their files; all that the results folder holds, unless given.",
        autocompletion=suites_that_begin,
    ),
]
CheckTarget = Annotated[str, typer.Argument(metavar="METHOD|FILE.py", help="A method by name, or a plugin file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Watch = Annotated[bool, typer.Option("--watch", help="Show it again and again, until nothing is running.")]

Tiny = Annotated[bool, what("--tiny", help="Use small data and small weights, offline but for emoji_r.")]
Backbone = Annotated[
    str | None,
    what(
        "--backbone",
        metavar="NAME|FILE|timm:MODEL",
        help="Another than the suite's: by name, any ViT's weights file, or a model of timm's with or without tag.",
    ),
]
Methods = Annotated[
    list[str] | None, what("--methods", metavar="NAME,...", help="These methods only, or others than the suite's.")
]
Benchmarks = Annotated[
    list[str] | None, what("--benchmarks", metavar="NAME,...", help="These benchmarks instead of the suite's.")
]
ChosenMethods = Annotated[
    list[str] | None,
    what("--methods", metavar="NAME|FILE.py,...", help="These methods only, or others than the suite's."),
]
ChosenBenchmarks = Annotated[
    list[str] | None,
    what("--benchmarks", metavar="NAME|FILE.py,...", help="These benchmarks instead of the suite's."),
]
Seeds = Annotated[
    list[str] | None,
    what("--seeds", metavar="0,1|0-4|ORDER:TRAIN", help="Seeds of class order and training; one number is both."),
]
Settings = Annotated[
    list[str] | None,
    what(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting: FIELD, METHOD.FIELD, schedule.FIELD, benchmark.FIELD, backbone.FIELD or METHOD.schedule.FIELD."
        " Repeatable.",
    ),
]
Recipe = Annotated[
    RecipeName,
    what(
        "--recipe", help="nearest: a setting without a recipe takes the nearest one of its method, which tables state."
    ),
]
RecipeOf = Annotated[
    str | None,
    what(
        "--recipe-of",
        metavar="BENCHMARK[:BACKBONE]",
        help="Take each method's recipe for this benchmark, which tables state.",
    ),
]
Limit = Annotated[
    int | None,
    what("--limit", metavar="N", help="For trying out: at most N training and N test images of each class."),
]
Precision = Annotated[
    PrecisionName, what("--precision", help="Number format of products in training; tf32 on CUDA devices alone.")
]
Plugins = Annotated[
    list[Path] | None,
    what("--plugin", metavar="FILE.py", help="A file with methods, benchmarks or other additions. Repeatable."),
]
Against = Annotated[
    Path | None, what("--against", metavar="DIR", help="Also show what moved from another results folder.")
]
Merge = Annotated[
    list[str] | None,
    what(
        "--merge",
        metavar="[LABEL=]DIR",
        help="Join results folders instead, one with each --merge: a site of all their results, with who ran what where.",
    ),
]
Reference = Annotated[
    str | None,
    what("--reference", metavar="ROW", help="Compare every row with this one: its label, or its method's name."),
]
AllPairs = Annotated[bool, what("--all-pairs", help="Compare every pair of rows, too.")]
TablesOnly = Annotated[bool, what("--tables-only", help="Write tables alone: no page and no figures.")]
Mixed = Annotated[bool, what("--mixed", help="Report records of several versions of the code together, and say so.")]

Results = Annotated[Path, where("--results", metavar="DIR", help="Where records are kept.")]
Data = Annotated[Path, where("--data", metavar="DIR", help="Where prepared images are kept.")]
Out = Annotated[Path, where("--out", metavar="DIR", help="Where the page is written.")]
CostOut = Annotated[Path | None, where("--out", metavar="FILE.md", help="Also write the tables as Markdown.")]

Workers = Annotated[
    int | None,
    how(
        "--workers",
        min=1,
        help="Runs at a time; one for each GPU, else as many as cores and memory hold, unless given.",
    ),
]
Threads = Annotated[
    int | None,
    how("--threads", min=1, help="Threads of each run; 1 for small backbones, else up to 4, unless given."),
]
Device = Annotated[DeviceName, how("--device", help="Where to compute.")]
Executor = Annotated[
    str,
    how(
        "--executor",
        metavar="NAME",
        help="Where runs are done: here one by one, in processes, on a cluster; 'list executors' shows them.",
    ),
]
Address = Annotated[
    str | None, how("--address", metavar="HOST:PORT", help="An existing Ray cluster; a local one unless given.")
]
Slurm = Annotated[
    list[str] | None,
    how("--slurm", metavar="KEY=VALUE", help="For the batch system, as partition=gpu. Repeatable."),
]
GpusPerRun = Annotated[float, how("--gpus-per-run", min=0.0, help="Share of a GPU that a run on a cluster gets.")]
Gpus = Annotated[
    str | None,
    how(
        "--gpus",
        metavar="N,...",
        help="These GPUs of this machine, numbered from 0; all that CUDA shows, unless given.",
    ),
]
AllowDeviceChange = Annotated[
    bool,
    how(
        "--allow-device-change",
        help="Continue runs begun on another type of device, from their last finished task; their records say so.",
    ),
]
Deterministic = Annotated[
    bool, how("--deterministic", help="Only operations whose bits repeat, on a GPU too, where that is slower.")
]
CheckpointEvery = Annotated[
    float,
    how(
        "--checkpoint-every",
        min=0.0,
        metavar="MIN",
        help="Minutes between checkpoints inside a task; 0 is after every step.",
    ),
]
Keep = Annotated[
    bool,
    how("--keep/--no-keep", help="Keep each trained model (prompts and classifier) beside its record, for 'predict'."),
]
Extendable = Annotated[
    bool,
    how("--extendable", help="Keep what only training needs, such as class covariances, above 8 MB too, for 'extend'."),
]
Expect = Annotated[
    str | None,
    how(
        "--expect",
        metavar="stored|FILE",
        help="Compare with expected accuracies, the suite's own or a file's; exit status 1 outside their tolerance.",
    ),
]
Power = Annotated[
    float | None,
    how(
        "--power",
        min=0.01,
        max=100.0,
        metavar="POINTS",
        help="Say how many seeds a difference of so many points would need, from the spread of finished runs.",
    ),
]
Track = Annotated[
    list[str] | None,
    how(
        "--track",
        metavar="tensorboard|wandb|mlflow|csv",
        help="Also write curves and results for a viewer, below DIR/tracked; 'list trackers' shows them. Repeatable.",
    ),
]
Tflops = Annotated[
    float | None,
    how(
        "--tflops",
        min=0.001,
        metavar="N",
        help="Effective TFLOP/s to reckon times with, instead of what was measured or is assumed.",
    ),
]

BenchBackbone = Annotated[str, typer.Option("--backbone", metavar="NAME|FILE|timm:MODEL", help="What to time on.")]
BenchBatch = Annotated[int, typer.Option("--batch", min=1, help="Images a step.")]
BenchImages = Annotated[int, typer.Option("--images", min=2, max=100_000, help="Pictures that are made and timed on.")]
BenchBatches = Annotated[int, typer.Option("--batches", min=2, max=10_000, help="Batches of an epoch.")]
BenchTests = Annotated[int, typer.Option("--images", min=1, max=10_000, help="Test images a task.")]
BenchRepeats = Annotated[int, typer.Option("--repeats", min=1, help="How often each is timed, after a warm-up.")]
BenchFinished = Annotated[
    int, typer.Option("--finished", min=0, max=9, help="Tasks that are finished before the timed step, of ten.")
]
BenchPlans = Annotated[
    bool, typer.Option("--plans", help="Also time methods' steps as runs short of memory take them, by recomputation.")
]
BenchCompile = Annotated[bool, typer.Option("--compile", help="Also time every step with blocks compiled by torch.")]
BenchOut = Annotated[Path | None, where("--out", metavar="FILE.json", help="Keep the measurement.")]
BenchAgainst = Annotated[Path | None, where("--against", metavar="FILE.json", help="Compare with a kept measurement.")]
BenchWorkers = Annotated[
    int | None, typer.Option("--workers", min=2, help="Workers at a time; the cores, at least two, unless given.")
]
BenchRuns = Annotated[int, typer.Option("--runs", min=2, max=100_000, help="Empty runs that are dispatched.")]
BenchRecord = Annotated[
    bool, typer.Option("--record", help="Keep the throughput in the results folder, for 'plan' to go by.")
]


def split_values(values: Iterable[str] | None) -> tuple[str, ...]:
    """``["a,b", "c"]`` -> ``("a", "b", "c")``: an option may be repeated, list values, or both; repeats count once."""
    parts = (part.strip() for value in values or () for part in value.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def read_gpus(text: str | None) -> tuple[int, ...]:
    """The numbers of ``--gpus``. Raises UserError."""
    parts = [part.strip() for part in text.split(",")] if text is not None else []
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise UserError(f"--gpus {text!r}: write distinct numbers from 0, separated by commas, for example --gpus 0,2.")
    return tuple(int(part) for part in parts)


def read_recipe(recipe: RecipeName, recipe_of: str | None) -> RecipeFrom | None:
    """Where ``--recipe`` and ``--recipe-of`` take recipes from. Raises UserError."""
    from smope_bench.methods.recipes import RecipeFrom

    if recipe_of is None:
        return RecipeFrom() if recipe is RecipeName.nearest else None
    if recipe is RecipeName.nearest:
        raise UserError(f"--recipe nearest and --recipe-of {recipe_of} contradict each other: leave one out.")
    benchmark, colon, backbone = recipe_of.partition(":")
    if not benchmark or (colon and not backbone):
        raise UserError(
            f"--recipe-of {recipe_of!r} is not BENCHMARK or BENCHMARK:BACKBONE, for example imagenet_r:sup1k."
        )
    return RecipeFrom(benchmark, backbone or None)


def read_settings(settings: Sequence[str] | None, limit: int | None) -> tuple[Setting, ...]:
    """The texts of ``--set``, and ``--limit`` as the setting that it is. Raises UserError."""
    from smope_bench.harness.planning.settings import parse_setting

    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} leaves no image: give 1 or more images a class.")
    if limit is not None and (other := next((text for text in settings or () if _limits(text)), None)):
        raise UserError(f"--limit {limit} and --set {other} contradict each other: leave one out.")
    texts = [*(settings or ()), *([] if limit is None else [f"benchmark.limit={limit}"])]
    return tuple(parse_setting(text) for text in texts)


def _limits(text: str) -> bool:
    return text.partition("=")[0].replace(" ", "") == "benchmark.limit"


def read_selection(
    tiny: bool = False,
    methods: Sequence[str] | None = None,
    benchmarks: Sequence[str] | None = None,
    seeds: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
    precision: PrecisionName = PrecisionName.fp32,
    recipe: RecipeName = RecipeName.published,
    recipe_of: str | None = None,
    limit: int | None = None,
    backbone: str | None = None,
) -> Selection:
    """The options that select runs of a suite, parsed. Raises UserError."""
    from smope_bench.harness.planning.selection import Selection
    from smope_bench.harness.planning.settings import parse_seeds

    pairs = tuple(parse_seeds(seeds)) if seeds else ()
    if seeds and not pairs:
        raise UserError(f"--seeds {','.join(seeds)} names no seed: give numbers such as 0,1,2 or a range such as 0-4.")
    return Selection(
        tiny=tiny,
        methods=split_values(methods),
        benchmarks=split_values(benchmarks),
        seeds=pairs,
        settings=read_settings(settings, limit),
        precision=precision.value,
        backbone=backbone,
        recipe=read_recipe(recipe, recipe_of),
    )
