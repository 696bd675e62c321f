"""Pre-training of the small colour backbone: a ViT classifies emoji drawings of concepts that ``emoji_r`` does not use.

``python -m smope_bench.harness.maintenance.pretraining.colour SETS --out DIR`` trains; SETS is the folder with the twelve packages,
such as the ``downloads`` folder of a prepared ``emoji_r``. ``... colour --gates --data DIR`` measures the weights on
training pictures of ``emoji_r``, which is prepared in DIR. The model card is docs/tiny-backbone.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from smope_bench.benchmarks.datasets.emoji_r import TEST_FAMILIES, colour
from smope_bench.benchmarks.datasets.emoji_sets import (
    FAMILIES,
    SETS,
    Concept,
    Icon,
    concepts,
    drawn,
    read_icons,
    require_renderer,
)
from smope_bench.benchmarks.image_store.pictures import in_threads
from smope_bench.harness.maintenance.pretraining.tiny import WEIGHTS, PretrainRecipe, train_and_export

ARCHITECTURE: dict[str, Any] = {
    "img_size": 48,
    "patch_size": 8,
    "embed_dim": 160,
    "depth": 6,
    "num_heads": 5,
    "num_classes": 0,
}
NAME = "tiny_colour"
SHIFT, SCALE = 0.7, 0.26
"""About the mean and standard deviation of the training pixels. Without them 500 steps did not leave chance."""
RENDITIONS_A_DRAWING = 4
"""Shades of paper, places and sizes in which each icon of each set is drawn; the rest is varied from batch to batch."""


class DrawnPictures:
    """Endless training pictures: drawings kept as pixels, moved, turned, stretched and recoloured anew in each batch."""

    def __init__(self, wanted: tuple[Concept, ...], folder: Path, size: int, seed: int) -> None:
        """``folder``: of the packages; ``size``: side in pixels. Raises BenchmarkError for an archive that does not fit."""
        require_renderer()
        pictures: list[np.ndarray] = []
        labels: list[int] = []
        for number, one in enumerate(SETS):
            names = {concept.name: concept.icons[one.name] for concept in wanted if one.name in concept.icons}
            icons = read_icons(folder / one.remote().name, names)
            jobs = [
                (label, plain_scene(icons[concept.name], (seed, label, number, rendition)))
                for label, concept in enumerate(wanted)
                if concept.name in icons
                for rendition in range(RENDITIONS_A_DRAWING)
            ]
            pictures += in_threads(lambda job: drawn(job[1], size), jobs)
            labels += [label for label, _ in jobs]
        self._pictures = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
        self._labels = torch.tensor(labels)
        self._generator = Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._labels)

    def batches(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures (count, 3, size, size), of mean 0 and deviation 1, with class numbers (count,), without end."""
        while True:
            rows = torch.randint(len(self), (count,), generator=self._generator)
            pictures = varied(self._pictures[rows].float() / 255, self._generator)
            yield (pictures - SHIFT) / SCALE, self._labels[rows]


def plain_scene(icon: Icon, key: tuple[int, ...]) -> str:
    """SVG elements of one picture, seeded by ``key``: the icon in dark ink or its own colours on plain light paper.

    The scenes of ``emoji_r`` have dark paper, slopes, blots and tints besides: what a network has to adapt to.
    """
    rng = np.random.default_rng(key)
    size, angle = rng.uniform(0.55, 0.9), rng.uniform(-10, 10)
    reach = max(0.55 - size / 2, 0)
    centre = rng.uniform(0.5 - reach, 0.5 + reach), rng.uniform(0.5 - reach, 0.5 + reach)
    paper = f'<rect width="1" height="1" fill="{colour(rng.uniform(0.8, 1.0, 3))}"/>'
    return paper + icon.group(size, centre, angle, colour(rng.uniform(0.0, 0.35, 3)))


def varied(pictures: Tensor, generator: Generator) -> Tensor:
    """Pictures (n, 3, S, S) in [0, 1] turned, stretched, moved and mirrored, some of them greyed, brightened or darkened."""
    count = len(pictures)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    angle, zoom, aspect = uniform(-0.2, 0.2), uniform(0.8, 1.25), torch.exp(uniform(-0.15, 0.15))
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = [
        torch.stack([mirror * cos * aspect, -sin, uniform(-0.15, 0.15)], -1),
        torch.stack([mirror * sin * aspect, cos, uniform(-0.15, 0.15)], -1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    moved = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    greyness = torch.where(uniform(0, 1) < 0.1, uniform(0, 1), torch.zeros(count))[:, None, None, None]
    moved = moved + greyness * (moved.mean(1, keepdim=True) - moved)
    moved = moved * uniform(0.85, 1.15, 3, 1, 1) + uniform(-0.08, 0.08, 3, 1, 1)
    grain = torch.randn(moved.shape, generator=generator) * uniform(0, 0.03, 1, 1, 1)
    return (moved + grain).clamp(0, 1)


def pretrain(recipe: PretrainRecipe, sets: Path, folder: Path, *, every: int = 500, compiled: bool = True) -> None:
    """Train, and write the moving average into ``folder`` every ``every`` steps and at the end."""
    wanted = concepts("pretrain")[: recipe.classes]
    source = DrawnPictures(wanted, sets, ARCHITECTURE["img_size"], recipe.seed)
    print(f"{len(source):,} pictures of {len(wanted)} concepts", flush=True)
    seen = {"concepts": [concept.name for concept in wanted]}
    train_and_export(
        recipe,
        source,
        ARCHITECTURE,
        len(wanted),
        folder,
        seen,
        NAME,
        every=every,
        compiled=compiled,
        shift=SHIFT,
        scale=SCALE,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, or measure the gates of the weights."""
    parser = argparse.ArgumentParser(
        prog="python -m smope_bench.harness.maintenance.pretraining.colour", description=__doc__
    )
    parser.add_argument("sets", type=Path, nargs="?", help="folder with the twelve packages")
    parser.add_argument("--out", type=Path, help="folder for the weights")
    parser.add_argument("--steps", type=int, default=6_500)
    parser.add_argument("--gates", action="store_true", help="measure weights instead of training")
    parser.add_argument("--data", type=Path, default=Path("data"), help="data folder in which emoji_r is prepared")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the weights to measure")
    parser.add_argument(
        "--held-family",
        choices=[family for family in FAMILIES if family not in TEST_FAMILIES],
        help="hold out a family of drawings instead of pictures, to compare; nothing is recorded",
    )
    parser.add_argument("--record", action="store_true", help=f"also write the measured gates into {NAME}.json")
    options = parser.parse_args(arguments)
    if options.gates:
        from smope_bench.harness.maintenance.pretraining import colour_gates, tiny_gates

        found = colour_gates.measure(options.weights, options.data, options.held_family)
        if options.record and options.held_family is None:
            tiny_gates.record(found, options.weights, NAME)
    elif options.sets is None or options.out is None:
        parser.error("name the folder with the packages and, with --out, that for the weights; or give --gates")
    else:
        recipe = PretrainRecipe(steps=options.steps, classes=10_000, lr=8e-4, warmup=300)
        pretrain(recipe, options.sets, options.out)


if __name__ == "__main__":
    main()
