"""Draws the contact sheet of ``emoji_r`` for the documentation: concepts in the sets that may be shown without sharing alike.

``python -m smope_bench.harness.maintenance.emoji_sheet SETS`` writes docs/gallery/emoji.png; SETS is the folder with the packages.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from smope_bench.benchmarks.datasets.emoji_r import TEST_FAMILIES, scene
from smope_bench.benchmarks.datasets.emoji_sets import SETS, concepts, drawn, read_icons, require_renderer

SHOWN = ("airplane", "bicycle", "cactus", "crown", "elephant", "guitar", "hamburger", "octopus", "rocket", "snail")
"""Classes of the sheet."""
SIDE = 72
"""Pixels of a picture's side."""


def draw_sheet(folder: Path, out: Path, names: Sequence[str] = SHOWN) -> None:
    """Write the sheet as PNG, a row a set. Raises BenchmarkError for an archive that does not fit, or another renderer."""
    require_renderer()
    free = [one for one in SETS if not one.licence.startswith("CC-BY-SA")]
    wanted = [concept for concept in concepts("class") if concept.name in names]
    rows = []
    for number, one in enumerate(free):
        icons = read_icons(folder / one.remote().name, {concept.name: concept.icons[one.name] for concept in wanted})
        cells = [drawn(scene(icons[concept.name], (1, number, place)), SIDE) for place, concept in enumerate(wanted)]
        rows.append(np.concatenate(cells, axis=1))
    pixels = np.concatenate(rows)
    figure = Figure(figsize=(pixels.shape[1] / 100 + 2.4, pixels.shape[0] / 100 + 0.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(pixels, interpolation="none")
    axes.set_xticks([SIDE * (place + 0.5) for place in range(len(wanted))], [one.name for one in wanted], fontsize=8)
    split = {one.name: "test" if one.family in TEST_FAMILIES else "train" for one in free}
    labels = [f"{one.name}\n{one.licence}, {split[one.name]}" for one in free]
    axes.set_yticks([SIDE * (place + 0.5) for place in range(len(free))], labels, fontsize=7)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Draw from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", type=Path, help="folder with the twelve packages")
    parser.add_argument("--out", type=Path, default=Path("docs/gallery/emoji.png"))
    options = parser.parse_args()
    draw_sheet(options.sets, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
