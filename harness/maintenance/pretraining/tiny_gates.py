"""The gates of the tiny backbone: accurate enough on digits, and not so accurate that prompts gain nothing on glyphs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from smope_bench.benchmarks.datasets.digits import enlarged
from smope_bench.benchmarks.datasets.glyphs import CHARACTERS, RENDITIONS_MIX, Glyphs, GlyphsConfig, class_images
from smope_bench.methods.common.backbone.backbones import StoredBackbone
from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.vit.vit import PromptedViT

MIN_NCM, MIN_RIDGE, MIN_JOINT, MIN_GAIN = 0.92, 0.975, 75.0, 8.0
SPLITS = 10
RIDGE_PENALTIES = (1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True)
class JointRecipe:
    """Training of prompt and head, or of the head alone, on all glyph classes at once."""

    epochs: int = 8
    batch: int = 100
    lr: float = 6e-2
    head_lr: float = 5e-3
    weight_decay: float = 1e-3
    length: int = 25
    blocks: int = 6
    init: float = 0.5


# The head alone gets the best of several rates and three times the epochs, so that the prompt's gain is not overstated.
HEADS = tuple(JointRecipe(epochs=24, head_lr=rate) for rate in (1e-3, 4e-3, 1e-2))


def pixels(images: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, 3) -> float (N, 3, H, W) in [0, 1], the tiny backbone's input."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def features(backbone: PromptedViT, images: Tensor, prefix: Tensor | None = None) -> Tensor:
    """Class-token features (N, d), with a prefix (blocks, 2, heads, P, e) or without."""
    return torch.cat([backbone(part, _rules(prefix)) for part in images.split(500)])


def _rules(prefix: Tensor | None) -> dict[int, PlainPrefix]:
    return {} if prefix is None else {block: PlainPrefix(*pair) for block, pair in enumerate(prefix)}


def nearest_mean(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Accuracy in [0, 1] of the nearest class mean by cosine."""
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    classes = int(train_labels.max()) + 1
    means = torch.stack([train[train_labels == label].mean(0) for label in range(classes)])
    return float(((test @ F.normalize(means, dim=1).T).argmax(1) == test_labels).float().mean())


def ridge(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Accuracy in [0, 1] of ridge regression on standardised features, its penalty chosen inside the training part."""
    from sklearn.linear_model import RidgeClassifierCV

    mean, std = train.mean(0), train.std(0) + 1e-6
    model = RidgeClassifierCV(alphas=RIDGE_PENALTIES).fit((train - mean) / std, train_labels)
    return float(model.score((test - mean) / std, test_labels))


def digits_gate(backbone: PromptedViT, splits: int = SPLITS) -> dict[str, float]:
    """Mean accuracy over stratified 80/20 splits of nearest class mean and ridge on frozen features of real digits."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedShuffleSplit

    ink, found = load_digits(return_X_y=True)
    labels = torch.from_numpy(np.asarray(found)).long()
    frozen = features(backbone, pixels(enlarged(np.asarray(ink).reshape(-1, 8, 8), backbone.image_size)))
    scores = []
    for train, test in StratifiedShuffleSplit(splits, test_size=0.2, random_state=0).split(frozen, labels):
        parts = (frozen[train], labels[train], frozen[test], labels[test])
        scores.append((nearest_mean(*parts), ridge(*parts)))
    means = np.mean(scores, axis=0)
    return {"digits_ncm": float(means[0]), "digits_ridge": float(means[1])}


def _batches(count: int, recipe: JointRecipe) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(recipe.epochs):
        yield from torch.randperm(count, generator=generator).split(recipe.batch)


def train_head(
    backbone: PromptedViT, images: Tensor, labels: Tensor, recipe: JointRecipe, *, prompted: bool
) -> tuple[nn.Linear, Tensor | None]:
    """Train a linear head over the class token, with a shared prefix (Adam, cosine) or on frozen features."""
    torch.manual_seed(0)
    head = nn.Linear(backbone.feature_dim, int(labels.max()) + 1)
    groups = [{"params": list(head.parameters()), "lr": recipe.head_lr, "weight_decay": recipe.weight_decay}]
    prefix = None
    if prompted:
        shape = (recipe.blocks, 2, backbone.num_heads, recipe.length, backbone.head_dim)
        prefix = nn.Parameter(torch.randn(shape) * recipe.init)
        groups.append({"params": [prefix], "lr": recipe.lr, "weight_decay": 0.0})
    inputs = images if prompted else features(backbone, images)
    optimizer = torch.optim.AdamW(groups)
    steps = recipe.epochs * -(-len(labels) // recipe.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for rows in _batches(len(labels), recipe):
        tokens = backbone(inputs[rows], _rules(prefix)) if prompted else inputs[rows]
        loss = F.cross_entropy(head(tokens), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head, None if prefix is None else prefix.detach()


def accuracy(backbone: PromptedViT, head: nn.Linear, prefix: Tensor | None, images: Tensor, labels: Tensor) -> float:
    """Accuracy in percent."""
    with torch.no_grad():
        return 100 * float((head(features(backbone, images, prefix)).argmax(1) == labels).float().mean())


def glyphs_gate(
    backbone: PromptedViT, root: Path, config: GlyphsConfig | None = None, recipe: JointRecipe | None = None
) -> dict[str, float]:
    """Test accuracy in percent on all glyph classes at once: closed forms, head alone, prompt and head."""
    glyphs = Glyphs(config or GlyphsConfig(image_size=backbone.image_size), root)
    glyphs.prepare()
    train, test = glyphs.image_set("train"), glyphs.image_set("test")
    data = pixels(train.images), torch.from_numpy(train.labels), pixels(test.images), torch.from_numpy(test.labels)
    return _rehearse(backbone, data, recipe or JointRecipe())


def _rehearse(
    backbone: PromptedViT, data: tuple[Tensor, Tensor, Tensor, Tensor], recipe: JointRecipe
) -> dict[str, float]:
    """Accuracies in percent of closed forms, head alone, prompt and head, on (train, labels, test, labels)."""
    frozen = features(backbone, data[0]), data[1], features(backbone, data[2]), data[3]
    found = {"glyphs_ncm": 100 * nearest_mean(*frozen), "glyphs_ridge": 100 * ridge(*frozen)}
    trained = [train_head(backbone, data[0], data[1], each, prompted=False) for each in HEADS]
    found["glyphs_head"] = max(accuracy(backbone, *each, data[2], data[3]) for each in trained)
    joint = train_head(backbone, data[0], data[1], recipe, prompted=True)
    found["glyphs_joint"] = accuracy(backbone, *joint, data[2], data[3])
    return found


def severities(weights: Path, papers: Sequence[float], inks: Sequence[float]) -> None:
    """Print the accuracies under candidate renditions, from 30 training images a class for training and 10 for the score.

    A candidate shifts the grey levels of paper and ink; test images are not used.
    """
    backbone = StoredBackbone("tiny", "measured here", weights / "tiny_vit.json").load()
    labels = torch.arange(len(CHARACTERS)).repeat_interleave(40)
    held_out = torch.arange(len(labels)) % 40 >= 30
    for paper, ink in itertools.product(papers, inks):
        mix = replace(
            RENDITIONS_MIX,
            paper=tuple(grey + paper for grey in RENDITIONS_MIX.paper),
            ink=tuple(grey + ink for grey in RENDITIONS_MIX.ink),
        )
        made = [class_images(label, "train", 40, backbone.image_size, 0, mix) for label in range(len(CHARACTERS))]
        images = pixels(np.concatenate(made))
        data = images[~held_out], labels[~held_out], images[held_out], labels[held_out]
        found = _rehearse(backbone, data, JointRecipe())
        scores = " ".join(f"{name.removeprefix('glyphs_')} {value:.1f}" for name, value in found.items())
        print(
            f"paper {paper:+.2f} ink {ink:+.2f}: {scores} gain {found['glyphs_joint'] - found['glyphs_head']:.1f}",
            flush=True,
        )


def verdicts(found: dict[str, float]) -> dict[str, bool]:
    """Whether each gate holds."""
    return {
        "digits_ncm": found["digits_ncm"] >= MIN_NCM,
        "digits_ridge": found["digits_ridge"] >= MIN_RIDGE,
        "glyphs_joint": found["glyphs_joint"] >= MIN_JOINT,
        "glyphs_gain": found["glyphs_joint"] - found["glyphs_head"] >= MIN_GAIN,
    }


def measure(weights: Path) -> dict[str, float]:
    """Measure and print all gates of the weights in a folder."""
    backbone = StoredBackbone("tiny", "measured here", weights / "tiny_vit.json").load()
    found = digits_gate(backbone)
    with TemporaryDirectory() as folder:
        found |= glyphs_gate(backbone, Path(folder))
    found = {name: round(value, 4) for name, value in found.items()}
    for name, value in found.items():
        print(f"{name:14} {value:.3f}")
    for name, holds in verdicts(found).items():
        print(f"{name:14} {'holds' if holds else 'FAILS'}")
    return found


def record(found: dict[str, Any], weights: Path, name: str = "tiny_vit") -> None:
    """Write the measured gates into ``NAME.json``, the description of the weights in a folder."""
    path = weights / f"{name}.json"
    described = json.loads(path.read_text(encoding="utf-8")) | {"gates": found}
    path.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
