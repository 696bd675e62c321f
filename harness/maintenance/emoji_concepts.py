"""Makes the table of emoji concepts: which icon of twelve sets draws which concept, and which concepts are classes of ``emoji_r``.

Concepts are Unicode code points. Some packages list the code point of each icon; icons of the others are matched by name, and by
the aliases of all. Run it on the packages' folder: ``python -m smope_bench.harness.maintenance.emoji_concepts DIR``.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smope_bench.benchmarks.datasets.emoji_sets import SETS, TABLE, TOP, drawn, read_icons, require_renderer
from smope_bench.benchmarks.download.archives import members
from smope_bench.benchmarks.image_store.pictures import in_threads

FEWEST_SETS = 9
"""In which a concept must be to be trained on; a class is in all."""
NOT_CLASSES = {"People & Body", "Smileys & Emotion", "Symbols", "Flags"}
NOT_TRAINED = {"Symbols", "Flags"}
SYMBOLS = {"bar-chart", "bullseye", "musical-note", "sparkles"}
"""Symbols that the packages file elsewhere."""
TWINS = {
    *(
        "first-quarter-moon",
        "first-quarter-moon-face",
        "full-moon",
        "full-moon-face",
        "new-moon",
        "waxing-crescent-moon",
    ),
    *("cow-face", "horse-face", "monkey-face", "water-buffalo", "oncoming-taxi", "taxi", "clinking-beer-mugs"),
    "open-file-folder",
}
"""Concepts of which another that looks alike is a class: a whole animal and its face, phases of one moon, two cars."""
BODIES = {"cat": "catside", "dog": "dogside", "mouse": "mouseside", "pig": "pigside", "tiger": "tigerside"}
"""In fxemoji the plain name of these animals is their face."""
LOOK_ALIKE = 0.75
"""Median correlation of two concepts' drawings, grey on white, from which on one of them is no concept to train on."""
SIDE = 32


@dataclass(frozen=True)
class Package:
    """Names of a package: of its icons, what its aliases stand for, code points, and the category of icons where it has them."""

    icons: frozenset[str]
    aliases: Mapping[str, str]
    code_points: Mapping[str, str]
    categories: Mapping[str, str]


def read_package(path: Path) -> Package:
    """Read a package's archive."""
    wanted = ("icons", "chars", "metadata")
    files: dict[str, Any] = {name: {} for name in wanted}
    for member in members(path):
        name = member.name.removeprefix(f"{TOP}/").removesuffix(".json")
        if name in wanted:
            files[name] = json.loads(member.read())
    aliases = {name: alias["parent"] for name, alias in files["icons"].get("aliases", {}).items()}
    categories = {
        name: category for category, names in files["metadata"].get("categories", {}).items() for name in names
    }
    points = {point.replace("-fe0f", ""): name for point, name in files["chars"].items() if not point.startswith("e")}
    return Package(frozenset(files["icons"]["icons"]), aliases, points, categories)


def matched(packages: Mapping[str, Package]) -> dict[str, dict[str, str]]:
    """Icon names by set, by code point."""
    points_of: defaultdict[str, set[str]] = defaultdict(set)
    for package in packages.values():
        named = {name: point for point, name in package.code_points.items()}
        for name, stands_for in [*((name, name) for name in named), *package.aliases.items()]:
            if stands_for in named:
                points_of[plain(name)].add(named[stands_for])
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for set_name, package in packages.items():
        for point, name in package.code_points.items():
            found[point].setdefault(set_name, name)
        for name in [*sorted(package.icons), *sorted(package.aliases)]:
            for point in points_of.get(plain(name), ()):
                found[point].setdefault(set_name, name)
    for icons in found.values():
        if icons.get("fxemoji") in BODIES:
            icons["fxemoji"] = BODIES[icons["fxemoji"]]
    return dict(found)


def plain(name: str) -> str:
    """An icon's name without hyphens and without the number of a variant."""
    return re.sub(r"-\d$", "", name).replace("-", "")


def words_of(name: str) -> set[str]:
    """A name's runs of words: 'hot-dog' gives hot, dog and hot-dog."""
    words = name.split("-")
    return {"-".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}


def similarities(concepts: Mapping[str, Mapping[str, str]], folder: Path) -> NDArray[np.float32]:
    """Median correlation of two concepts' drawings over the sets that have both, (concepts, concepts); NaN where none has."""
    names = list(concepts)
    each = np.full((len(SETS), len(names), len(names)), np.nan, np.float32)
    for number, one in enumerate(SETS):
        rows = [row for row, name in enumerate(names) if one.name in concepts[name]]
        icons = read_icons(
            folder / one.remote().name, {names[row]: concepts[names[row]][one.name] for row in rows}
        ).values()
        white = '<rect width="1" height="1" fill="#fff"/>'
        scenes = [white + icon.group(1, (0.5, 0.5), 0, "#000") for icon in icons]
        pixels = np.stack(in_threads(lambda scene: drawn(scene, SIDE), scenes))
        each[number][np.ix_(rows, rows)] = np.corrcoef(pixels.mean(axis=-1).reshape(len(rows), -1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of pairs that no set has
        return np.nanmedian(each, axis=0)


def table(folder: Path) -> list[dict[str, str]]:
    """Rows of the table, classes first, by name."""
    require_renderer()
    packages = {one.name: read_package(folder / one.remote().name) for one in SETS}
    named: dict[str, dict[str, str]] = {}
    for _, icons in sorted(matched(packages).items()):
        if (name := icons.get("noto")) and len(icons) >= FEWEST_SETS:
            named.setdefault(name, icons)
    category = packages["noto"].categories
    everywhere = {
        name for name, icons in named.items() if len(icons) == len(SETS) and category.get(name) not in NOT_CLASSES
    }
    classes = sorted(everywhere - TWINS - SYMBOLS)
    refused = {word for name in everywhere for word in (name, name.removesuffix("-face"))}
    others = [
        name
        for name in sorted(named)
        if category.get(name, "Flags") not in NOT_TRAINED and not words_of(name) & refused and name not in everywhere
    ]
    every = [*sorted(everywhere), *others]
    alike = similarities({name: named[name] for name in every}, folder) >= LOOK_ALIKE
    kept = list(range(len(everywhere)))
    for row in range(len(everywhere), len(every)):  # unlike all classes, and unlike those kept before
        if not alike[row, kept].any():
            kept.append(row)
    others = [every[row] for row in kept[len(everywhere) :]]
    uses = [*((name, "class") for name in classes), *((name, "pretrain") for name in others)]
    return [
        {"concept": name, "use": use, "category": category.get(name, "")}
        | {one.name: named[name].get(one.name, "") for one in SETS}
        for name, use in uses
    ]


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the twelve archives")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/datasets") / TABLE)
    asked = parser.parse_args()
    rows = table(asked.folder)
    with asked.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    counts = {use: sum(row["use"] == use for row in rows) for use in ("class", "pretrain")}
    print(f"{asked.out}: {counts['class']} classes, {counts['pretrain']} concepts to train on")


if __name__ == "__main__":
    main()
