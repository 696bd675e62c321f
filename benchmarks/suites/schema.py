"""Fields of a suite, and rows and columns that several suites share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row of the table: a method, with the settings that make it differ from its recipe.

    ``settings``: fields of the method and, by themselves or under ``schedule``, of the schedule.
    """

    label: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""
    """The row's name in the file of published results where a paper prints several rows of one method."""
    line: int = field(default=0, compare=False)
    """In the suite's file, from 1; 0 for the project's own suites."""


@dataclass(frozen=True)
class Column:
    """A column group of the table: a benchmark with its settings and the backbone it is run on.

    ``label``: empty for a column of a file that is named by its resolved configuration.
    """

    label: str
    benchmark: str
    config: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "tiny"
    printed_backbone: str = ""
    """The weights' name in the file of published results, where it is another."""
    line: int = field(default=0, compare=False)
    """In the suite's file, from 1; 0 for the project's own suites."""


@dataclass(frozen=True)
class Printed:
    """The table of a paper with a suite's numbers, by the names of the file of published results."""

    paper: str
    table: str
    source: str = ""
    """Description of the numbers if they are not from a table of the paper."""


@dataclass(frozen=True)
class Drawing:
    """A figure of a paper: the name of its kind, and the method's settings (dotted names) along its axes where it varies some.

    ``x_label``, ``y_label``: axis labels; the settings' names if empty.
    """

    kind: str
    x: str = ""
    y: str = ""
    x_label: str = ""
    y_label: str = ""


@dataclass(frozen=True)
class Suite:
    """A comparison. ``tiny`` columns run on small data and weights that come with the installation, or on ``emoji_r``, a
    small download; ``full`` ones are of the papers' scale."""

    name: str
    title: str
    summary: str
    rows: tuple[Row, ...]
    tiny: tuple[Column, ...]
    full: tuple[Column, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    is_tiny_only: bool = False
    """Whether the suite has no full form and always runs tiny."""
    settings: tuple[str, ...] = ()
    """Settings of every row that has the field, written as on the command line."""
    observe: tuple[str, ...] = ()
    """Observations of each run that figures need, by their names in methods and trainer."""
    printed: Printed | None = None
    """The papers' tables of the suite; ``None`` for figures and rehearsals."""
    metrics: tuple[str, ...] = ("faa", "caa")
    """Metrics of a cell in the paper's table, by name; the form of forgetting is the one that the paper prints."""
    drawings: tuple[Drawing, ...] = ()
    """The paper's figures, in addition to those of every suite."""
    counts_only: bool = False
    """Whether the suite only counts parameters and operations of its rows."""
    tiny_rows: tuple[Row, ...] = ()
    """Rows of the tiny form if they differ from the full form's; empty = the same rows."""
    reference: str = ""
    """Label of the row that the suite is about, with which reports compare the others; empty where there is none."""
    where_prepared: tuple[Column, ...] = ()
    """Columns that the tiny form has besides where their images are in the data folder, because they need a download."""
    file: str = field(default="", compare=False)
    """The path of the user's file as it was given; empty for the project's own suites."""


ALIGNED: dict[str, Any] = {"tap": {"enabled": True}}

L2P = Row("L2P++", "l2p++")
DEEP_L2P = Row("Deep L2P++", "deep_l2p++")
DUALPROMPT = Row("DualPrompt", "dualprompt")
CODA = Row("CODA-Prompt", "coda_prompt")
OVOR = Row("OVOR", "ovor")
HIDE = Row("HiDe-Prompt", "hide_prompt")
NORGA = Row("NoRGa", "norga")
VQ = Row("VQ-Prompt", "vq_prompt")
HASH = Row("Hash", "hash_prompt")
SMOPE = Row("SMoPE", "smope")
CPG = Row("CPG", "cpg")
JOINT_HEAD = Row("Joint (head)", "joint_head")
JOINT = Row("Joint (prompt + head)", "joint")

FLOORS = (
    Row("Linear probe", "linear_probe"),
    Row("Linear probe + TAP", "linear_probe", ALIGNED),
    Row("One prompt", "one_prompt"),
    Row("One prompt + TAP", "one_prompt", ALIGNED),
    Row("Nearest class mean", "ncm"),
    Row("Ridge", "ridge"),
)
REFERENCES = (
    Row("RanPAC", "ranpac"),
    Row("RanPAC + first-task prompt", "ranpac", {"first_task_tuning": True}),
    Row("EASE", "ease"),
    Row("InfLoRA", "inflora"),
    Row("SD-LoRA", "sd_lora"),
)
CEILINGS = (JOINT_HEAD, JOINT)
METHODS = (L2P, DEEP_L2P, DUALPROMPT, CODA, OVOR, HIDE, NORGA, VQ, HASH, SMOPE, CPG)
ZOO = METHODS + FLOORS + REFERENCES + CEILINGS

DIGITS_5 = Column("digits, 5 tasks", "digits", {"tasks": 5})
DIGITS_2 = Column("digits, 2 tasks", "digits", {"tasks": 2})
GLYPHS_10 = Column("glyphs, 10 tasks", "glyphs", {"tasks": 10})
GLYPH_DOMAINS = Column(
    "glyphs in renditions", "glyph_domains", {"classes": 20, "train_per_class": 20, "test_per_class": 10}
)
GLYPHS_RANDOM = Column("glyphs, 10 tasks, RANDOM weights", "glyphs", {"tasks": 10}, "tiny_random")

EMOJI_10 = Column("emoji, 10 tasks", "emoji_r", {"tasks": 10}, "tiny_colour")

SMALL_SETS = Column("digits, letters, renditions", "small_sets", {"tasks": 3, "class_order": "natural"})

CIFAR_10 = Column("CIFAR-100, 10 tasks", "cifar100", {"tasks": 10}, "sup1k")
CUB_10 = Column("CUB-200, 10 tasks", "cub200", {"tasks": 10}, "sup21k")


def glyphs(tasks: int) -> Column:
    """The tiny stand-in for ImageNet-R in a number of tasks."""
    return Column(f"glyphs, {tasks} tasks", "glyphs", {"tasks": tasks})


def imagenet_r(tasks: int, backbone: str = "sup1k", weights: str = "") -> Column:
    """ImageNet-R in a number of tasks; ``weights`` names the backbone in a table with several."""
    return Column(f"ImageNet-R, {tasks} tasks{weights and f', {weights}'}", "imagenet_r", {"tasks": tasks}, backbone)
