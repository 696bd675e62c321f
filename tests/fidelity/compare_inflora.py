"""InfLoRA beside its official implementation: three whole tasks by the official learner and by ours, on the same batches."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from smope_bench.harness.training.optimization import OptimizationSegment, declare_trainable
from smope_bench.methods.common.api import Batch, Setup, TaskInfo
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.inflora import InfLoRA, InfLoRAConfig
from tests.fidelity.ledger import Entry, revision, run_adapter  # pyright: ignore[reportMissingImports]

TASKS, PER_TASK, PER_CLASS, BATCH, EPOCHS, LR, RANK, EPS = 3, 3, 16, 16, 4, 5e-4, 4, 0.95
ROUNDED = 1e-2
"""Adam's first step has the direction of a gradient, however small: below this part of the largest, rounding may decide it."""
CLASSES, SIDE = TASKS * PER_TASK, 32
SIZE: dict[str, int] = {"img_size": SIDE, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 4}

DEVIATIONS = [
    (
        "Branches",
        "the official code rebuilds the dense sum of all branches at every forward; here finished branches are merged into"
        " weights once a task, and the current one is a low-rank product",
    ),
    (
        "Protected space",
        "the official code replaces a basis of more than half of the dimensions by its complement; here it is a projector of"
        " the same space. A first task of exactly half of the dimensions, which the official code then mistakes for a"
        " complement, and one of more, which stops it, are handled",
    ),
    ("Precision of the decompositions", "float32 there, double here; signs of the reductions' rows are arbitrary"),
    ("Unused passes", "the official code ends a task with k-means of its features, which nothing reads; here there is none"),
    ("Classifier alignment", "the variant with it (+CA) is not part of this project"),
    ("Optimiser", "the official one also holds the frozen backbone, which gets no gradient"),
    ("Input normalisation, class order", "these belong to the benchmark here and are the same for all methods of a table"),
]  # fmt: skip


class Data:
    """A task's images in order, every pass the same, for both sides."""

    def __init__(self, task: int) -> None:
        generator = torch.Generator().manual_seed(100 + task)
        labels = torch.arange(PER_TASK).repeat(PER_CLASS) + task * PER_TASK
        colours = torch.rand(PER_TASK, 3, 1, 1, generator=generator).repeat(PER_CLASS, 1, 1, 1)
        images = 0.3 * colours + 0.7 * torch.rand(len(labels), 3, SIDE, SIDE, generator=generator)
        self.content = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))

    def __len__(self) -> int:
        return sum(len(labels) for _, labels in self.content)

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        del shuffle, drop_last, augment
        return (Batch(images, labels) for images, labels in self.content)

    def official(self) -> list[tuple[int, Tensor, Tensor]]:
        return [(0, images, labels) for images, labels in self.content]


def main(official: Path) -> Entry:
    """Compare every quantity."""
    repository = official / "InfLoRA"
    entry = Entry(
        "inflora",
        "InfLoRA",
        "https://github.com/liangyanshuo/InfLoRA",
        revision(repository),
        f"ViT of width {SIZE['embed_dim']} with {SIZE['num_heads']} heads, {SIZE['depth']} blocks and random weights at {SIDE} px;"
        f" {TASKS} tasks of {PER_TASK} classes with {PER_CLASS} images each, batch {BATCH}, rank {RANK}, {EPOCHS} epochs of Adam"
        f" a task: the official learner's own task, statistics passes, design, loop and memory update, beside ours. Stand-ins:"
        " a small network for the builder of the pretrained one, and the moments as numpy arrays for the memory update, which"
        " numpy 2 needs. Rows of reductions and columns of branches are compared up to their common sign.",
        deviations=DEVIATIONS,
    )
    with contextlib.redirect_stdout(sys.stderr), official_modules(repository) as methods:
        learner = official_learner(methods)
        ours = our_method(learner._network)
        for task in range(TASKS):
            compare_task(entry, learner, ours, task)
    return entry


@contextlib.contextmanager
def official_modules(repository: Path) -> Iterator[Any]:
    """The official module of the learner, without the debugger that it imports."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(sys.modules, {"ipdb": ModuleType("ipdb")}))
        stack.enter_context(mock.patch.object(sys, "path", [str(repository), *sys.path]))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield importlib.import_module("methods.inflora")


def official_learner(methods: Any, **changes: Any) -> Any:
    """The official learner on a small network of its own class."""
    sinet: Any = importlib.import_module("models.sinet_inflora")
    settings: dict[str, Any] = {
        "net_type": "sip", "optim": "adam", "EPSILON": 1e-8, "init_epoch": EPOCHS, "epochs": EPOCHS, "init_lr": LR,
        "lrate": LR, "init_lr_decay": 0.1, "lrate_decay": 0.1, "init_weight_decay": 0.0, "weight_decay": 0.0,
        "batch_size": BATCH, "num_workers": 0, "lamb": EPS, "lame": 1.0, "total_sessions": TASKS, "dataset": "",
        "memory_size": 0, "memory_per_class": 0, "fixed_memory": True, "device": [torch.device("cpu")],
        "init_cls": PER_TASK, "embd_dim": SIZE["embed_dim"], "rank": RANK,
    }  # fmt: skip
    settings |= changes

    def small(variant: str, pretrained: bool, **given: Any) -> Any:
        del variant, pretrained
        return sinet.ViT_lora_co(num_classes=0, n_tasks=given["n_tasks"], rank=given["rank"], **SIZE)

    with mock.patch.object(sinet, "_create_vision_transformer", small):
        return methods.InfLoRA(settings)


def our_method(network: Any) -> InfLoRA:
    """Our method with the official network's weights."""
    vit = VisionTransformer(num_classes=0, **SIZE)  # type: ignore[arg-type]
    vit.load_state_dict(
        {name: value for name, value in network.image_encoder.state_dict().items() if name in vit.state_dict()}
    )
    schedule = Schedule(batch_size=BATCH, epochs=EPOCHS, lr=LR, shape="cosine", optimizer="adam", drop_last=False)
    method = InfLoRA(InfLoRAConfig(rank=RANK, threshold=EPS), PromptedViT(vit), Setup(CLASSES, TASKS, schedule))
    with torch.no_grad():
        method.head.weight.copy_(torch.cat([head.weight for head in network.classifier_pool]))
        method.head.bias.copy_(torch.cat([head.bias for head in network.classifier_pool]))
    return method


def compare_task(entry: Entry, learner: Any, ours: InfLoRA, task: int) -> None:
    """One whole task on both sides."""
    data, info = Data(task), TaskInfo(task, range(task * PER_TASK, (task + 1) * PER_TASK), (PER_CLASS,) * PER_TASK)
    ours.enter_task(info)
    ours.begin_task(info)
    ours.prepare_task(data)
    train, update, kept, moved = learner.train_function, learner.update_DualGPM, list[Tensor](), list[Tensor]()

    def compared_first(loader: Any, test: Any, optimizer: Any, scheduler: Any) -> None:
        first = compare_design(entry, learner, ours, data, task)
        moved.append(first.abs() > ROUNDED * first.abs().max())
        train(loader, test, optimizer, scheduler)

    def in_numpy(moments: list[Tensor]) -> None:
        kept.extend(moments)
        update([one.numpy() for one in moments])

    learner._cur_task, learner._total_classes = task, (task + 1) * PER_TASK
    learner._network.update_fc(learner._total_classes)
    changed = {"train_function": compared_first, "update_DualGPM": in_numpy}
    with mock.patch.multiple(learner, **changed):
        learner._train(data.official(), [])
    our_training(ours, data)
    signs = row_signs(learner, ours, task)
    mine, theirs = ours.up * signs[:, None, None], official_ups(learner, task)
    entry.add(f"branches after task {task + 1}", mine * moved[0], theirs * moved[0])
    entry.add(f"branches after task {task + 1}, all entries", mine, theirs)
    moments = ours._moments(data)
    ours.end_task(data)
    learner.after_task()
    finish_task(entry, learner, ours, task, moments, torch.stack(kept))


def finish_task(entry: Entry, learner: Any, ours: InfLoRA, task: int, moments: Tensor, theirs: Tensor) -> None:
    """Second moments with the task's branch, protected spaces, classifier and answers."""
    after, pool = f"after task {task + 1}", learner._network.classifier_pool[: task + 1]
    entry.add(f"second moments {after}", moments, theirs)
    spaces = [torch.from_numpy(np.asarray(basis @ basis.T)) for basis in learner.feature_list]
    identity = torch.eye(SIZE["embed_dim"])
    are_bases = [kind == "remove" for kind in learner.project_type]
    official = [space if is_basis else identity - space for space, is_basis in zip(spaces, are_bases, strict=True)]
    entry.add(f"protected spaces {after}", ours.protected, torch.stack(official))
    entry.add(f"classifier {after}", ours.head.weight[: ours.seen_classes], torch.cat([head.weight for head in pool]))
    images = torch.cat([images for earlier in range(task + 1) for images, _ in Data(earlier).content])
    with torch.no_grad():
        mine, answers = ours.predict(Batch(images)), learner._network.interface(images)
    entry.add(f"logits {after}", mine, answers)
    entry.add(f"predictions {after}", mine.argmax(dim=1), answers.argmax(dim=1))


def compare_design(entry: Entry, learner: Any, ours: InfLoRA, data: Data, task: int) -> Tensor:
    """Reductions, and the first loss with its gradients, away from the branch's start and at it; returns the latter."""
    number, (images, labels) = task + 1, data.content[0]
    signs = row_signs(learner, ours, task)
    attentions, head = official_attentions(learner), learner._network.classifier_pool[task]
    rows = torch.stack([one.lora_A_k[task].weight for one in attentions])
    entry.add(f"reductions of task {number}", ours.downs[task] * signs[..., None], rows)
    entry.add(
        f"reductions of task {number}, of values", rows, torch.stack([one.lora_A_v[task].weight for one in attentions])
    )
    away = 0.02 * torch.randn(ours.up.shape, generator=torch.Generator().manual_seed(task))
    gradients = away
    for place, change in ((" away from the start", away), ("", torch.zeros_like(away))):
        with torch.no_grad():
            ours.up.copy_(change * signs[:, None, None])
            _set_ups(learner, task, change)
        learner._network.zero_grad()
        ours.zero_grad()
        theirs = nn.functional.cross_entropy(learner._network(images)["logits"], labels - task * PER_TASK)
        mine = ours.training_step(Batch(images, labels))
        theirs.backward()
        mine.backward()
        entry.add(f"loss of task {number}{place}", mine, theirs)
        assert ours.up.grad is not None and ours.head.weight.grad is not None
        gradients = torch.stack([torch.stack([one[task].weight.grad for one in both]) for both in _branches(learner)])
        entry.add(f"gradient of branches, task {number}{place}", ours.up.grad * signs[:, None, None], gradients)
        own = slice(task * PER_TASK, (task + 1) * PER_TASK)
        entry.add(f"gradient of classifier, task {number}{place}", ours.head.weight.grad[own], head.weight.grad)
    learner._network.zero_grad()
    ours.zero_grad()
    return gradients


def official_attentions(learner: Any) -> list[Any]:
    return [block.attn for block in learner._network.image_encoder.blocks]


def _branches(learner: Any) -> list[tuple[Any, Any]]:
    return [(one.lora_B_k, one.lora_B_v) for one in official_attentions(learner)]


def official_ups(learner: Any, task: int) -> Tensor:
    """The official up-projections (blocks, 2, d, rank), keys before values."""
    return torch.stack([torch.stack([one[task].weight for one in both]) for both in _branches(learner)])


def _set_ups(learner: Any, task: int, values: Tensor) -> None:
    for both, pair in zip(_branches(learner), values, strict=True):
        for layers, value in zip(both, pair, strict=True):
            layers[task].weight.copy_(value)


def row_signs(learner: Any, ours: InfLoRA, task: int) -> Tensor:
    """Signs (blocks, rank) that turn our reductions' rows to the official ones."""
    rows = torch.stack([one.lora_A_k[task].weight for one in official_attentions(learner)])
    return (ours.downs[task] * rows).sum(dim=-1).sign()


def our_training(method: InfLoRA, data: Data) -> None:
    """A task's steps as the engine runs them."""
    (phase,) = method.phases()
    method.begin_phase(phase)
    groups = method.parameter_groups()
    declare_trainable(method, groups)
    segment = OptimizationSegment(method.setup.schedule, groups, phase.epochs)
    for _ in range(phase.epochs):
        for batch in method.epoch_batches(data):
            segment.set_rate(len(data.content))
            segment.descend(method.training_step(batch), method)


if __name__ == "__main__":
    run_adapter(main)
