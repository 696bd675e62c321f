"""Pre-training of the tiny backbone: a small ViT classifies rendered characters that no benchmark uses.

``python -m smope_bench.harness.maintenance.pretraining.tiny --out DIR`` trains, and the same with ``--gates`` measures the
committed weights. The model card is docs/tiny-backbone.md.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from smope_bench.benchmarks.datasets.glyph_rendering import Draws, Mix, faces_with, mask_stack, render
from smope_bench.harness.maintenance.pretraining.tiny_classes import pretraining_characters

ARCHITECTURE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 4,
    "num_classes": 0,
}
WEIGHTS = Path(__file__).parents[3] / "methods" / "common" / "backbone" / "weights"

# Mostly solid glyphs under mild corruption, so that the benchmark's renditions still need adaptation.
TRAINING_MIX = Mix(
    kinds=(0.52, 0.03, 0.03, 0.03, 0.29, 0.10),
    strength=(0.3, 0.8),
    invert=0.15,
    clutter=(0.0, 0.03),
    rotation=15.0,
    scale=(0.75, 1.35),
    aspect=0.2,
    shear=0.2,
    weight=(0.2, 0.65),
    elastic=(0.0, 0.09),
    blur=0.8,
    paper=(0.0, 0.2),
    ink=(0.6, 1.0),
    tint=0.2,
)


@dataclass(frozen=True)
class PretrainRecipe:
    """Everything that the weights depend on, apart from fonts and library versions."""

    steps: int = 7000
    batch: int = 128
    classes: int = 400
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int = 200
    cooldown: float = 0.4
    ema: float = 0.998
    smoothing: float = 0.0
    seed: int = 0


Report = Callable[[int, float, float, nn.Module], None]


def learning_rate(step: int, recipe: PretrainRecipe) -> float:
    """Linear warm-up, a plateau, then a linear fall to zero over the last ``cooldown`` part of the steps."""
    rise = min(1.0, (step + 1) / recipe.warmup)
    fall = min(1.0, (recipe.steps - step) / max(1.0, recipe.cooldown * recipe.steps))
    return recipe.lr * rise * fall


class PictureSource(Protocol):
    """What a network is trained on."""

    def batches(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures (count, 3, size, size) in [0, 1] with class numbers (count,), without end."""
        ...


class GlyphSource:
    """Endless training pictures: a class, one of its faces and a rendition, all drawn from one generator."""

    def __init__(self, characters: Sequence[str], size: int, mix: Mix, seed: int) -> None:
        self._faces = torch.tensor([len(faces_with(character)) for character in characters])
        self._first = self._faces.cumsum(0) - self._faces
        self._masks = torch.from_numpy(mask_stack((face, c) for c in characters for face in faces_with(c)))
        self._size, self._mix = size, mix
        self._generator = torch.Generator().manual_seed(seed)

    def batches(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures (count, 3, size, size) in [0, 1] with class numbers (count,), without end."""
        while True:
            labels = torch.randint(len(self._faces), (count,), generator=self._generator)
            chosen = torch.rand(count, generator=self._generator) * self._faces[labels]
            masks = self._masks[self._first[labels] + chosen.long()].float() / 255
            yield render(masks, Draws.batch(count, self._size, self._generator), self._mix), labels


def build(architecture: dict[str, Any], classes: int, seed: int) -> nn.Sequential:
    """The ViT and a linear classifier over its class token, freshly initialised."""
    torch.manual_seed(seed)
    vit = VisionTransformer(**architecture)
    return nn.Sequential(vit, nn.Linear(int(vit.num_features), classes))


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    tensors = list(model.parameters())
    plain = [tensor for tensor in tensors if tensor.ndim < 2]
    return [
        {"params": [tensor for tensor in tensors if tensor.ndim >= 2], "weight_decay": decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def train(
    recipe: PretrainRecipe,
    source: PictureSource,
    model: nn.Module,
    report: Report | None = None,
    *,
    compiled: bool = False,
) -> nn.Module:
    """Train in place; returns the moving average. ``report`` is called with step, loss, accuracy and that average."""
    average = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.lr, betas=(0.9, 0.98), fused=True)
    forward = torch.compile(model) if compiled else model
    pairs = list(zip(average.parameters(), model.parameters(), strict=True))
    loss_mean = right_mean = 0.0
    for step, (pictures, labels) in zip(range(recipe.steps), source.batches(recipe.batch), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward(pictures)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.smoothing)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        keep = min(recipe.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_([slow for slow, _ in pairs], [fast for _, fast in pairs], 1 - keep)
        right = float((logits.argmax(1) == labels).float().mean())
        loss_mean, right_mean = 0.98 * loss_mean + 0.02 * float(loss.detach()), 0.98 * right_mean + 0.02 * right
        if report is not None:
            report(step + 1, loss_mean, right_mean, average)
    return average


def taking_pixels(model: nn.Module, shift: float, scale: float) -> nn.Module:
    """A copy of a network of pictures ``(pixels - shift) / scale`` which takes the pixels: its patch embedding does the rest."""
    model = copy.deepcopy(model)
    vit = next(part for part in model.modules() if isinstance(part, VisionTransformer))
    weight, bias = vit.patch_embed.proj.weight, vit.patch_embed.proj.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    with torch.no_grad():
        weight /= scale
        bias -= shift * weight.sum((1, 2, 3))
    return model


def export(model: nn.Module, folder: Path, description: dict[str, Any], name: str = "tiny_vit") -> None:
    """Write ``NAME.safetensors`` (half precision, timm's names, no head) and ``NAME.json`` beside it."""
    from safetensors.torch import save

    vit = next(part for part in model.modules() if isinstance(part, VisionTransformer))
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in vit.state_dict().items()}
    data = save(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.safetensors").write_bytes(data)
    described = {**description, "sha256": hashlib.sha256(data).hexdigest(), "normalize": "none"}
    (folder / f"{name}.json").write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def pretrain(recipe: PretrainRecipe, folder: Path, *, every: int = 500, compiled: bool = True) -> None:
    """Train, and write the moving average into ``folder`` every ``every`` steps and at the end."""
    characters = pretraining_characters(recipe.classes)
    source = GlyphSource(characters, ARCHITECTURE["img_size"], TRAINING_MIX, recipe.seed)
    seen = {"mix": asdict(TRAINING_MIX), "characters": "".join(characters)}
    train_and_export(recipe, source, ARCHITECTURE, len(characters), folder, seen, every=every, compiled=compiled)


def train_and_export(
    recipe: PretrainRecipe,
    source: PictureSource,
    architecture: dict[str, Any],
    classes: int,
    folder: Path,
    seen: dict[str, Any],
    name: str = "tiny_vit",
    *,
    every: int = 500,
    compiled: bool = True,
    shift: float = 0.0,
    scale: float = 1.0,
) -> None:
    """Train a new network, print how far it is, and ``export`` its moving average every ``every`` steps and at the end.

    ``seen``: what the network is trained on, for the description beside the weights. ``shift``, ``scale``: the source's
    pictures are ``(pixels - shift) / scale``; the exported network takes the pixels themselves.
    """
    model = build(architecture, classes, recipe.seed)
    began = time.monotonic()

    def report(step: int, loss: float, accuracy: float, average: nn.Module) -> None:
        if step % 50 == 0:
            spent = time.monotonic() - began
            print(f"step {step}/{recipe.steps} loss {loss:.3f} accuracy {accuracy:.3f} {spent:.0f} s", flush=True)
        if step % every == 0 or step == recipe.steps:
            described = {"architecture": architecture, "recipe": {**asdict(recipe), "steps": step}, **seen}
            export(taking_pixels(average, shift, scale), folder, described, name)

    train(recipe, source, model, report, compiled=compiled)


def _gates(weights: Path, report: Path | None, recording: bool) -> None:
    from smope_bench.harness.maintenance.pretraining import tiny_gates

    found = tiny_gates.measure(weights)
    if report is not None:
        report.write_text(json.dumps({"measured": found, "holds": tiny_gates.verdicts(found)}, indent=2) + "\n")
    if recording:
        tiny_gates.record(found, weights)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, or measure the gates of the committed weights."""
    parser = argparse.ArgumentParser(
        prog="python -m smope_bench.harness.maintenance.pretraining.tiny", description=__doc__
    )
    parser.add_argument("--out", type=Path, help="folder for the weights")
    parser.add_argument("--steps", type=int, default=PretrainRecipe.steps)
    parser.add_argument("--gates", action="store_true", help="measure the committed weights instead of training")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the weights to measure")
    parser.add_argument("--severities", action="store_true", help="compare renditions of glyphs on training images")
    parser.add_argument("--json", type=Path, help="also write the measured gates and their verdicts into this file")
    parser.add_argument("--record", action="store_true", help="also write the measured gates into tiny_vit.json")
    options = parser.parse_args(arguments)
    if options.severities:
        from smope_bench.harness.maintenance.pretraining import tiny_gates

        tiny_gates.severities(options.weights, (-0.04, 0.0, 0.04), (-0.06, 0.0, 0.06))
    elif options.gates:
        _gates(options.weights, options.json, options.record)
    elif options.out is None:
        parser.error("name the folder for the weights with --out, or measure the committed ones with --gates")
    else:
        pretrain(PretrainRecipe(steps=options.steps), options.out)


if __name__ == "__main__":
    main()
