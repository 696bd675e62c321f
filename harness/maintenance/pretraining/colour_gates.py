"""The gates of the small colour backbone: frozen features see more than pixels, and prompts add to them.

Measured on training pictures of ``emoji_r`` alone: of each class some are held out, other scenes of the same drawings, and the
rest is trained on. Test pictures are never opened. A family of drawings can be held out instead, for comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from smope_bench.benchmarks.datasets.emoji_r import EmojiR, EmojiRConfig
from smope_bench.harness.maintenance.pretraining.tiny_gates import (
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
from smope_bench.methods.common.prompts.prompt_mass import untrained_shares
from smope_bench.methods.common.vit.vit import PromptedViT

OVER_PIXELS, GAIN, JOINT = 15.0, 8.0, 60.0
LEAST_SHARE, MOST_SHARE = 5.0, 60.0
PICTURES, HELD_OUT = 96, 24
"""Training pictures of each class, and how many of them, the last ones, are held out."""
JOINTS = (JointRecipe(epochs=10, lr=1e-1),)
"""One rate of prompt and head; the heads alone have three rates and more than twice the epochs."""
WATCHED = 64
"""Pictures on which the prompts' share of attention is measured."""
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def measure(weights: Path, data: Path, family: str | None = None) -> dict[str, float | list[float]]:
    """Measure and print all gates of the weights in a folder: accuracies, and the prompts' shares of attention, in percent.

    ``family``: hold out all pictures of this family of drawings instead, for comparison with the gates.
    Raises BenchmarkError where ``emoji_r`` is not prepared in ``data`` with ``PICTURES`` training pictures a class.
    """
    backbone = StoredBackbone("tiny_colour", "measured here", weights / "tiny_colour.json").load()
    config = EmojiRConfig(image_size=backbone.image_size, train_per_class=PICTURES)
    images, labels, families = training_pictures(EmojiR(config, data))
    if family is None:
        held = torch.arange(len(images)) % PICTURES >= PICTURES - HELD_OUT
    else:
        held = torch.tensor([one == family for one in families])
    found = rehearse(backbone, (images[~held], labels[~held], images[held], labels[held]))
    accuracies = {name: round(value, 2) for name, value in found.items()}
    chosen = torch.arange(WATCHED) * len(images) // WATCHED
    shares = [round(100 * share, 2) for share in untrained_shares(backbone, images[chosen])]
    for name, value in (accuracies | {"prompt_shares": shares}).items():
        print(f"{name:14} {value}")
    for name, holds in verdicts(accuracies, shares).items():
        print(f"{name:14} {'holds' if holds else 'FAILS'}")
    return {**accuracies, "prompt_shares": shares}


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
