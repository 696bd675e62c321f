"""EASE beside its official implementation: three tasks trained by the official learner and by ours, from one set of draws."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from smope_bench.harness.training.optimization import OptimizationSegment, declare_trainable
from smope_bench.methods.common.api import Batch, Setup, TaskInfo
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.ease import EASE, EaseConfig
from tests.fidelity.coda_prompt_repository import importable  # pyright: ignore[reportMissingImports]
from tests.fidelity.ledger import Entry, revision, run_adapter  # pyright: ignore[reportMissingImports]

TASKS, PER_TASK, PER_CLASS, BATCH, EPOCHS, LR, DECAY = 3, 5, 7, 16, 2, 0.5, 5e-3
CLASSES, WIDTH, BLOCKS, HEADS, BOTTLENECK = TASKS * PER_TASK, 768, 2, 12, 16
PATCHES: dict[str, Any] = {"img_size": 32, "patch_size": 16}
SCHEDULE = Schedule(
    batch_size=BATCH, epochs=EPOCHS, lr=LR, weight_decay=DECAY, optimizer="sgd", shape="epoch_cosine", epoch_lag=0,
    min_lr=0, drop_last=False,
)  # fmt: skip
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "released": ({}, {}),
    "recalc_sim off": ({"recalc_sim": False}, {"recompute": False}),
    "with bare features": ({"use_init_ptm": True, "beta": 1.0, "alpha": 0.5}, {"bare_features": True, "alpha": 0.5}),
    "reweighting off": ({"use_reweight": False}, {"reweight": False}),
    "own subspaces alone": ({"use_diagonal": True, "use_init_ptm": True, "beta": 1.0}, {"diagonal": True, "bare_features": True}),
    "two adapters alone": ({"moni_adam": True, "adapter_num": 2}, {"adapters": 2}),
}  # fmt: skip
"""The official settings and ours of each form of the method."""

DEVIATIONS = [
    (
        "Finished adapters are part of the state",
        "the official code keeps them in a plain list that its checkpoints lack, so it cannot resume",
    ),
    (
        "Prototypes are means in double precision, rounded once",
        "the official code averages in single precision; and it runs the backbone once more for every adapter from the image"
        " on, where the patch embedding is shared here",
    ),
    (
        "Proxies of all classes are one tensor, of which a task uses the rows of its own",
        "the official code makes a new one for each task; the draws are copied from there in this comparison",
    ),
    (
        "With a fixed number of adapters, untrained ones are not run at test",
        "in the official code they repeat the bare feature against prototypes that are zero, which divides a row of logits by"
        " one number: predictions are the same, and those are compared",
    ),
    ("Logits are not multiplied by the final classifier's scale", "it is 1 and gets no gradient in the official code"),
    ("No use of earlier tasks' images", "the official switch `use_old_data` is an upper bound that is off everywhere"),
    ("Any feature width", "the official reweighting knows width 768 alone"),
]


class Data:
    """A task's images in batches, the last of them short; every pass the same for both sides."""

    def __init__(self, task: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(100 + task + seed)
        labels = torch.arange(PER_TASK * PER_CLASS) % PER_TASK
        colours = torch.rand(PER_TASK, 3, 1, 1, generator=torch.Generator().manual_seed(task))[labels]
        images = 0.5 * colours + 0.5 * torch.rand(len(labels), 3, 32, 32, generator=generator)
        self.content = list(zip(images.split(BATCH), (labels + task * PER_TASK).split(BATCH), strict=True))
        self.shown: list[Batch] = []

    def __len__(self) -> int:
        return sum(len(labels) for _, labels in self.content)

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        del shuffle, drop_last, augment
        return iter(self.shown)

    def official(self) -> list[tuple[None, Tensor, Tensor]]:
        return [(None, images, labels) for images, labels in self.content]


@dataclass
class Masks:
    """Dropout masks of both sides: the official ones are drawn step by step and block by block, ours are taken from them."""

    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(5))
    drawn: list[Tensor] = field(default_factory=list)

    def official(self, rows: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """In place of torch's dropout."""
        if not training or not p:
            return rows
        mask = torch.empty(rows.shape).bernoulli_(1 - p, generator=self.generator) / (1 - p)
        self.drawn.append(mask)
        return rows * mask

    def ours(self, images: Tensor) -> list[Tensor]:
        """The masks of the next step."""
        taken, self.drawn = self.drawn[:BLOCKS], self.drawn[BLOCKS:]
        assert len(taken[0]) == len(images)
        return taken


def make(root: Path) -> Entry:
    """The whole comparison."""
    repository = root / "CVPR24-Ease"
    entry = Entry(
        "ease",
        "EASE",
        "sun-hailong/CVPR24-Ease",
        revision(repository),
        f"ViT of width {WIDTH} with {HEADS} heads, {BLOCKS} blocks and random weights at 32 px, adapters of width {BOTTLENECK};"
        f" {TASKS} tasks of {PER_TASK} classes with {PER_CLASS} images each, batch {BATCH}, the last one short; the official"
        f" learner's own training loop, {EPOCHS} epochs of SGD at {LR} with weight decay {DECAY}, its prototypes, complement and"
        " test-time logits beside ours. Initial adapters, proxies and dropout masks are copied from the official side at the"
        " start of each task, with up-projections drawn there in place of the released zeros, so that adapters matter from the"
        " first step; nothing else is: adapters and prototypes of earlier tasks are each side's own. Settings that are not"
        " named are the released ones.",
        deviations=DEVIATIONS,
    )
    with contextlib.redirect_stdout(sys.stderr), official_modules(repository) as (ease, vit):
        for name, (theirs, ours) in VARIANTS.items():
            compare(entry, f"{name}: ", ease, vit, theirs, ours)
    return entry


@contextlib.contextmanager
def official_modules(repository: Path) -> Iterator[tuple[Any, Any]]:
    """The official learner's and backbone's modules; names that timm has moved, and a progress bar, have stand-ins."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(importable(repository))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield importlib.import_module("models.ease"), importlib.import_module("backbone.vit_ease")


def official_learner(ease: Any, vit: Any, settings: dict[str, Any]) -> Any:
    """The official learner around a shallow backbone with random weights."""
    tuning = SimpleNamespace(
        ffn_adapt=True, ffn_option="parallel", ffn_adapter_layernorm_option="none", ffn_adapter_init_option="lora",
        ffn_adapter_scalar="0.1", ffn_num=BOTTLENECK, d_model=WIDTH, vpt_on=False, vpt_num=0, _device="cpu",
    )  # fmt: skip
    torch.manual_seed(0)
    backbone = vit.VisionTransformer(
        **PATCHES, embed_dim=WIDTH, depth=BLOCKS, num_heads=HEADS, num_classes=0, tuning_config=tuning,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("adapter" in name)
    nn.init.normal_(backbone.cls_token)
    nn.init.normal_(backbone.pos_embed, std=0.02)
    backbone.out_dim = WIDTH
    arguments = {
        "memory_size": 0, "device": ["cpu"], "batch_size": BATCH, "init_lr": LR, "weight_decay": DECAY, "min_lr": 0,
        "init_cls": PER_TASK, "increment": PER_TASK, "use_old_data": False, "use_init_ptm": False, "use_diagonal": False,
        "recalc_sim": True, "alpha": 0.1, "beta": 0, "moni_adam": False, "adapter_num": -1, "use_reweight": True,
        "init_epochs": EPOCHS, "optimizer": "sgd", "scheduler": "cosine", "backbone_type": "vit_ease",
    }  # fmt: skip
    if settings.get("moni_adam"):  # the learner sets it too late for its own network
        settings = settings | {"use_init_ptm": True}
    with mock.patch.object(importlib.import_module("utils.inc_net"), "get_backbone", lambda *_: backbone):
        return ease.Learner(arguments | settings)


def our_method(backbone: Any, settings: dict[str, Any]) -> EASE:
    """Our method on the official backbone's weights."""
    vit = VisionTransformer(**PATCHES, embed_dim=WIDTH, depth=BLOCKS, num_heads=HEADS, num_classes=0)
    state = {name: tensor for name, tensor in backbone.state_dict().items() if "adapter" not in name}
    for block in range(BLOCKS):
        place = f"blocks.{block}"
        for kind in ("weight", "bias"):
            parts = [state.pop(f"{place}.attn.{each}_proj.{kind}") for each in "qkv"]
            state[f"{place}.attn.qkv.{kind}"] = torch.cat(parts)
            for layer in ("fc1", "fc2"):
                state[f"{place}.mlp.{layer}.{kind}"] = state.pop(f"{place}.{layer}.{kind}")
    vit.load_state_dict(state)
    config = EaseConfig(bottleneck=BOTTLENECK, **settings)
    return EASE(config, PromptedViT(vit), Setup(CLASSES, TASKS, SCHEDULE))


NAMES = {"down": "down_proj.weight", "down_bias": "down_proj.bias", "up": "up_proj.weight", "up_bias": "up_proj.bias"}


def adapters_of(official: Any, what: str = "data") -> dict[str, Tensor]:
    """The official current adapters, or their gradients, stacked over blocks under our names."""
    return {
        name: torch.stack([getattr(adapter.get_parameter(theirs), what) for adapter in official.cur_adapter])
        for name, theirs in NAMES.items()
    }


def compare(entry: Entry, prefix: str, ease: Any, vit: Any, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Three tasks in one form of the method; the released form is compared step by step, others by what differs."""
    learner, masks = official_learner(ease, vit, theirs), Masks()
    method, whole = our_method(learner._network.backbone, ours), prefix == "released: "
    for task in range(TASKS):
        data = Data(task)
        data.shown = [
            Batch(images, labels, partial(method.backbone.features, images)) for images, labels in data.content
        ]
        start_official(learner, data)
        start_ours(method, learner, task)
        place = f"{prefix}task {task + 1}: "
        trains = bool(method.phases())
        if whole:
            compare_gradients(entry, place, learner, method, masks, data)
        record = SimpleNamespace(losses=list[float](), rates=list[float]())
        with recorded(ease, record), mock.patch.object(nn.functional, "dropout", masks.official):
            learner._train(learner.train_loader, None)
        losses, rates = train(method, masks, data) if trains else ([], [])
        learner.replace_fc(data.official())
        method.end_task(data)
        if trains and whole:
            entry.add(f"{place}learning rate of every step", torch.tensor(rates), torch.tensor(record.rates))
            entry.add(f"{place}loss of every step", torch.tensor(losses), torch.tensor(record.losses))
            for name, tensor in adapters_of(learner._network.backbone).items():
                entry.add(f"{place}adapters' {name} after its steps", getattr(method.adapters[task], name), tensor)
            proxies = method.proxies[method.old_classes : method.seen_classes]
            entry.add(f"{place}proxies after its steps", proxies, learner._network.proxy_fc.weight)
            entry.add(f"{place}scale after its steps", method.proxy_scale, learner._network.proxy_fc.sigma[0])
        if whole or task == TASKS - 1:
            compare_prototypes(entry, place, learner, method)
            compare_answers(entry, place, learner, method, trains)
        learner.after_task()


def start_official(learner: Any, data: Data) -> None:
    """The official learner's own entry of a task, up to its training."""
    manager = SimpleNamespace(get_task_size=lambda _: PER_TASK, get_dataset=lambda *_, **__: SimpleNamespace())
    loader = mock.patch.object(sys.modules["models.ease"], "DataLoader", lambda *_, **__: data.official())
    learner.test_loader = None
    with loader, mock.patch.object(learner, "_train"), mock.patch.object(learner, "replace_fc"):
        learner.incremental_train(manager)
    labels = torch.cat([labels for _, labels in data.content]).numpy()
    learner.train_dataset_for_protonet = SimpleNamespace(labels=labels)
    with torch.no_grad():
        for adapter in learner._network.backbone.cur_adapter:
            adapter.up_proj.weight.normal_(std=0.2)
            adapter.up_proj.bias.normal_(std=0.2)


@torch.no_grad()
def start_ours(method: EASE, learner: Any, task: int) -> None:
    """Enter the task; adapters and proxies start as drawn by the official side."""
    info = TaskInfo(task, range(task * PER_TASK, (task + 1) * PER_TASK), (PER_CLASS,) * PER_TASK)
    method.enter_task(info)
    method.begin_task(info)
    if method.phases():
        for name, tensor in adapters_of(learner._network.backbone).items():
            getattr(method.adapters[task], name).copy_(tensor)
        method.proxies[method.old_classes : method.seen_classes] = learner._network.proxy_fc.weight


def compare_gradients(entry: Entry, place: str, learner: Any, method: EASE, masks: Masks, data: Data) -> None:
    """Loss and all gradients of the first step."""
    network, images, labels = learner._network.train(), *data.content[0]
    adapters = method.adapters[method.task_index]
    declare_trainable(method, method.parameter_groups())
    with mock.patch.object(nn.functional, "dropout", masks.official):
        theirs = nn.functional.cross_entropy(network(images)["logits"], labels - method.old_classes)
    with mock.patch.object(method, "_masks", masks.ours):
        mine = method.training_step(Batch(images, labels))
    mine.backward()
    theirs.backward()
    entry.add(f"{place}loss of a step", mine, theirs)
    for name, gradient in adapters_of(network.backbone, "grad").items():
        entry.add(f"{place}gradient of adapters' {name}", getattr(adapters, name).grad, gradient)
    assert method.proxies.grad is not None and method.proxy_scale.grad is not None
    gradient = method.proxies.grad[method.old_classes : method.seen_classes]
    entry.add(f"{place}gradient of proxies", gradient, network.proxy_fc.weight.grad)
    entry.add(f"{place}gradient of the scale", method.proxy_scale.grad, network.proxy_fc.sigma.grad[0])
    network.zero_grad()


@contextlib.contextmanager
def recorded(ease: Any, record: SimpleNamespace) -> Iterator[None]:
    """Note the losses and rates of the official loop's steps."""
    cross_entropy, step = nn.functional.cross_entropy, torch.optim.SGD.step

    def loss_of(*given: Any) -> Tensor:
        loss = cross_entropy(*given)
        record.losses.append(loss.item())
        return loss

    def step_of(self: torch.optim.SGD, *given: Any) -> Any:
        record.rates.append(self.param_groups[0]["lr"])
        return step(self, *given)

    functional = SimpleNamespace(cross_entropy=loss_of, softmax=nn.functional.softmax)
    with mock.patch.object(ease, "F", functional), mock.patch.object(torch.optim.SGD, "step", step_of):
        yield


def train(method: EASE, masks: Masks, data: Data) -> tuple[list[float], list[float]]:
    """The task's steps as the engine takes them: losses and rates."""
    groups = method.parameter_groups()
    declare_trainable(method, groups)
    segment, losses, rates = OptimizationSegment(SCHEDULE, groups, EPOCHS), list[float](), list[float]()
    with mock.patch.object(method, "_masks", masks.ours):
        for _ in range(EPOCHS):
            for batch in data.shown:
                segment.set_rate(len(data.shown))
                loss = method.training_step(batch)
                segment.descend(loss, method)
                losses.append(loss.item())
                rates.append(segment.optimizer.param_groups[0]["lr"])
    assert not masks.drawn
    return losses, rates


def compare_prototypes(entry: Entry, place: str, learner: Any, method: EASE) -> None:
    theirs, count = learner._network.fc.weight.data.view(method.seen_classes, -1, WIDTH), method.passes_at_test
    if method.uses_bare:
        entry.add(f"{place}bare prototypes", method.bare_prototypes[: method.seen_classes], theirs[:, 0])
        theirs = theirs[:, 1:]
    entry.add(
        f"{place}prototypes, synthesised ones included",
        method.prototypes[: method.seen_classes, :count],
        theirs[:, :count],
    )


@torch.no_grad()
def compare_answers(entry: Entry, place: str, learner: Any, method: EASE, trains: bool) -> None:
    """Logits and predictions for other images of all classes seen."""
    shown = [images for earlier in range(method.task_index + 1) for images, _ in Data(earlier, seed=50).content]
    images = torch.cat(shown)
    theirs = learner._network.eval()(images, test=True)["logits"]
    mine = method.predict(Batch(images, query=method.backbone.features(images)))
    if trains:
        entry.add(f"{place}test logits", mine, theirs)
    entry.add(f"{place}predictions", mine.argmax(dim=1), theirs.argmax(dim=1))


if __name__ == "__main__":
    run_adapter(make)
