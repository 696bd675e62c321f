"""CPG beside its official repository: three tasks of its own steps, projections and evaluation, on a small ViT.

Needs ``einops``, which the repository imports and this project does not.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from smope_bench.methods.common.api import Batch, Setup, TaskInfo
from smope_bench.methods.common.null_space import null_projector
from smope_bench.methods.common.schedules import Schedule, learning_rate, optimizer_of
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.cpg import CPG, CPGConfig, balance_loss, gates
from tests.fidelity.ledger import Entry, revision, run_adapter  # pyright: ignore[reportMissingImports]

NAME = "ConsistentMoEPromptGenerator"
VIT: dict[str, Any] = {"img_size": 28, "patch_size": 2, "embed_dim": 48, "depth": 4, "num_heads": 4}
TASKS, CLASSES, BATCH, STEPS, IMAGES, RATE, DECAY, TEMPERATURE = 3, 2, 8, 5, 220, 0.01, 5e-5, 28.0
TRAINED = ("w_gate", "w_noise", "experts", "head")
SETTING = (
    f"ViT of width {VIT['embed_dim']}, {VIT['depth']} blocks, 4 heads, 28 px in 197 tokens (the official code has this number"
    f" written in), random weights; {TASKS} tasks of {CLASSES} classes, 36 experts of 4 tokens of which 4 are kept; batches of"
    f" {BATCH}, {STEPS} steps of the official loop a task with its Adam at {RATE} and decay {DECAY}, temperature 28, balance 0.05;"
    f" second moments over {IMAGES} images, the last batch a short one. Routers start at random values, as equal scores are"
    " broken by different rules. In the first block every image asks the same, so its second moments have rank one and the null"
    " directions that lie at the threshold are rounding: ours take the official projectors there, after each task. Classifiers of"
    " the first and third task are drawn by the official code and copied; the second's is not."
)
DEVIATIONS = [
    (
        "Equal scores are broken by the smaller index",
        "routers start at zero, so all experts tie in the first step; torch's top-k picks others on a CPU and maybe on a GPU",
    ),
    (
        "Singular values and null directions in float64 on the CPU",
        "the official ones are float32 on the GPU; where the threshold lies among singular values that are rounding, directions"
        " differ",
    ),
    (
        "A pass over the images is an epoch",
        "the official epoch lists every image ten times: 10 x 10 passes are 100 epochs here, whose last batches are each"
        " incomplete (1,400 steps a task of CIFAR-100 for 1,390)",
    ),
    (
        "The noise routers, which never get a gradient, exist only with noisy_gating=true",
        "the official code keeps its generator in evaluation mode, so that no noise is drawn",
    ),
    (
        "noisy_gating=true compares scores with scores in its load",
        "the official lines, which are never reached, compare scores with probabilities",
    ),
    ("Gates in float32 under autocast", "the official ones are computed in half precision up to the softmax"),
]


class Official:
    """The official model, loop and projections, with the device and the loaders replaced."""

    def __init__(self, root: Path, data: list[TensorDataset]) -> None:
        self.root, self.data = root / NAME, data
        with importable(self.root):
            self.code: Any = importlib.import_module("train_eval")
            self.vit: Any = importlib.import_module("utils.vit_builder")
            self.adam: Any = importlib.import_module("utils.mod_adam")
        self.losses: list[float] = []
        self.code.misc.ScalarMeter = self._meter
        prompt = {
            "prompt_len": 4,
            "prompt_init": "uniform",
            "prompt_start_block": 0,
            "prompt_end_block": VIT["depth"] - 1,
        }
        moe = {
            "moe_num_experts": 36,
            "moe_topk": 4,
            "moe_nosiy_gating": True,
            "moe_impt_coef": 0.05,
            "moe_frozen_qx_coef": 0.0,
        }
        other = {"logit_scale": 4.6, "logit_scale_trainable": False, "logit_type": "head_out"}
        self.model: Any = self.vit.VisionTransformer(
            **VIT, num_classes=CLASSES, prompt_args_dict=prompt, moe_args_dict=moe, other_args_dict=other
        )
        with torch.no_grad():
            for block in self.model.blocks:
                block.moe_prompt.w_gate.normal_(std=0.1)
            for name, parameter in self.model.named_parameters():
                if not any(part in name for part in TRAINED):
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        self.state: Any = self.code.GlobalVarsManager()
        self.state.args = argparse.Namespace(
            **moe, temperature=TEMPERATURE, use_amp=False, prob_cutmixup=0, prompt_len=4, prompt_start_block=0,
            prompt_end_block=VIT["depth"] - 1, seperate_head=True, show_bar=False, logit_type="head_out", dataset="imagenet_r",
            transform_type="autoaug", eval_batch_size=100, eval_workers=0, timeout=0, null_data_shuffle=False,
            null_use_all_seen=False, null_interm_batches=-1, null_interm_accum="sum", null_thres_mode="adaptive",
            null_thres_value1=0.0, null_thres_value2=0.0, null_eta1=1.0, null_eta2=0.99,
        )  # fmt: skip
        self.state.cl_mngr = self.code.ClassIncrementalManager(list(range(TASKS * CLASSES)), TASKS, shuffle=False)
        self.state.cache_dict = {"not_pretrained_params": [], "update_proj_dict": {}, "interm_tensor_dict": {}}
        self.state.param_dict = {}

    def _meter(self, **_: Any) -> Any:
        def keep(count: int, loss: float, **_: Any) -> None:
            self.losses.append(loss)

        return types.SimpleNamespace(add_step_value=keep, update_epoch_average_value=dict, format_outout=lambda _: "")

    def enter_task(self) -> None:
        """What the official code does before the first step of the next task."""
        self.task, classes = next(self.state.cl_mngr)
        cache = self.state.cache_dict
        with cpu_only():
            self.model = self.code.set_model_mode(self.state, self.model, training=True, training_string=TRAINED)
            self.model = self.code.modify_head(self.state, self.model, training=True, task_classes=classes)
        if self.task == 0:
            cache["null_param_id_dict"] = self.code.get_param_id_dict(self.model, ("experts", "w_gate"))
        trained = filter(lambda parameter: parameter.requires_grad, self.model.parameters())
        self.optimizer = self.adam.ModAdam(
            trained, cache["update_proj_dict"], arg_dict={}, lr=RATE, weight_decay=DECAY, foreach=True
        )

    def step(self, batch: Batch) -> float:
        """One step; the loss before it. Gradients stay on the parameters."""
        loader = [(batch.images, batch.targets - self.task * CLASSES)]
        with cpu_only():
            self.code.train_one_epoch(self.state, 1, loader, self.model, nn.CrossEntropyLoss(), self.optimizer)
        return self.losses[-1]

    def end_task(self) -> None:
        """Second moments and projections, then the classifier of all classes."""
        cache, images = self.state.cache_dict, self.data[self.task]
        with cpu_only():
            self.code.cache_state(self.state, self.task, self.model)
            if self.task + 1 < TASKS:
                with mock.patch.object(self.code, "define_dataset", lambda *_, **__: images):
                    new = self.code.get_interm_tensor_dict(self.state, self.model, cache["null_param_id_dict"])
                old = cache["interm_tensor_dict"]
                cache["interm_tensor_dict"] = self.code.accumulate_interm_tensor_dict(self.state, old, new)
                cache["update_proj_dict"] = self.projections(cache["interm_tensor_dict"])
            self.model = self.code.modify_head(self.state, self.model, training=False)

    def projections(self, moments: dict[int, Any]) -> dict[int, Any]:
        """The official projection matrices of some second moments, by parameter."""
        return self.code.get_update_projection_dict(self.state, self.state.cache_dict["null_param_id_dict"], moments)

    def matrices(self, what: str) -> tuple[Tensor, Tensor]:
        """Of routers and of experts: second moments (``interm_tensor_dict``) or projections, a block each."""
        found = self.state.cache_dict[what]
        parts = [block.moe_prompt for block in self.model.blocks]
        return (
            torch.stack([found[id(part.w_gate)]["interm_reader_1"] for part in parts]),
            torch.stack([found[id(part.experts)]["interm_reader_2"] for part in parts]),
        )

    def packed(self, gradient: bool = False) -> dict[str, Tensor]:
        """Experts, routers and the task's classifier, or their gradients."""
        parts = [block.moe_prompt for block in self.model.blocks]
        taken = {
            "experts": [part.experts for part in parts],
            "routers": [part.w_gate for part in parts],
            "classifier weight": [self.model.head.weight],
            "classifier bias": [self.model.head.bias],
        }
        return {
            name: torch.stack([(one.grad if gradient else one).detach().clone() for one in each])
            for name, each in taken.items()
        }

    def backbone(self) -> PromptedViT:
        """The official ViT's weights in ours."""
        kept = {
            name: value
            for name, value in self.model.state_dict().items()
            if "moe_prompt" not in name and not name.startswith(("head", "logit_scale"))
        }
        vit = VisionTransformer(**VIT, num_classes=0)
        vit.load_state_dict(kept)
        return PromptedViT(vit)


@contextlib.contextmanager
def cpu_only() -> Iterator[None]:
    """The official code sends everything to the GPU, whatever it is told."""
    with (
        mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor),
        mock.patch.object(nn.Module, "cuda", lambda module, *_, **__: module),
    ):
        yield


@contextlib.contextmanager
def importable(repository: Path) -> Iterator[None]:
    """Make the repository's modules importable: names that torch has removed since, and CLIP, which is not compared."""
    clip, model = types.ModuleType("clip"), types.ModuleType("clip.model")
    model.CLIP = type("CLIP", (), {})  # type: ignore[attr-defined]
    names = importlib.import_module("torch.optim.optimizer")
    with (
        mock.patch.dict(sys.modules, {"clip": clip, "clip.clip": model}),
        mock.patch.object(names, "params_t", Any, create=True),
        mock.patch.object(names, "_dispatch_sqrt", math.sqrt, create=True),
        mock.patch.object(sys, "path", [str(repository), *sys.path]),
    ):
        yield


class Images:
    """A task's images for our ``end_task``."""

    def __init__(self, data: TensorDataset) -> None:
        self.images, self.labels = data.tensors

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        return (Batch(*pair) for pair in zip(self.images.split(64), self.labels.split(64), strict=True))


def make_task(index: int) -> TensorDataset:
    """Random images with labels of a task."""
    return TensorDataset(torch.rand(IMAGES, 3, 28, 28), index * CLASSES + torch.arange(IMAGES) % CLASSES)


def ours(method: CPG, gradient: bool = False) -> dict[str, Tensor]:
    """As ``Official.packed``."""
    new = slice(method.old_classes, method.seen_classes)
    taken = [method.experts, method.routers, method.head.weight, method.head.bias]
    experts, routers, weight, bias = [one.grad if gradient else one.detach() for one in taken]
    assert experts is not None and routers is not None and weight is not None and bias is not None
    return {
        "experts": experts,
        "routers": routers,
        "classifier weight": weight[None, new],
        "classifier bias": bias[None, new],
    }


def compare(root: Path) -> Entry:
    """Three tasks on both sides."""
    data = [make_task(index) for index in range(TASKS)]
    official = Official(root, data)
    schedule = Schedule(batch_size=BATCH, epochs=1, lr=RATE, shape="constant", optimizer="adam", weight_decay=DECAY)
    setup = Setup(TASKS * CLASSES, TASKS, schedule)
    method = CPG(CPGConfig(temperature=TEMPERATURE), official.backbone(), setup)
    entry = Entry(method.name, "CPG", f"zugexiaodui/{NAME}", revision(official.root), SETTING, deviations=DEVIATIONS)
    _compare_parts(entry, official)
    with torch.no_grad():
        for name, value in official.packed().items():
            if name in ("experts", "routers"):
                getattr(method, name).copy_(value)
    for index in range(TASKS):
        _compare_task(entry, official, method, schedule, Images(data[index]), index)
    return entry


def _compare_task(entry: Entry, official: Official, method: CPG, schedule: Schedule, data: Images, index: int) -> None:
    where = f"task {index + 1}"
    official.enter_task()
    task = TaskInfo(index, range(index * CLASSES, (index + 1) * CLASSES), (IMAGES // CLASSES,) * CLASSES)
    method.enter_task(task)
    method.begin_task(task)
    if index == 1:
        mine = ours(method)["classifier weight"]
        entry.add(f"{where}: classifier at its start", mine, official.packed()["classifier weight"])
    else:
        with torch.no_grad():
            new = slice(method.old_classes, method.seen_classes)
            method.head.weight[new] = official.model.head.weight
            method.head.bias[new] = official.model.head.bias
    optimizer = optimizer_of([(group.parameters, RATE, None) for group in method.parameter_groups()], schedule)
    losses: list[tuple[float, float]] = []
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        batch = Batch(data.images[rows], data.labels[rows])
        optimizer.zero_grad()
        loss = method.training_step(batch)
        loss.backward()
        losses.append((loss.item(), official.step(batch)))
        if step == 0:
            theirs = official.packed(gradient=True)
            for name, value in ours(method, gradient=True).items():
                entry.add(f"{where}: gradient of {name}", value, theirs[name])
        method.apply_step(optimizer)
    mine, theirs = zip(*losses, strict=True)
    entry.add(f"{where}: total loss of {STEPS} steps", torch.tensor(mine), torch.tensor(theirs))
    official_values = official.packed()
    for name, value in ours(method).items():
        entry.add(f"{where}: {name} after {STEPS} steps", value, official_values[name])
    method.end_task(data)
    official.end_task()
    if index + 1 < TASKS:
        _compare_matrices(entry, official, method, where)
    _compare_predictions(entry, official, method, where)


@torch.no_grad()
def _compare_matrices(entry: Entry, official: Official, method: CPG, where: str) -> None:
    routers, experts = official.matrices("interm_tensor_dict")
    entry.add(f"{where}: second moments of queries", method.moments_router, routers)
    entry.add(f"{where}: second moments of gates", method.moments_experts, experts)
    routers, experts = official.matrices("update_proj_dict")
    entry.add(f"{where}: projections of routers, later blocks", method.projection_router[1:], routers[1:])
    entry.add(f"{where}: projections of experts, later blocks", method.projection_experts[1:], experts[1:])
    method.projection_router[0], method.projection_experts[0] = routers[0], experts[0]


@torch.no_grad()
def _compare_predictions(entry: Entry, official: Official, method: CPG, where: str) -> None:
    images = torch.rand(64, 3, 28, 28)
    with cpu_only():
        official.code.set_model_mode(official.state, official.model, training=False)
        theirs = official.model(images)
    mine = method.predict(Batch(images))
    entry.add(f"{where}: test logits of 64 images", mine, theirs)
    entry.add(f"{where}: predicted classes", mine.argmax(dim=1), theirs.argmax(dim=1))


def _compare_parts(entry: Entry, official: Official) -> None:
    """Gates and balance loss with equal scores and others, projections of a long spectrum, and rates."""
    part = official.vit.MoEPrompt(48, {"prompt_len": 4}, 36, 4, True, 0.05, 0.0).eval()
    for name, deviation in (("equal", 0.0), ("unequal", 0.3)):
        queries, kept = torch.randn(16, 48), []
        nn.init.normal_(part.w_gate, std=deviation)
        handle = part.interm_reader_loss.register_forward_hook(lambda _, given, __, kept=kept: kept.append(given[0]))
        part(queries[:, None], queries)
        handle.remove()
        weights = gates(queries @ part.w_gate, 4)[None]
        if deviation:
            entry.add("gates of unequal scores", weights[0], part.noisy_top_k_gating(queries, False)[0])
        entry.add(f"balance loss, {name} scores", balance_loss(weights, (weights > 0).float()), kept[0])
    turn = torch.linalg.qr(torch.randn(768, 768))[0]
    moments = turn @ torch.diag(100 * torch.exp(-torch.arange(768) / 20)) @ turn.T
    official.state.cache_dict["null_param_id_dict"] = {}
    theirs = official.projections({0: {"interm_reader_1": moments}})[0]["interm_reader_1"]
    entry.add("projection of 768 directions, a smoothed spectrum", null_projector(moments[None])[0], theirs)
    schedule = Schedule(lr=RATE, epochs=10, shape="milestones", milestones=(4, 7), epoch_lag=0)
    mine = [learning_rate(schedule, RATE, step=epoch, loader_steps=1, epochs=10) for epoch in range(10)]
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler, _ = official.code.create_scheduler_v2(
        optimizer, sched="multistep", num_epochs=10, decay_milestones=[5, 8], decay_rate=0.1, warmup_epochs=0
    )
    rates = []
    for epoch in range(11):
        if epoch:
            rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch)
    entry.add("learning rates of ten epochs", torch.tensor(mine), torch.tensor(rates))


if __name__ == "__main__":
    run_adapter(compare)
