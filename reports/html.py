"""The page: one HTML file that needs no network and no neighbour. All text is escaped by the template."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from reports.figure_style import FigureFile
from reports.model import KINDS, Column, SuiteResults
from reports.present import (
    CELL_HELP,
    KIND_HELP,
    KIND_NAMES,
    METRIC_HELP,
    METRIC_NAMES,
    METRICS,
    RUN_WORDS,
    counts_text,
    notes,
    number,
    runs_text,
    seeds_text,
    show,
    tasks_text,
)
from reports.provenance import Environments, cost_lines, version_line
from reports.runs import drill_down, problems_by_row


@dataclass(frozen=True)
class Section:
    """A suite and its figures, by benchmark."""

    results: SuiteResults
    figures: Sequence[tuple[Column, Sequence[FigureFile]]]

    @property
    def all_figures(self) -> list[FigureFile]:
        """The figures of all benchmarks."""
        return [figure for _, group in self.figures for figure in group]


@dataclass(frozen=True)
class Download:
    """A file that travels inside the page."""

    name: str
    media_type: str
    text: str

    @property
    def uri(self) -> str:
        """The file as a data URI."""
        return f"data:{self.media_type};charset=utf-8;base64,{base64.b64encode(self.text.encode()).decode()}"


def render_page(sections: Sequence[Section], downloads: Sequence[Download]) -> str:
    """The whole page as text. It forbids itself every outside resource and every script but its own."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["tasks_text"] = tasks_text
    template = environment.from_string(_resource("page.html.j2"))
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    suites = [section.results for section in sections]
    return template.render(
        css=Markup(_resource("page.css")),
        script=Markup(script),
        script_hash=digest,
        title=suites[0].title if len(suites) == 1 else f"{len(suites)} suites: {', '.join(s.suite for s in suites)}",
        newest=max((suite.newest or "" for suite in suites), default=""),
        versions=version_line([outcome for suite in suites for outcome in suite.outcomes]),
        suites=[_suite_view(section, f"s{i}") for i, section in enumerate(sections, 1)],
        downloads=downloads,
        metrics=[(METRIC_NAMES[metric], METRIC_HELP[metric]) for metric in METRICS],
    )


def inline_svg(figure: FigureFile) -> Markup:
    """A figure for the page: named for those who do not see it, with ids that no other figure has."""
    body = figure.svg[figure.svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style type=.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"\n\s*\n+", "\n", body)
    body = re.sub(r'\bid="', f'id="{figure.name}-', body)
    body = re.sub(r'((?:xlink:)?href="|url\()#', rf"\1#{figure.name}-", body)
    # A thousandth of a point is finer than any screen, and a third of the page's weight lies beyond it.
    body = re.sub(r"(\.\d{3})\d+", r"\1", body)
    head = re.search(r'viewBox="([^"]*)"', body)
    box = head.group(1) if head else "0 0 100 100"
    inner = body[body.index(">") + 1 :]
    return Markup('<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{}" role="img" aria-label="{}">{}').format(
        box, figure.alt, Markup(inner)
    )


def _resource(name: str) -> str:
    return files("reports").joinpath(name).read_text(encoding="utf-8")


def _suite_view(section: Section, key: str) -> dict[str, object]:
    results = section.results
    environments = Environments(results.outcomes, key)
    return {
        "key": key,
        "results": results,
        "counts": results.counts(),
        "counts_text": counts_text(results),
        "words": RUN_WORDS,
        "headlines": [line for column in results.columns if (line := _headline(results, column))],
        "groups": [_group_view(results, kind, key) for kind in KINDS if results.rows_of(kind)],
        "heads": [(METRIC_NAMES[metric], METRIC_HELP[metric], metric) for metric in METRICS],
        "notes": notes(results),
        "problems": problems_by_row(results),
        "figures": [
            (column, [(figure, inline_svg(figure)) for figure in figures]) for column, figures in section.figures
        ],
        "costs": cost_lines(results),
        "environments": environments.listed,
        "drill": drill_down(results, key, environments),
        "seeds_text": seeds_text,
    }


def _group_view(results: SuiteResults, kind: str, key: str) -> dict[str, object]:
    rows = []
    ranks = [{metric: results.ranks(column, metric) for metric in METRICS} for column in results.columns]
    for i, row in enumerate(results.rows, 1):
        if row.kind != kind:
            continue
        cells = []
        for j, column in enumerate(results.columns, 1):
            cell = results.cell(row, column)
            shown = [(metric, show(cell, metric, ranks[j - 1][metric])) for metric in METRICS]
            cells.append(
                {"anchor": f"{key}-c{i}-{j}", "shown": shown, "runs": runs_text(cell), "n": len(cell.used),
                 "state": cell.state, "help": cell.note or CELL_HELP[cell.state]}
            )  # fmt: skip
        # Only a web address may become a link: any other scheme could run what it carries.
        url = row.url if row.url and re.match(r"https?://", row.url) else None
        rows.append({"row": row, "url": url, "cells": cells})
    return {"name": KIND_NAMES[kind], "help": KIND_HELP[kind], "rows": rows}  # pyright: ignore[reportArgumentType]


def _headline(results: SuiteResults, column: Column) -> str | None:
    """Who leads and how far the ceiling is, in one sentence that claims no significance."""
    ranks = results.ranks(column, "faa")
    leaders = [label for label, place in ranks.items() if place == 1]
    if len(leaders) != 1:
        return None
    means = {
        cell.row.label: summary.mean
        for cell in results.cells_of(column)
        if (summary := cell.summary("faa")) is not None
    }
    said = (
        f"{column.label}: {leaders[0]} has the highest mean FAA of the sequential rows, {number(means[leaders[0]])} %"
    )
    seconds = [label for label, place in ranks.items() if place == 2]
    if seconds:
        gap = means[leaders[0]] - max(means[label] for label in seconds)
        said += f", {number(gap)} points above {' and '.join(seconds)}"
    tops = [(means[row.label], row.label) for row in results.rows_of("ceiling") if row.label in means]
    if tops:
        said += f"; {max(tops)[1]}, trained on all classes at once, reaches {number(max(tops)[0])} %"
    return said + "."
