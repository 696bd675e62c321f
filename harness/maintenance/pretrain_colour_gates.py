"""The gates of the small colour backbone: frozen features see more than pixels, and prompts add to them.

Measured on training pictures of ``emoji_r`` alone, as its test is made: each family of drawings that is trained on is held out
in turn, and the others are trained on. Test pictures are never opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from smope_bench.benchmarks.datasets.emoji_r import EmojiR, EmojiRConfig
from smope_bench.harness.maintenance.pretrain_gates import (
    HEADS,
    JointRecipe,
    accuracy,
    features,
    nearest_mean,
    pixels,
    ridge,
    train_head,
)
from smope_bench.methods.common.backbone.backbones import StoredBackbone
from smope_bench.methods.common.backbone.vit import PromptedViT
from smope_bench.methods.common.prompts.prompt_mass import untrained_shares

OVER_PIXELS, GAIN, JOINT = 15.0, 8.0, 60.0
LEAST_SHARE, MOST_SHARE = 5.0, 60.0
JOINTS = (JointRecipe(epochs=4, lr=2e-2), JointRecipe(epochs=4, lr=6e-2))
"""Two rates of the prompt; the heads alone have three rates and six times the epochs."""
WATCHED = 64
"""Pictures on which the prompts' share of attention is measured."""
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def measure(weights: Path, data: Path) -> dict[str, float | list[float]]:
    """Measure and print all gates of the weights in a folder: accuracies, and the prompts' shares of attention, in percent.

    Raises BenchmarkError where ``emoji_r`` is not prepared in ``data``.
    """
    backbone = StoredBackbone("tiny_colour", "measured here", weights / "tiny_colour.json").load()
    images, labels, families = training_pictures(EmojiR(EmojiRConfig(image_size=backbone.image_size), data))
    found: dict[str, list[float]] = {}
    for family in dict.fromkeys(families):
        held = torch.tensor([one == family for one in families])
        parts = images[~held], labels[~held], images[held], labels[held]
        for name, value in rehearse(backbone, parts).items():
            found.setdefault(name, []).append(value)
        print(
            f"{family} held out: " + " ".join(f"{name} {values[-1]:.1f}" for name, values in found.items()), flush=True
        )
    chosen = torch.arange(WATCHED) * len(images) // WATCHED
    shares = [100 * share for share in untrained_shares(backbone, images[chosen])]
    means = {name: round(fmean(values), 2) for name, values in found.items()}
    shares = [round(share, 2) for share in shares]
    for name, value in (means | {"prompt_shares": shares}).items():
        print(f"{name:14} {value}")
    for name, holds in verdicts(means, shares).items():
        print(f"{name:14} {'holds' if holds else 'FAILS'}")
    return {**means, "prompt_shares": shares}


def training_pictures(benchmark: EmojiR) -> tuple[Tensor, Tensor, list[str]]:
    """Training pictures (N, 3, size, size) in [0, 1] with class numbers (N,) and the family of each."""
    train = benchmark.image_set("train")
    # A class's pictures are stored one after another, each class's families in the same turn.
    families = [one.family for one in benchmark.hands("train", benchmark.config.train_per_class)]
    if not np.array_equal(train.labels, np.repeat(np.arange(benchmark.num_classes), len(families))):
        raise ValueError("the stored pictures of emoji_r are not in the order of their classes")
    return pixels(train.images), torch.from_numpy(train.labels), families * benchmark.num_classes


def rehearse(
    backbone: PromptedViT,
    data: Data,
    heads: Sequence[JointRecipe] = HEADS,
    joints: Sequence[JointRecipe] = JOINTS,
) -> dict[str, float]:
    """Accuracies in percent on (images, labels, held-out images, labels): closed forms, head alone, prompt and head.

    Of several rates the best on the held-out images counts, for the head alone as for prompt and head.
    """
    raw = data[0].flatten(1), data[1], data[2].flatten(1), data[3]
    frozen = features(backbone, data[0]), data[1], features(backbone, data[2]), data[3]
    found = {"pixels_ridge": 100 * ridge(*raw), "ncm": 100 * nearest_mean(*frozen), "ridge": 100 * ridge(*frozen)}
    for name, recipes, prompted in (("head", heads, False), ("joint", joints, True)):
        trained = (train_head(backbone, data[0], data[1], recipe, prompted=prompted) for recipe in recipes)
        found[name] = max(accuracy(backbone, *each, data[2], data[3]) for each in trained)
    return found


def verdicts(found: Mapping[str, float], shares: Sequence[float]) -> dict[str, bool]:
    """Whether each gate holds. ``found``: accuracies of ``rehearse``; ``shares``: of the prompted blocks. In percent."""
    fitting = sum(LEAST_SHARE <= share <= MOST_SHARE for share in shares)
    return {
        "over_pixels": found["ridge"] - found["pixels_ridge"] >= OVER_PIXELS,
        "gain": found["joint"] - found["head"] >= GAIN,
        "joint": found["joint"] >= JOINT,
        "prompt_shares": 2 * fitting > len(shares),
    }
