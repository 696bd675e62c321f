"""The official training loops of nine methods at their own size, entered at the second task, for timing.

Each is the repository's own loop: what it executes between one batch and the next, bookkeeping included. Models, learners,
hyper-parameters and optimisers are the repository's (ImageNet-R, 10 tasks, from its configuration files and scripts); replaced
are the pretrained weights, which are random here, the device, the logger's files, and names that timm has moved since. No
parameter is frozen or thawed here: what an official loop leaves asking for gradients goes on doing so.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
from torch import Tensor, nn

from tests.fidelity.coda_prompt_repository import cpu_only, importable  # pyright: ignore[reportMissingImports]
from tests.fidelity.compare_ovor import Arguments, official_modules  # pyright: ignore[reportMissingImports]
from tests.fidelity.moe_promptcl import (  # pyright: ignore[reportMissingImports]
    CPU,
    Official,
    optimizer_of,
    split_rates,
)

CLASSES, TASKS = 200, 10
SIZE = CLASSES // TASKS
Loader = Iterable[tuple[Any, ...]]


@dataclass
class Loop:
    """An official training loop that stands before its second task.

    ``run`` trains on what the loader gives; ``optimizer`` is there once it has begun; ``losses`` fills up step by step.
    ``width``: how many values a batch has: images and labels, and in some repositories the task.
    """

    network: nn.Module
    patch_embed: nn.Module
    run: Callable[[Loader], None]
    optimizer: Callable[[], torch.optim.Optimizer]
    losses: list[float] = field(default_factory=list)
    width: int = 3


@dataclass(frozen=True)
class OfficialStep:
    """How to enter a loop, and what is known of its step.

    ``surplus``: parameters that the official optimiser holds beyond ours, and ``why``.
    """

    repository: str
    enter: Callable[[Path, Tensor], AbstractContextManager[Loop]]
    loop: str
    note: str
    surplus: int = 0
    why: str = ""


@contextlib.contextmanager
def prompt_learner(root: Path, images: Tensor, *, learner: str, prompt: list[float], config: str) -> Iterator[Loop]:
    """A learner of CODA-Prompt's repository or of those that grew from it: ``learn_batch`` of the second task."""
    with importable(root), cpu_only(), _random_weights():
        learners: Any = importlib.import_module("learners.prompt")
        settings = _yaml(root / config) | {
            "out_dim": CLASSES, "prompt_param": [TASKS, prompt], "overwrite": 1, "tasks": [], "top_k": 1, "memory": 0,
            "DW": False, "gpuid": [-1], "pretrained_weight": None,
        }  # fmt: skip
        made = getattr(learners, learner)(settings)
        model, losses = made.model, []
        _first_task(made, images)
        model.prompt.process_task_count()
        model.task_id = 1
        made.add_valid_output_dim(SIZE)
        update = made.update_model

        def noted(*args: Any, **kwargs: Any) -> Any:
            loss, output = update(*args, **kwargs)
            losses.append(loss)
            return loss, output

        made.update_model = noted
        run = partial(made.learn_batch, train_dataset=None, model_save_dir="")
        yield Loop(model, model.feat.patch_embed, run, lambda: made.optimizer, losses)


def _first_task(learner: Any, images: Tensor) -> None:
    """The first task without a training step; where experts are counted, over one batch, so that some count as used."""
    learner.model.task_id = 0
    learner.add_valid_output_dim(SIZE)
    learner.learn_batch([], None, "")
    if hasattr(learner.model.prompt, "update_prompt"):
        with torch.no_grad():
            learner.model.prompt.update_prompt(learner.model(images, train=False, return_attn=True))


@contextlib.contextmanager
def ovor_learner(root: Path, images: Tensor) -> Iterator[Loop]:
    """OVOR's learner with outliers in its last ten epochs: an epoch before those, in the second task."""
    del images
    with official_modules(root) as (prompt, _), _random_weights():
        common = _yaml(root / "configs" / "common.yaml")
        common |= {"tasks": TASKS, "prompt_param": [10, 40, 10], "epochs": [0, 40, 10], "gpus": [0]}
        logger, losses = mock.MagicMock(step=0), []
        logger.train_loss.add = lambda value, n: losses.append(value)
        learner = prompt.OnePrompt(CLASSES, Arguments(**common), logger)
        learner.subset_start, learner.subset_end = SIZE, 2 * SIZE

        def run(loader: Loader) -> None:
            learner.init_optimizer()
            learner.model.train()
            learner._train_one_epoch(loader, 0)

        network = learner.model.module
        yield Loop(network, network.feat.patch_embed, run, lambda: learner.optimizer, losses)


@contextlib.contextmanager
def moe_engine(
    root: Path, images: Tensor, *, modules: tuple[str, str, str], config: str, **extra: Any
) -> Iterator[Loop]:
    """The single-GPU code of HiDe-Prompt and NoRGa: an epoch of the stage that trains prompts, in the second task."""
    del images
    code = Official(root, *modules)
    args = _script_arguments(config)
    model = _prompted(code.vit, args, **extra)
    if hasattr(model.e_prompt, "act_scale"):  # the engine does so before every task but the first
        model.e_prompt.act_scale.requires_grad_(False)
    code.engine.cls_mean = dict(enumerate(torch.rand(SIZE, 768)))
    optimizer = optimizer_of(args, split_rates(args, model))
    masks = [list(range(task * SIZE, (task + 1) * SIZE)) for task in range(TASKS)]
    losses: list[float] = []

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(logits, labels)
        losses.append(loss.detach())  # type: ignore[arg-type]
        return loss

    def run(loader: Loader) -> None:
        unused = nn.Identity()  # the network that infers tasks: only put into evaluation mode here
        train, epoch = code.engine.train_one_epoch, 0
        train(model, unused, criterion, loader, optimizer, CPU, epoch, args.clip_grad, True, 1, masks, None, args)

    yield Loop(model, model.patch_embed, run, lambda: optimizer, losses, width=2)


def _script_arguments(config: str) -> Any:
    """The repository's own arguments, those of its script for ImageNet-R and Sup-21K included."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"configs.{config}").get_args_parser(parser)
    script = "--batch-size 128 --ca_lr 0.005 --crct_epochs 30 --epochs 150 --prompt_momentum 0.01 --length 20 --reg 0.5"
    args: Any = parser.parse_args([*script.split(), "--sched", "cosine", "--larger_prompt_lr"])
    args.distributed, args.nb_classes = False, CLASSES
    args.lr *= args.batch_size / 256
    return args


def _prompted(vit: Any, args: Any, **extra: Any) -> Any:
    """The prompted ViT-B/16 as the official trainer makes and freezes it."""
    taken = (
        "embedding_key", "prompt_pool", "prompt_key", "top_k", "batchwise_prompt", "prompt_key_init", "head_type",
        "use_prompt_mask", "use_g_prompt", "g_prompt_length", "g_prompt_layer_idx", "use_prefix_tune_for_g_prompt",
        "use_e_prompt", "e_prompt_layer_idx", "use_prefix_tune_for_e_prompt", "same_key_value",
    )  # fmt: skip
    chosen = {name: getattr(args, name) for name in taken}
    chosen |= {"prompt_length": args.length, "prompt_init": args.prompt_key_init, "pool_size": args.size}
    size = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
    model = vit.VisionTransformer(num_classes=args.nb_classes, **size, **chosen, **extra)
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(args.freeze)):
            parameter.requires_grad = False
    return model


def _random_weights() -> Any:
    """Stands for the download of weights."""
    return mock.patch.object(
        timm.models, "vit_base_patch16_224", lambda pretrained: timm.create_model("vit_base_patch16_224")
    )


def _yaml(path: Path) -> dict[str, Any]:
    yaml: Any = importlib.import_module("yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _coda(learner: str, prompt: list[float], note: str) -> OfficialStep:
    enter = partial(prompt_learner, learner=learner, prompt=prompt, config="configs/imnet-r_prompt.yaml")
    return OfficialStep("CODA-Prompt", enter, "Prompt.learn_batch", note)


def _moe(norga: bool, config: str) -> OfficialStep:
    found = ("norga_prompt_vision_transformer", "norga_tii_engine", "norga_prompt_engine")
    plain = ("hide_prompt_vision_transformer", "hide_tii_engine", "hide_promtp_wtp_and_tap_engine")
    extra = {"gate_act": "sigmoid"} if norga else {}
    enter = partial(moe_engine, modules=found if norga else plain, config=config, **extra)
    note = (
        "One pass, no query in training; the backbone is frozen by the trainer. Gradient clipping, contrastive term, and a"
        " permuted copy of every prompt in every block."
    )
    gone = "the official pool is one tensor of all tasks' prompts, of which one task's is trained; ours is one tensor a task"
    earlier = (TASKS - 1) * 5 * 2 * 20 * 768
    return OfficialStep("MoE_PromptCL", enter, "train_one_epoch", note, earlier, gone)


WEIGHTS = "No parameter of the backbone is frozen: the prompted pass gathers weight gradients that no optimiser reads."
QUERY = f"A query pass without a graph and a prompted pass, both with all tokens in all blocks. {WEIGHTS}"
OFFICIAL: dict[str, OfficialStep] = {
    "smope": OfficialStep(
        "SMoPE",
        partial(
            prompt_learner,
            learner="OnePrompt",
            prompt=[50, 5, 5e-5, 1e-4, 0.5],
            config="configs/imnet-r_prompt_smope.yaml",
        ),
        "OnePrompt.learn_batch",
        f"One pass; loops over blocks, heads and experts in the prompts and in both losses. {WEIGHTS}",
    ),
    "l2p++": _coda("L2P", [30, 20, -1], QUERY),
    "deep_l2p++": _coda("L2P", [30, 20, 1], QUERY),
    "dualprompt": _coda("DualPrompt", [10, 20, 6], QUERY),
    "coda_prompt": _coda("CODAPrompt", [100, 8, 0.0], QUERY),
    "ovor": OfficialStep("ovor", ovor_learner, "NormalNN._train_one_epoch", f"One pass. {WEIGHTS}"),
    "vq_prompt": OfficialStep(
        "VQ-Prompt",
        partial(prompt_learner, learner="VQPrompt", prompt=[10, 8, 1], config="configs/imnet-r_prompt_vq.yaml"),
        "Prompt.learn_batch",
        QUERY,
    ),
    "hide_prompt": _moe(False, "imr_hideprompt_5e"),
    "norga": _moe(True, "imr_norgaprompt"),
}
