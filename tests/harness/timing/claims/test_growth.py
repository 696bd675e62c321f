"""What a step costs is linear in images and does not grow with finished tasks, counted, not timed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from smope_bench.harness.hardware.memory import MIB
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.timing.claims.step import CLASSES, TASKS, bench_step, checkpoint_mb, method_step
from smope_bench.harness.timing.measure import saved_bytes
from smope_bench.methods.baselines.ncm import Ncm
from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.smope import SMoPE


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def smope_step(vit: PromptedViT, *, finished: int, images: int) -> tuple[int, Counter[str], int]:
    """FLOPs, operations, and bytes of the storages that the graph keeps, of one step."""
    taken = method_step(SMoPE, "smope", vit, torch.rand(images, 3, 16, 16), finished)
    assert taken is not None
    with FlopCounterMode(display=False) as flops:
        kept = saved_bytes(taken.take)
    with Operations() as operations:
        taken.take()
    return flops.get_total_flops(), operations.counts, kept


def test_a_step_does_not_grow_with_finished_tasks(micro_vit: PromptedViT) -> None:
    images = 4
    early, late = (smope_step(micro_vit, finished=finished, images=images) for finished in (1, TASKS - 1))
    # Forward, input and weight gradient of the classifier's rows: those of classes seen, and nothing else.
    rows = (TASKS - 2) * CLASSES // TASKS
    assert late[0] - early[0] == 3 * 2 * images * micro_vit.feature_dim * rows
    assert late[1] == early[1], "other operations"
    assert late[2] == early[2], "the graph keeps more"


def test_a_step_is_linear_in_images(micro_vit: PromptedViT) -> None:
    two, four, eight = (smope_step(micro_vit, finished=1, images=images)[0] for images in (2, 4, 8))
    assert eight - four == 2 * (four - two) > 0
    assert 0 < 2 * two - four < two, "what no image adds to: old against new prefixes"


def test_the_timed_step_comes_after_the_finished_tasks(registries: Registries, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"backbone": MICRO, "batch": 2, "repeats": 1, "precision": "fp32", "device": "cpu"}
    entered: list[int] = []
    original = SMoPE.enter_task
    monkeypatch.setattr(SMoPE, "enter_task", lambda self, task: entered.append(task.index) or original(self, task))
    rows = bench_step(registries, ["smope"], finished=9, **asked)
    assert rows[-1].name == "smope" and max(entered) == 9


def test_the_checkpoint_is_measured_with_what_a_task_adds(micro_vit: PromptedViT) -> None:
    kept, a_task = checkpoint_mb(Ncm, "ncm", micro_vit)
    of_a_class = 2 * 4 * micro_vit.feature_dim + 8  # mean and variances in float32, a count in int64
    assert a_task == CLASSES // TASKS * of_a_class / MIB
    assert kept == TASKS * a_task + 3 * 8 / MIB, "and the method's own progress"
