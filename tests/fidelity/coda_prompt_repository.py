"""What the adapters for methods of the CODA-Prompt repository share: its learner on a small ViT, on the CPU."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import timm.layers
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from smope_bench.methods.common.api import Batch, Method, Setup, TaskInfo
from smope_bench.methods.common.schedules import Schedule, adamw, learning_rate
from smope_bench.methods.common.vit.vit import PromptedViT
from tests.fidelity.ledger import Entry, revision  # pyright: ignore[reportMissingImports]

NAME = "CODA-Prompt"
WIDTH, HEADS, DEPTH, SIDE, PATCH = 48, 4, 6, 32, 8
CLASSES, TASKS, CLASSES_A_TASK, BATCH, STEPS, RATE = 12, 3, 4, 8, 5, 0.01
SETTING = (
    f"ViT of width {WIDTH}, {DEPTH} blocks, {HEADS} heads, {SIDE} px, random weights; {CLASSES} classes in {TASKS} tasks, of "
    f"which two are trained; batches of {BATCH}, {STEPS} steps of the official learner a task with Adam at {RATE}, seed 0."
)


@dataclass(frozen=True)
class Pair:
    """One of our packed tensors and the official ones that it holds, in order."""

    name: str
    ours: nn.Parameter
    theirs: list[nn.Parameter]

    def official(self) -> Tensor:
        """The official tensors in our packing."""
        return self._packed([parameter.detach() for parameter in self.theirs])

    def official_gradient(self) -> Tensor:
        """Their gradients, likewise."""
        return self._packed([torch.zeros_like(p) if p.grad is None else p.grad for p in self.theirs])

    def _packed(self, tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors).view_as(self.ours)


class Official:
    """The repository's learner around a small network of its own classes."""

    def __init__(self, root: Path, learner: str, prompt: str, prompt_param: list[float]) -> None:
        self.root = root / NAME
        with importable(self.root):
            self.zoo: Any = importlib.import_module("models.zoo")
            self.vit: Any = importlib.import_module("models.vit")
            self.schedulers: Any = importlib.import_module("utils.schedulers")
            learners: Any = importlib.import_module("learners.prompt")
        self.net = self._network(prompt, prompt_param)
        small = type("Small", (getattr(learners, learner),), {"create_model": lambda _: self.net})
        self.learner: Any = small(_learner_config(prompt_param))

    def _network(self, prompt: str, prompt_param: list[float]) -> Any:
        # The class builds a ViT-B/16 only, so its parts are put together here; forward and all parts are the official ones.
        net = self.zoo.ViTZoo.__new__(self.zoo.ViTZoo)
        nn.Module.__init__(net)
        net.last = nn.Linear(WIDTH, CLASSES)
        net.prompt_flag, net.task_id = prompt, None
        net.prompt = getattr(self.zoo, prompt)(WIDTH, TASKS, prompt_param, key_dim=WIDTH)
        net.feat = self.vit.VisionTransformer(
            img_size=SIDE,
            patch_size=PATCH,
            embed_dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            ckpt_layer=0,
            drop_path_rate=0,
        )
        with torch.no_grad():
            for parameter in net.feat.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return net

    def enter_task(self, index: int) -> None:
        """What the official trainer does before a task."""
        if index > 0:
            self.learner.last_valid_out_dim = self.learner.valid_out_dim
            self.net.prompt.process_task_count()
        self.net.task_id = index
        self.learner.add_valid_output_dim(CLASSES_A_TASK)
        self.learner.init_optimizer()
        with cpu_only():
            self.learner.data_weighting(None)

    def step(self, batch: Batch) -> Tensor:
        """One official training step; the loss before it. Gradients stay on the parameters."""
        with cpu_only():
            return self.learner.update_model(batch.images, batch.targets)[0]

    def training_terms(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of all classes, mean cross-entropy of the current task, and the prompt loss."""
        low, high = self.learner.last_valid_out_dim, self.learner.valid_out_dim
        with cpu_only():
            logits, prompt_loss = self.net(batch.images, train=True)
        return logits, F.cross_entropy(logits[:, low:high], batch.targets - low), prompt_loss.sum()

    @torch.no_grad()
    def test_logits(self, images: Tensor) -> Tensor:
        """Logits of the classes seen so far, in evaluation mode."""
        with cpu_only():
            return self.net(images)[:, : self.learner.valid_out_dim]

    @torch.no_grad()
    def query(self, images: Tensor) -> Tensor:
        """Frozen class-token features (B, d)."""
        with cpu_only():
            return self.net.feat(images)[0][:, 0]

    def rates(self, epochs: int) -> Tensor:
        """Learning rates that the official scheduler gives, epoch by epoch."""
        optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1e-3)
        scheduler = self.schedulers.CosineSchedule(optimizer, K=epochs)
        rates = []
        for epoch in range(epochs):
            if epoch > 0:
                scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        return torch.tensor(rates, dtype=torch.double)

    def backbone(self) -> PromptedViT:
        """The official ViT's weights in ours."""
        vit = VisionTransformer(
            img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0
        )
        vit.load_state_dict(self.net.feat.state_dict())
        return PromptedViT(vit)

    def setup(self) -> Setup:
        """The comparison's sizes for a method of ours."""
        return Setup(CLASSES, TASKS, Schedule(batch_size=BATCH, epochs=1, lr=RATE, shape="constant"))

    def entry(self, method: str, title: str, note: str = "") -> Entry:
        """An empty page of the ledger."""
        return Entry(method, title, f"GT-RIPL/{NAME}", revision(self.root), SETTING + note)


def make_batch(backbone: PromptedViT, task: int, size: int = BATCH) -> Batch:
    """Random images with labels of a task, and their query."""
    images = torch.rand(size, 3, SIDE, SIDE)
    labels = task * CLASSES_A_TASK + torch.arange(size) % CLASSES_A_TASK
    return Batch(images, labels, lambda: backbone.features(images))


def adopt(pairs: list[Pair]) -> None:
    """Give our parameters the official values."""
    with torch.no_grad():
        for pair in pairs:
            pair.ours.copy_(pair.official())


def train_both(entry: Entry, official: Official, method: Method, pairs: list[Pair], tag: str = "") -> None:
    """Two tasks of a few steps on both sides: gradients of each task's first step, losses, parameters, predictions."""
    for index in range(2):
        first, where = index * CLASSES_A_TASK, f"{tag}task {index + 1}"
        official.enter_task(index)
        task = TaskInfo(index, range(first, first + CLASSES_A_TASK), (2,) * CLASSES_A_TASK)
        method.enter_task(task)
        method.begin_task(task)
        optimizer = adamw(
            [(g.parameters, RATE * g.lr_multiplier) for g in method.parameter_groups()], Schedule(lr=RATE)
        )
        losses: list[tuple[Tensor, Tensor]] = []
        for step in range(STEPS):
            batch = make_batch(method.backbone, index)
            optimizer.zero_grad()
            loss = method.training_step(batch)
            loss.backward()
            losses.append((loss.detach(), official.step(batch)))
            if step == 0:
                for pair in pairs:
                    if pair.ours.grad is not None:
                        entry.add(f"{where}: gradient of {pair.name}", pair.ours.grad, pair.official_gradient())
            method.apply_step(optimizer)
        ours, theirs = (torch.stack(side) for side in zip(*losses, strict=True))
        entry.add(f"{where}: total loss of {STEPS} steps", ours, theirs)
        for pair in pairs:
            entry.add(f"{where}: {pair.name} after {STEPS} steps", pair.ours, pair.official())
        _compare_predictions(entry, official, method, where)


@torch.no_grad()
def _compare_predictions(entry: Entry, official: Official, method: Method, where: str) -> None:
    official.net.eval()
    test = make_batch(method.backbone, 0, size=64)
    ours, theirs = method.predict(Batch(test.images, None, test.query)), official.test_logits(test.images)
    entry.add(f"{where}: test logits of 64 images", ours, theirs)
    entry.add(f"{where}: predicted classes", ours.argmax(dim=1), theirs.argmax(dim=1))
    official.net.train()


def compare_rates(entry: Entry, official: Official) -> None:
    """Our ``cosine`` schedule beside the official scheduler."""
    for epochs in (20, 50):
        schedule = Schedule(lr=1e-3, epochs=epochs, shape="cosine")
        ours = [learning_rate(schedule, 1e-3, step=e, loader_steps=1, epochs=epochs) for e in range(epochs)]
        entry.add(f"learning rates of {epochs} epochs", torch.tensor(ours, dtype=torch.double), official.rates(epochs))


def _learner_config(prompt_param: list[float]) -> dict[str, Any]:
    return {
        "out_dim": CLASSES,
        "prompt_param": [TASKS, prompt_param],
        "overwrite": 1,
        "batch_size": BATCH,
        "tasks": [],
        "top_k": 1,
        "memory": 0,
        "DW": False,
        "gpuid": [-1],
        "schedule_type": "cosine",
        "schedule": [20],
        "optimizer": "Adam",
        "lr": RATE,
        "momentum": 0.9,
        "weight_decay": 0,
    }


@contextlib.contextmanager
def cpu_only() -> Iterator[None]:
    """The official code sends some tensors to the GPU whatever it is told; a clone stands for the copy that this makes."""
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor.clone()):
        yield


@contextlib.contextmanager
def importable(repository: Path) -> Iterator[None]:
    """Make the repository's modules importable, with names that timm has moved since."""
    helpers: Any = types.ModuleType("timm.models.helpers")
    helpers.named_apply = helpers.adapt_input_conv = None  # imported, and used for checkpoints from files alone
    registry: Any = types.ModuleType("timm.models.registry")
    registry.register_model = lambda function: function
    moved = {"timm.models.helpers": helpers, "timm.models.registry": registry, "timm.models.layers": timm.layers}
    with mock.patch.dict(sys.modules, moved), mock.patch.object(sys, "path", [str(repository), *sys.path]):
        yield
