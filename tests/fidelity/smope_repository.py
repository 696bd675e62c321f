"""The official SMoPE repository at work on a small ViT and fixed data, for the fidelity ledger.

Nothing of it is copied: its modules are imported from a clone, and only sizes, the device and the loaders are replaced.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from smope_bench.methods.common.api import Batch

VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 8, "num_heads": 4, "num_classes": 0}
EXPERTS, TOP_K, EPSILON, ALPHA_ROUTER, ALPHA_PROTO = 25, 5, 0.4, 1e-3, 2e-3
CLASSES, TASKS, BATCH, STEPS, EPOCHS, FREEZE, LR = 3, 2, 8, 3, 4, 1, 0.005
TAP_EPOCHS, TAP_RATIO = 4, 2


class Images:
    """Both sides' training data: fixed batches a task, and for the official statistics the images of one class."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        count = BATCH * STEPS
        self.images = torch.rand(TASKS, count, 3, VIT["img_size"], VIT["img_size"], generator=generator)
        order = torch.stack([torch.randperm(count, generator=generator) for _ in range(TASKS)])
        self.labels = order % CLASSES + CLASSES * torch.arange(TASKS)[:, None]
        self.test = torch.rand(32, 3, VIT["img_size"], VIT["img_size"], generator=generator)
        self.class_mapping = {label: label for label in range(TASKS * CLASSES)}
        self.task = 0
        self._chosen: list[int] = []

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.images[self.task].split(BATCH), self.labels[self.task].split(BATCH), strict=True)

    # what our side reads

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        return (Batch(images, labels) for images, labels in self.parts())

    # what the official side reads

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        return ((images, labels, self.task) for images, labels in self.parts())

    def load_class(self, label: int) -> None:
        self._chosen = torch.nonzero(self.labels[self.task] == label).flatten().tolist()

    def __len__(self) -> int:
        return len(self._chosen) or BATCH * STEPS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        row = self._chosen[index]
        return self.images[self.task, row], self.labels[self.task, row], self.task


class Official:
    """The official learner and trainer around a small ViT; only sizes, the device and the loaders are ours."""

    def __init__(self, root: Path, data: Images) -> None:
        sys.path.insert(0, str(root))
        self.zoo: Any = importlib.import_module("models.zoo")
        self.vit: Any = importlib.import_module("models.vit")
        learners: Any = importlib.import_module("learners.prompt")
        self.trainer_module: Any = importlib.import_module("trainer")
        self.zoo.small = self.make
        self.data = data
        self.learner: Any = self._make_learner(learners)
        self.trainer: Any = self.trainer_module.Trainer.__new__(self.trainer_module.Trainer)
        settings = {"learner": self.learner, "train_dataset": data, "batch_size": BATCH, "workers": 0, "seed": 0}
        settings |= {"ca_method": "multi-centroid", "n_centroids": 1, "ca_lr": 1e-4, "ca_weight_decay": 5e-4}
        settings |= {"crct_epochs": TAP_EPOCHS, "ca_batch_size_ratio": TAP_RATIO}
        self.trainer.__dict__.update(settings)
        self.tasks = [list(range(t * CLASSES, (t + 1) * CLASSES)) for t in range(TASKS)]
        self.rates: list[list[float]] = []
        self.losses: list[float] = []

    def _make_learner(self, learners: Any) -> Any:
        return learners.OnePrompt(self._config())

    @staticmethod
    def _config() -> dict[str, Any]:
        prompt = [2 * EXPERTS, TOP_K, ALPHA_ROUTER, ALPHA_PROTO, EPSILON]
        model = {"model_type": "zoo", "model_name": "small", "pretrained_weight": None, "out_dim": TASKS * CLASSES}
        training = {"lr": LR, "momentum": 0.9, "weight_decay": 0, "schedule": [FREEZE, 0, EPOCHS]}
        training |= {"schedule_type": "coswm", "iter_step": STEPS, "optimizer": "AdamW", "gpuid": [-1]}
        other = {"memory": 0, "overwrite": True, "DW": False, "batch_size": BATCH, "tasks": [], "top_k": 1}
        return {"prompt_param": [TASKS, prompt], **model, **training, **other}

    def make(self, out_dim: int, prompt_flag: str, prompt_param: Any, pretrained: Any) -> Any:
        """The official wrapper, which knows ViT-B/16 alone, around smaller official parts."""
        width, heads = VIT["embed_dim"], VIT["num_heads"]
        model = self.zoo.ViTZoo.__new__(self.zoo.ViTZoo)
        nn.Module.__init__(model)
        model.last, model.prompt_flag = nn.Linear(width, out_dim), prompt_flag
        model.task_id, model.pretrained = None, pretrained
        model.prompt = self.zoo.OnePrompt(width, *prompt_param, key_dim=width, num_heads=heads)
        model.feat = self.vit.VisionTransformer(**VIT)
        with torch.no_grad():  # sharper than the official initialisation, so that scores and gradients are not tiny
            for name, parameter in model.feat.named_parameters():
                if parameter.ndim > 1 and "embed" not in name:
                    parameter.normal_(std=0.15)
        return model

    @property
    def model(self) -> Any:
        return self.learner.model

    def enter(self, task: int) -> None:
        """What the official trainer does before a task."""
        self.data.task = task
        self.model.task_id = task
        self.learner.add_valid_output_dim(CLASSES)
        if task > 0:
            self.model.prompt.process_task_count()

    def learn(self) -> None:
        original = self.learner.update_model

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.rates.append([group["lr"] for group in self.learner.optimizer.param_groups])
            loss, output = original(*args, **kwargs)
            self.losses.append(float(loss))
            return loss, output

        self.data._chosen = []
        with mock.patch.object(self.learner, "update_model", noted):
            self.learner.learn_batch(self.data, None, "")

    def align(self, task: int, noise: Tensor, orders: Tensor) -> None:
        """Statistics, then alignment with given Gaussian noise (epochs, classes, n, d) and orders of the samples."""
        self.trainer._compute_mean(model=self.model, class_mask=self.tasks[task])
        if task == 0:
            return
        draws = iter(noise.flatten(0, 1))

        class Forced(self.trainer_module.MultivariateNormal):
            def sample(self, sample_shape: Any = ()) -> Tensor:
                return self.loc + next(draws) @ self.scale_tril.T

        with (
            mock.patch.object(self.trainer_module, "MultivariateNormal", Forced),
            mock.patch.object(torch, "randperm", mock.Mock(side_effect=list(orders))),
        ):
            self.trainer.train_task_adaptive_prediction(model=self.model, class_mask=self.tasks, task_id=task)

    def packed(self, kind: str, what: str = "value") -> Tensor:
        """One of the official per-expert tensors or numbers as (blocks, heads, experts, ...)."""
        prompt = self.model.prompt
        rows = []
        for block in prompt.e_layers:
            for head in range(prompt.num_heads):
                found = [getattr(prompt, f"{kind}_{block}_{expert}_{head}") for expert in range(prompt.num_experts)]
                if what == "grad":
                    found = [torch.zeros_like(one) if one.grad is None else one.grad for one in found]
                rows.append(torch.cat([torch.as_tensor(one).detach().reshape(1, -1) for one in found]))
        return torch.stack(rows).unflatten(0, (len(prompt.e_layers), prompt.num_heads)).squeeze(-1)

    def latch(self) -> Tensor:
        return torch.tensor(self.model.prompt.used_frequently)

    def statistics(self) -> tuple[Tensor, Tensor]:
        mean, variance = self.learner.cls_mean, self.learner.cls_cov
        return torch.stack([mean[c][0] for c in sorted(mean)]), torch.stack([variance[c][0] for c in sorted(variance)])

    def gradients(self, images: Tensor, labels: Tensor, *, dense: bool, router: float, proto: float) -> Tensor:
        """Total loss by the official update with its optimiser held still; gradients stay in the model."""
        prompt, held = self.model.prompt, mock.Mock()
        held.zero_grad = self.model.zero_grad
        weights = mock.patch.multiple(prompt, mu_router=router, mu_router_old=proto)
        with weights, mock.patch.object(self.learner, "optimizer", held):
            return self.learner.update_model(images, labels, dense=dense)[0]

    def extra_loss(self, images: Tensor, *, router: float, proto: float) -> Tensor:
        with mock.patch.multiple(self.model.prompt, mu_router=router, mu_router_old=proto):
            return self.model(images, train=True)[1].sum()

    def tested_as_published(self, images: Tensor) -> Tensor:
        """Logits of a second model that reloads the checkpoint, as the official evaluation does: counts are lost."""
        model = self.learner.create_model()
        model.load_state_dict(self.model.state_dict())
        with torch.no_grad():
            return model(images)[:, : self.learner.valid_out_dim]
