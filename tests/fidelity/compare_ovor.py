"""OVOR beside its official implementation: two tasks trained by the official learner and by ours, from one set of draws."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from smope_bench.harness.training.optimization import OptimizationSegment, declare_trainable, segment_epochs
from smope_bench.methods.common.alignment.outliers import OutlierConfig, synthesize
from smope_bench.methods.common.api import Batch, Phase, Setup, TaskInfo
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.ovor import OVOR, OutlierBatch, OVORConfig
from tests.fidelity.ledger import Entry, revision, run_adapter  # pyright: ignore[reportMissingImports]

TASKS, PER_TASK, PER_CLASS, BATCH, EPOCHS, LR = 2, 3, 20, 16, 5, 1e-3
CLASSES = TASKS * PER_TASK
DRAWS_SEED = 77
ACTIVE_THRESHOLD = -0.5

DEVIATIONS = [
    (
        "One score for each distinct candidate",
        "the official code scores each of the 600 noise vectors 50 times and keeps the copies of the best; here each is"
        " scored once and the best are repeated, which is the same choice at a fiftieth of the cost",
    ),
    (
        "Backbone without gradients",
        "the official backbone collects weight gradients that no optimiser reads; here it is frozen",
    ),
    (
        "Fewer images than the 50th neighbour",
        "the official index then answers with a constant for every candidate; here the farthest image's distance is used",
    ),
    (
        "Fewer outliers than batches",
        "the official loader cannot be made with an empty batch; here outliers are used again, one a batch",
    ),
    (
        "Warm-up, off by default",
        "the official cosine counts warm-up epochs in the first task too, which has none; here each task's schedule has"
        " the epochs that the task has",
    ),
    (
        "Input normalisation, class order, checkpoint",
        "these belong to the benchmark and the backbone here and are the same for all methods of a table",
    ),
]


class ExactIndex:
    """Stands for faiss.IndexFlatL2: exact squared distances, nearest first, in double precision."""

    def __init__(self, width: int) -> None:
        self.rows = torch.empty(0, width)

    def add(self, rows: Any) -> None:
        self.rows = torch.cat([self.rows, torch.from_numpy(rows)])

    def reset(self) -> None:
        self.rows = self.rows[:0]

    def search(self, points: Any, neighbours: int) -> tuple[Any, None]:
        distances = torch.cdist(torch.from_numpy(points).double(), self.rows.double()).square()
        return distances.topk(neighbours, dim=1, largest=False).values.float().numpy(), None


class Batches:
    """Stands for a DataLoader of tensors; its shuffle is one draw of torch's default generator."""

    def __init__(self, dataset: Any, batch_size: int, shuffle: bool = False) -> None:
        self.tensors, self.size, self.shuffle = dataset.tensors, batch_size, shuffle

    def __iter__(self) -> Iterator[list[Tensor]]:
        count = len(self.tensors[0])
        order = torch.randperm(count) if self.shuffle else torch.arange(count)
        for part in order.split(self.size):
            yield [tensor[part] for tensor in self.tensors]


class Data:
    """A task's images in order, every pass the same, for both sides."""

    def __init__(self, task: int) -> None:
        generator = torch.Generator().manual_seed(100 + task)
        labels = torch.arange(PER_TASK).repeat_interleave(PER_CLASS) + task * PER_TASK
        colours = torch.rand(PER_TASK, 3, 1, 1, generator=generator).repeat_interleave(PER_CLASS, dim=0)
        images = 0.5 * colours + 0.5 * torch.rand(len(labels), 3, 32, 32, generator=generator)
        self.content = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))

    def __len__(self) -> int:
        return sum(len(labels) for _, labels in self.content)

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        del shuffle, drop_last, augment
        return (Batch(images, labels) for images, labels in self.content)

    def official(self) -> list[tuple[Tensor, Tensor, int]]:
        return [(images, labels, 0) for images, labels in self.content]


class Silent:
    """Takes the place of the official logger: every attribute and every call is itself."""

    step = 0

    def __getattr__(self, name: str) -> Silent:
        return self

    def __call__(self, *args: object, **kwargs: object) -> Silent:
        return self


class Arguments(SimpleNamespace):
    """The official settings object: attributes and items alike."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def main(official: Path) -> Entry:
    """Compare every quantity."""
    repository = official / "ovor"
    entry = Entry(
        "ovor",
        "OVOR",
        "https://github.com/jpmorganchase/ovor",
        revision(repository),
        f"ViT of width 768 with 12 heads, 6 blocks and random weights at 32 px; {TASKS} tasks of {PER_TASK} classes with"
        f" {PER_CLASS} images each, batch {BATCH}; the official learner's own training loop, {EPOCHS - 1} epochs and 1 with"
        " outliers in each task, beside ours, there with the outliers' threshold at -0.5: three classes alone do not reach"
        " the released -3. Stand-ins: an exact index for faiss, and draws from one generator.",
        deviations=DEVIATIONS,
    )
    with contextlib.redirect_stdout(sys.stderr), official_modules(repository) as (prompt, zoo):
        learner = official_learner(prompt, zoo)
        ours = our_method(learner.model.module)
        compare_steps(entry, learner, ours)
        compare_synthesis(entry, learner)
        lower_outlier_threshold(learner, ours)
        for task in range(TASKS):
            compare_task(entry, learner, ours, task)
    return entry


@contextlib.contextmanager
def official_modules(repository: Path) -> Iterator[tuple[Any, Any]]:
    """The official modules, without a GPU and without faiss."""
    faiss: Any = ModuleType("faiss")
    faiss.IndexFlatL2 = ExactIndex
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(sys.modules, {"faiss": faiss}))
        stack.enter_context(mock.patch.object(sys, "path", [str(repository), *sys.path]))
        stack.enter_context(mock.patch.object(nn.Module, "cuda", lambda self, *_: self))
        # A copy, because the official forward adds in place to what cuda() returns.
        stack.enter_context(mock.patch.object(Tensor, "cuda", lambda self, *_: self.clone()))
        stack.enter_context(mock.patch.object(torch.cuda, "set_device", lambda *_: None))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        ood: Any = importlib.import_module("learners.ood")
        stack.enter_context(mock.patch.object(ood, "DataLoader", Batches))
        yield importlib.import_module("learners.prompt"), importlib.import_module("models.zoo")


def official_learner(prompt: Any, zoo: Any) -> Any:
    """The official learner on a shallow network of the official width, its outliers drawn by torch's default generator."""

    class Shallow(prompt.OnePrompt):
        def _create_model(self) -> Any:
            model = zoo.ViTZoo.__new__(zoo.ViTZoo)
            nn.Module.__init__(model)
            model.prompt_flag = "oneprompt"
            model.last = nn.Linear(768, CLASSES)
            model.prompt = zoo.OnePrompt(768, *self.prompt_param)
            model.feat = zoo.VisionTransformer(img_size=32, patch_size=16, embed_dim=768, depth=6, num_heads=12)
            return model

    settings = Arguments(
        tasks=TASKS,
        prompt_param=[10, 40, 10],
        batch_size=BATCH,
        optimizer="Adam",
        lr=LR,
        momentum=0.9,
        weight_decay=0,
        scheduler="cosine",
        epochs=[0, EPOCHS - 1, 1],
        model_type="zoo",
        model_name="vit_pt_imnet",
        gpus=[0],
        ood={"K": 50, "sample_from": 600, "select": 50, "num_per_class": 40, "cov": 0.1, "lmda": 0.1, "id_bsz": BATCH},
    )
    learner = Shallow(CLASSES, settings, Silent())
    learner.ood.dis = SimpleNamespace(rsample=lambda shape: torch.randn(*shape, 768))
    return learner


def our_method(model: Any) -> OVOR:
    """Our method with the official model's weights."""
    vit = VisionTransformer(img_size=32, patch_size=16, embed_dim=768, depth=6, num_heads=12, num_classes=0)
    vit.load_state_dict(model.feat.state_dict())
    schedule = Schedule(batch_size=BATCH, epochs=EPOCHS, lr=LR, shape="cosine", drop_last=False)
    method = OVOR(OVORConfig(), PromptedViT(vit), Setup(CLASSES, TASKS, schedule))
    method.load_state_dict(method.state_dict() | official_tensors(model))
    return method


def official_tensors(model: Any) -> dict[str, Tensor]:
    """The official learnable tensors under our names; also of their gradients, through ``read``."""
    return gathered(model, lambda parameter: parameter.detach().clone())


def gathered(model: Any, read: Callable[[Any], Tensor]) -> dict[str, Tensor]:
    return {
        "general": torch.stack([read(getattr(model.prompt, f"g_p_{block}")) for block in range(2)]),
        "expert": torch.stack([read(getattr(model.prompt, f"e_p_{block}")) for block in range(2, 5)]),
        "head.weight": read(model.last.weight),
        "head.bias": read(model.last.bias),
    }


def enter(learner: Any, ours: OVOR, task: int) -> None:
    learner.subset_start, learner.subset_end = task * PER_TASK, (task + 1) * PER_TASK
    ours.enter_task(TaskInfo(task, range(task * PER_TASK, (task + 1) * PER_TASK), (PER_CLASS,) * PER_TASK))


def compare_steps(entry: Entry, learner: Any, ours: OVOR) -> None:
    """Logits, both losses and their gradients in the second task, before any training."""
    enter(learner, ours, 1)
    images, labels = Data(1).content[0]
    ours.begin_phase(Phase("prompts", 1))
    entry.add("logits", ours.predict(Batch(images)), learner.model(x=images)[:, : learner.subset_end])
    logits, _ = learner.model(x=images, train=True)
    losses: dict[str, tuple[Tensor, Tensor]] = {
        "stage 1": (ours.training_step(Batch(images, labels)), learner.criterion(masked(learner, logits), labels))
    }
    # Larger than any training gives, so that each hinge has rows on both of its sides.
    features, outliers = torch.randn(24, 768) * 40, torch.randn(30, 768) * 8
    classes = PER_TASK + torch.arange(24) % PER_TASK
    batch = OutlierBatch(torch.empty(0), classes, features, outliers=outliers)
    real = masked(learner, learner.model(x=features, last=True))
    unreal = learner.model(x=outliers, last=True)[:, learner.subset_start : learner.subset_end]
    energy, *_ = learner.ood.loss(real[:, learner.subset_start :], unreal)
    losses["stage 2"] = (ours.training_step(batch), learner.criterion(real, classes) + energy)
    entry.add("stage 2 regulariser", _regulariser(ours, batch), energy)
    for name, (mine, theirs) in losses.items():
        entry.add(f"{name} loss", mine, theirs)
        ours.zero_grad()
        learner.model.zero_grad()
        mine.backward()
        theirs.backward()
        found = gathered(learner.model.module, lambda p: torch.zeros_like(p) if p.grad is None else p.grad)
        for tensor, parameter in ours.named_parameters():
            if parameter.grad is not None:
                entry.add(f"{name} gradient of {tensor}", parameter.grad, found[tensor])


def _regulariser(ours: OVOR, batch: OutlierBatch) -> Tensor:
    whole, config = ours.training_step(batch), ours.config
    ours.config = config.model_copy(update={"outliers": config.outliers.model_copy(update={"weight": 0.0})})
    difference = whole - ours.training_step(batch)
    ours.config = config
    return difference


def masked(learner: Any, logits: Tensor) -> Tensor:
    seen = logits[:, : learner.subset_end].clone()
    seen[:, : learner.subset_start] = -float("inf")
    return seen


def compare_synthesis(entry: Entry, learner: Any) -> None:
    """The choice of outliers for 300 features of 12 classes, ties included."""
    features = torch.randn(300, 768)
    torch.manual_seed(DRAWS_SEED)
    theirs = learner.ood._generate(features, 12)
    torch.manual_seed(DRAWS_SEED)
    found = synthesize(features, 12, torch.randn(600, 768), OutlierConfig())
    entry.add("outliers and their order", found, theirs)


def lower_outlier_threshold(learner: Any, ours: OVOR) -> None:
    """Let the outliers act in training: three classes alone give a log-sum-exp below the released threshold."""
    learner.ood.thres_ood = ACTIVE_THRESHOLD
    outliers = ours.config.outliers.model_copy(update={"energy_out": ACTIVE_THRESHOLD})
    ours.config = ours.config.model_copy(update={"outliers": outliers})


def compare_task(entry: Entry, learner: Any, ours: OVOR, task: int) -> None:
    """Parameters and logits after a whole task on both sides."""
    enter(learner, ours, task)
    data = Data(task)
    torch.manual_seed(DRAWS_SEED + task)
    learner.train(data.official(), task)
    torch.manual_seed(DRAWS_SEED + task)
    rates = train(ours, data)
    expected = official_tensors(learner.model.module)
    for name, parameter in ours.named_parameters():
        entry.add(f"{name} after task {task + 1}", parameter, expected[name])
    entry.add(f"last rate of task {task + 1}", rates, learner.optimizer.param_groups[0]["lr"])
    images = torch.cat([images for earlier in range(task + 1) for images, _ in Data(earlier).content])
    with torch.no_grad():
        mine, theirs = ours.predict(Batch(images)), learner.model(x=images)[:, : learner.subset_end]
    entry.add(f"logits after task {task + 1}", mine, theirs)
    entry.add(f"predictions after task {task + 1}", mine.argmax(dim=1), theirs.argmax(dim=1))


def train(method: OVOR, data: Data) -> float:
    """One task as the engine runs it; returns the last learning rate."""
    phases, stretch = method.phases(), None
    method.begin_task(TaskInfo(method.task_index, method.new_classes, (PER_CLASS,) * PER_TASK))
    for number, phase in enumerate(phases):
        method.begin_phase(phase)
        groups = method.parameter_groups()
        declare_trainable(method, groups)
        if stretch is None or not phase.continues:
            stretch = OptimizationSegment(method.setup.schedule, groups, segment_epochs(phases, number))
        for _ in range(phase.epochs):
            for batch in method.epoch_batches(data):
                stretch.set_rate(len(data.content))
                stretch.descend(method.training_step(batch), method)
    assert stretch is not None
    return stretch.optimizer.param_groups[0]["lr"]


if __name__ == "__main__":
    run_adapter(main)
