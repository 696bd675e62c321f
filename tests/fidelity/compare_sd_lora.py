"""SD-LoRA beside its official implementation: three whole tasks by the official learner and by ours, on the same batches."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from smope_bench.methods.common.api import Batch, Setup, TaskInfo
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.sd_lora import SDLoRA, SDLoRAConfig
from tests.fidelity.compare_inflora import Data, our_training  # pyright: ignore[reportMissingImports]
from tests.fidelity.ledger import Entry, revision, run_adapter  # pyright: ignore[reportMissingImports]

TASKS, PER_TASK, PER_CLASS, BATCH, EPOCHS, LR, RANK = 3, 3, 16, 16, 4, 0.01, 10
CLASSES, WIDTH = TASKS * PER_TASK, 768
SIZE: dict[str, int] = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 12}

DEVIATIONS = [
    (
        "Earlier updates",
        "the official code reads them from files, with four new layers a block and pass; here they are one low-rank product"
        " with the current one, and merged into weights once a task is over",
    ),
    (
        "Orthogonality term",
        "the official code computes it for every batch and does not use it; here it is not computed",
    ),
    ("An update that is zero", "the official code divides by its norm, which gives NaN; here it has no effect"),
    ("More than 21 tasks", "end in an IndexError there; here there is a magnitude for each task"),
    ("Unused magnitudes", "the official optimiser holds 20 earlier magnitudes in every task; here one for each task"),
    ("Input normalisation, class order", "these belong to the benchmark here and are the same for all methods of a table"),
]  # fmt: skip


def main(official: Path) -> Entry:
    """Compare every quantity."""
    repository = official / "SD-Lora-CL"
    entry = Entry(
        "sd_lora",
        "SD-LoRA",
        "https://github.com/WuYichen-97/SD-Lora-CL",
        revision(repository),
        f"ViT of width {WIDTH} with 12 heads, 2 blocks and random weights at 32 px; {TASKS} tasks of {PER_TASK} classes with"
        f" {PER_CLASS} images each, batch {BATCH}, rank {RANK}, {EPOCHS} epochs of SGD at {LR} a task: the official learner's"
        " own tasks beside ours. Stand-ins: a small network for the builder of the pretrained one, no GPU, and pickled modules"
        " allowed in the files that it keeps its updates in.",
        deviations=DEVIATIONS,
    )
    quiet, scratch = contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory()
    with quiet, scratch as folder, official_modules(repository) as models:
        learner = official_learner(models, folder + os.sep)
        ours = our_method(learner._network)
        for task in range(TASKS):
            compare_task(entry, learner, ours, task)
    return entry


@contextlib.contextmanager
def official_modules(repository: Path) -> Iterator[Any]:
    """The official module of the learner, without a GPU."""
    einops: Any = ModuleType("einops")
    einops.rearrange = None
    load = torch.load
    small = VisionTransformer(num_classes=0, **SIZE)  # type: ignore[arg-type]

    def create(*_: Any, **__: Any) -> VisionTransformer:
        made = VisionTransformer(num_classes=0, **SIZE)  # type: ignore[arg-type]
        made.load_state_dict(small.state_dict())
        return made

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(sys.modules, {} if _has("einops") else {"einops": einops}))
        stack.enter_context(mock.patch.object(sys, "path", [str(repository), *sys.path]))
        stack.enter_context(mock.patch.object(nn.Module, "cuda", lambda self, *_: self))
        stack.enter_context(mock.patch.object(Tensor, "cuda", lambda self, *_: self))
        stack.enter_context(mock.patch.object(torch, "load", partial(load, weights_only=False)))
        stack.enter_context(mock.patch("timm.create_model", create))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield importlib.import_module("models.sdlora")


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def official_learner(models: Any, folder: str) -> Any:
    """The official learner, its files in ``folder``."""
    settings: dict[str, Any] = {
        "model_name": "sdlora", "backbone_type": "vit_base_patch16_224", "increment": PER_TASK, "filepath": folder,
        "init_epoch": EPOCHS, "epochs": EPOCHS, "init_lr": LR, "lrate": LR, "init_milestones": [10000],
        "milestones": [10000], "init_lr_decay": 0, "lrate_decay": 0, "batch_size": BATCH, "memory_size": 0,
        "memory_per_class": 0, "fixed_memory": False, "device": [torch.device("cpu")],
    }  # fmt: skip
    return models.Learner(settings)


def our_method(network: Any) -> SDLoRA:
    """Our method on the official network's frozen weights."""
    vit = VisionTransformer(num_classes=0, **SIZE)  # type: ignore[arg-type]
    vit.load_state_dict(network.backbone.base_vit.state_dict())
    schedule = Schedule(batch_size=BATCH, epochs=EPOCHS, lr=LR, shape="constant", optimizer="sgd", drop_last=False)
    return SDLoRA(SDLoRAConfig(), PromptedViT(vit), Setup(CLASSES, TASKS, schedule))


def compare_task(entry: Entry, learner: Any, ours: SDLoRA, task: int) -> None:
    """One whole task on both sides, from the official task's start."""
    data, info = Data(task), TaskInfo(task, range(task * PER_TASK, (task + 1) * PER_TASK), (PER_CLASS,) * PER_TASK)
    ours.enter_task(info)
    ours.begin_task(info)
    name = "_update_representation" if task else "_init_train"
    train = getattr(learner, name)

    def compared_first(loader: Any, test: Any, optimizer: Any, scheduler: Any) -> None:
        take_start(learner, ours, task)
        compare_first(entry, learner, ours, data, task)
        optimizer.zero_grad()
        train(loader, test, optimizer, scheduler)

    learner._cur_task, learner._total_classes = task, (task + 1) * PER_TASK
    learner._network.update_fc(learner._total_classes)
    with (
        mock.patch.object(learner, name, compared_first),
        mock.patch.object(learner, "_compute_accuracy", _no_accuracy),
    ):
        learner._train(data.official(), [])
    our_training(ours, data)
    for label, (mine, theirs) in pairs(learner, ours, task).items():
        entry.add(f"{label} after task {task + 1}", mine, theirs)
    ours.end_task(data)
    images = torch.cat([images for earlier in range(task + 1) for images, _ in Data(earlier).content])
    with torch.no_grad():
        mine, theirs = ours.predict(Batch(images)), learner._network(images)["logits"]
    entry.add(f"logits after task {task + 1}", mine, theirs)
    entry.add(f"predictions after task {task + 1}", mine.argmax(dim=1), theirs.argmax(dim=1))
    learner.after_task()


def _no_accuracy(*_: Any) -> float:
    return 0.0


def take_start(learner: Any, ours: SDLoRA, task: int) -> None:
    """The official random start of the task: reductions and new rows of the classifier."""
    own = slice(task * PER_TASK, (task + 1) * PER_TASK)
    with torch.no_grad():
        ours.down.copy_(_factors(learner._network.backbone.w_As))
        ours.head.weight[own].copy_(learner._network.fc.weight[own])
        ours.head.bias[own].copy_(learner._network.fc.bias[own])


def _factors(layers: list[Any], read: Any = None) -> Tensor:
    """Queries' and values' layers of all blocks, one after another, as (blocks, 2, ...)."""
    found = torch.stack([layer.weight.detach() if read is None else read(layer.weight) for layer in layers])
    return found.unflatten(0, (SIZE["depth"], 2))


def _magnitudes(backbone: Any, task: int) -> list[Any]:
    return [*(one.param for one in backbone.wrapped_param_prev[:task]), backbone.wrapped_param[0].param]


def pairs(learner: Any, ours: SDLoRA, task: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Ours and the official tensors that are trained in the task."""
    network, seen = learner._network, (task + 1) * PER_TASK
    return {
        "down-projections": (ours.down, _factors(network.backbone.w_As)),
        "up-projections": (ours.up, _factors(network.backbone.w_Bs)),
        "magnitudes": (ours.magnitudes[: task + 1], torch.cat([*_magnitudes(network.backbone, task)]).detach()),
        "classifier": (ours.head.weight[:seen], network.fc.weight),
    }


def compare_first(entry: Entry, learner: Any, ours: SDLoRA, data: Data, task: int) -> None:
    """The first loss with its gradients, away from the update's start and at it."""
    images, labels = data.content[0]
    network, old, seen = learner._network, task * PER_TASK, (task + 1) * PER_TASK
    away = 0.02 * torch.randn(ours.up.shape, generator=torch.Generator().manual_seed(task))
    for place, change in ((" away from the start", away), ("", torch.zeros_like(away))):
        with torch.no_grad():
            ours.up.copy_(change)
            for layer, value in zip(network.backbone.w_Bs, change.flatten(0, 1), strict=True):
                layer.weight.copy_(value)
        network.zero_grad()
        ours.zero_grad()
        theirs = nn.functional.cross_entropy(network(images)["logits"][:, old:], labels - old)
        mine = ours.training_step(Batch(images, labels))
        theirs.backward()
        mine.backward()
        entry.add(f"loss of task {task + 1}{place}", mine, theirs)
        assert ours.magnitudes.grad is not None
        found: dict[str, tuple[Any, Tensor]] = {
            "down-projections": (ours.down.grad, _factors(network.backbone.w_As, _gradient)),
            "up-projections": (ours.up.grad, _factors(network.backbone.w_Bs, _gradient)),
            "magnitudes": (
                ours.magnitudes.grad[: task + 1],
                torch.cat([_gradient(one) for one in _magnitudes(network.backbone, task)]),
            ),
            "classifier": (ours.head.weight.grad[:seen], network.fc.weight.grad),  # type: ignore[index]
        }
        for label, (gradient, official) in found.items():
            entry.add(f"gradient of {label}, task {task + 1}{place}", gradient, official)
    ours.zero_grad()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


if __name__ == "__main__":
    run_adapter(main)
