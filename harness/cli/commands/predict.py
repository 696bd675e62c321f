"""The commands ``predict``, ``predictions`` and ``export``: what a finished run learnt, and how to use it."""

from __future__ import annotations

import csv
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smope_bench.harness.cli import options as opt
from smope_bench.harness.cli.command import command
from smope_bench.harness.errors import UserError

if TYPE_CHECKING:
    from smope_bench.harness.trained.answers import Answers
    from smope_bench.harness.trained.model import Predictions

SHOWN = 3
"""Classes of a picture in the table of ``predict``."""


class Form(StrEnum):
    """Form in which stored predictions are printed."""

    classes = "classes"
    csv = "csv"
    confusion = "confusion"
    tasks = "tasks"
    json = "json"


Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's id or its beginning, or a folder that 'export' wrote.",
        autocompletion=opt.runs_that_begin,
    ),
]
RunOrAll = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="A run's id or its beginning.", autocompletion=opt.runs_that_begin),
]
Pictures = Annotated[list[Path], typer.Argument(metavar="IMAGE...|FOLDER", help="Pictures, or folders of pictures.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV with the probability of every class.")]
As = Annotated[
    Form,
    typer.Option(
        "--as",
        help="classes: accuracy of each; csv: image by image; confusion, tasks: of classes or tasks, CSV; json.",
    ),
]
To = Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder that is written.")]


@command("predict")
def predict(
    run: Run,
    images: Pictures,
    as_csv: AsCsv = False,
    as_json: opt.AsJson = False,
    plugin: opt.Plugins = None,
    device: opt.Device = opt.DeviceName.auto,
    results: opt.Results = opt.RESULTS,
    data: opt.Data = opt.DATA,
) -> None:
    """Name the classes of pictures by the trained model of a run, with probabilities."""
    if as_csv and as_json:
        raise UserError("--csv and --json contradict each other: leave one out.")
    from smope_bench.harness.registry.registry import uncollected

    with uncollected():
        from smope_bench.harness.trained.model import load_model

        model = load_model(run, results=results, data=data, plugins=plugin or (), device=device.value)
        is_of_this_code = model.is_of_this_code
    if not is_of_this_code:
        print(
            f"note: run {model.run_id} was trained by another version of the code; its predictions may differ a little",
            file=sys.stderr,
        )
    found = model.predict(list(images))
    if as_json:
        print(json.dumps(_as_json(found), indent=2, ensure_ascii=False))
    elif as_csv:
        _print_csv(found)
    else:
        _print_table(found)


@command("predictions")
def predictions(run: RunOrAll = None, form: As = Form.classes, results: opt.Results = opt.RESULTS) -> None:
    """Print what a finished run predicted for its test images after the last task: by class, by image or as confusion.

    Tasks count from 1.

    Without RUN, list the finished runs with their ids.
    """
    from smope_bench.harness.trained.answers import read_answers

    if run is None:
        _print_runs(results)
        return
    answers = read_answers(run, results)
    if form is Form.classes:
        _print_classes(answers)
        return
    if form is Form.json:
        print(json.dumps(_answers_json(answers), indent=2, ensure_ascii=False))
        return
    rows = csv.writer(sys.stdout, lineterminator="\n")
    names = answers.class_names
    if form is Form.confusion:
        rows.writerow(["true \\ predicted", *names])
        rows.writerows([name, *counts] for name, counts in zip(names, answers.confusion().tolist(), strict=True))
        return
    if form is Form.tasks:
        confusion = answers.task_confusion().tolist()
        rows.writerow(["task \\ predicted", *range(1, len(confusion) + 1)])
        rows.writerows([task, *counts] for task, counts in enumerate(confusion, start=1))
        return
    rows.writerow(["image", "task", "true", "predicted", "correct"])
    columns = zip(answers.task.tolist(), answers.true.tolist(), answers.predicted.tolist(), strict=True)
    for image, (task, true, predicted) in enumerate(columns):
        known = names[predicted] if predicted >= 0 else ""
        rows.writerow([image, task + 1, names[true], known, int(true == predicted)])


@command("export")
def export(
    run: Run,
    to: To,
    plugin: opt.Plugins = None,
    results: opt.Results = opt.RESULTS,
    data: opt.Data = opt.DATA,
) -> None:
    """Write the trained model of a run to a folder: weights, classes, preprocessing, model card and a program that loads it."""
    from smope_bench.harness.registry.registry import open_registries, uncollected
    from smope_bench.harness.trained.export import export_model
    from smope_bench.harness.trained.find import find_model

    plugins = tuple(plugin or ())
    kept = find_model(run, results)
    with uncollected():
        names = export_model(kept, open_registries(plugins), to, data, plugins=plugins)
    print(f"{to}: {', '.join(names)}")


def _as_json(found: Predictions) -> list[dict[str, object]]:
    return [
        {
            "image": name,
            "class": label,
            "probability": float(row.max()),
            "probabilities": dict(zip(found.class_names, map(float, row), strict=True)),
        }
        for name, label, row in zip(found.names, found.classes, found.probabilities, strict=True)
    ]


def _print_csv(found: Predictions) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["image", "class", "probability", *found.class_names])
    for name, label, row in zip(found.names, found.classes, found.probabilities, strict=True):
        rows.writerow([name, label, f"{row.max():.6f}", *(f"{value:.6f}" for value in row)])


def _print_table(found: Predictions) -> None:
    from rich.markup import escape

    from smope_bench.harness.console import print_rows
    from smope_bench.harness.text import plain

    rows = []
    for name, probabilities in zip(found.names, found.probabilities, strict=True):
        best = probabilities.argsort()[::-1][:SHOWN]
        shown = [f"{plain(found.class_names[label])} {probabilities[label]:.1%}" for label in best]
        rows.append({"image": plain(name), "class": shown[0], "then": ", ".join(shown[1:])})
    print_rows(
        rows,
        (
            ("image", lambda row: escape(row["image"])),
            ("class", lambda row: escape(row["class"])),
            ("then", lambda row: escape(row["then"])),
        ),
    )


def _print_runs(results: Path) -> None:
    from rich.markup import escape

    from smope_bench.benchmarks.disk import shown_bytes
    from smope_bench.harness.console import print_rows
    from smope_bench.harness.metrics import final_average_accuracy
    from smope_bench.harness.records.record import Record
    from smope_bench.harness.records.store import Store
    from smope_bench.harness.text import plain

    rows = [
        {
            "id": record.run_id,
            "method": plain(record.spec["method"]["name"]),
            "benchmark": plain(record.spec["benchmark"]["name"]),
            "backbone": plain(record.spec["backbone"]["name"]),
            "seeds": f"{record.spec['order_seed']}:{record.spec['train_seed']}",
            "faa": f"{final_average_accuracy(record.result['accuracy_matrix']):.2f} %",
            "model": shown_bytes(record.kept_model["bytes"]) if record.kept_model else "not kept",
        }
        for record in Store(results).scan()
        if isinstance(record, Record)
    ]
    if not rows:
        raise UserError(f"{str(results)!r} has no finished run; name another folder with --results DIR")
    headings = {"id": "run", "seeds": "order:train", "faa": "final accuracy", "model": "trained model"}
    print_rows(rows, tuple((headings.get(key, key), lambda row, key=key: escape(row[key])) for key in rows[0]))


def _print_classes(answers: Answers) -> None:
    from rich.markup import escape

    from smope_bench.harness.console import print_rows
    from smope_bench.harness.text import plain

    rows = [
        {"class": plain(name), "images": str(count), "accuracy": f"{accuracy:.1f} %"}
        for name, count, accuracy in answers.per_class()
    ]
    print_rows(
        rows,
        (
            ("class", lambda row: escape(row["class"])),
            ("test images", lambda row: row["images"]),
            ("accuracy", lambda row: row["accuracy"]),
        ),
    )


def _answers_json(answers: Answers) -> dict[str, object]:
    return {
        "run_id": answers.run_id,
        "class_names": list(answers.class_names),
        "true": answers.true.tolist(),
        "predicted": answers.predicted.tolist(),
        "task": (answers.task + 1).tolist(),
        **({} if answers.has_domains else {"confusion_of_tasks": answers.task_confusion().tolist()}),
        "accuracy_of_classes": {name: accuracy for name, _, accuracy in answers.per_class()},
        "confusion": answers.confusion().tolist(),
    }
