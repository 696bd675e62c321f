"""What autograd keeps of a training step, on the pretend device: ``python -m smope_bench.harness.maintenance.kept_bytes METHOD``.

Prints the table of docs/performance.md: MiB an image of a method on ViT-B/16 at 224 px, second task, by precision and memory plan.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from smope_bench.harness.conformance.pretend_device.device import pretend_device
from smope_bench.harness.hardware.memory import MIB
from smope_bench.harness.registry.registry import open_registries
from smope_bench.harness.training.optimization import declare_trainable
from smope_bench.methods.common.api import Batch, Method, Setup, TaskInfo
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit import vit as vit_module
from smope_bench.methods.common.vit.block import run_block
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.vit.vit import PromptedViT

PLANS = (MemoryPlan(), MemoryPlan(checkpoint_mlps=True), MemoryPlan(checkpoint_blocks=True))


class KeptBytes:
    """Bytes of the distinct storages that a graph keeps for its backward pass, by the block that ran; -1 outside of blocks."""

    def __init__(self, vit: PromptedViT, method: Method) -> None:
        """The parameters and buffers of both are not counted."""
        held = [*vit.parameters(), *method.parameters(), *method.buffers()]
        self._held = {tensor.untyped_storage().data_ptr() for tensor in held}
        self._vit, self._method = vit, method

    def of_step(self, images: Tensor, labels: Tensor, precision: str) -> Counter[int]:
        """Of the forward pass of one training step."""
        found, seen, block = Counter[int](), dict[int, Tensor](), -1

        vit, is_short = self._vit, precision == "bf16"
        numbers = {id(one): number for number, one in enumerate(vit.blocks)}

        def entered(one: Any, *inputs: Any, **named: Any) -> Tensor:
            nonlocal block
            block = numbers[id(one)]
            return run_block(one, *inputs, **named)

        def leave(*_: Any) -> None:
            nonlocal block
            block = -1

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._held and storage.data_ptr() not in seen:
                seen[storage.data_ptr()] = tensor  # stays alive, so that no address is used twice
                found[block] += storage.nbytes()
            return tensor

        hook = vit.vit.norm.register_forward_pre_hook(leave)
        autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=is_short, cache_enabled=False)
        with (
            mock.patch.object(vit_module, "run_block", entered),
            autocast,
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            query = (lambda: vit.features(images)) if self._method.needs_query else None
            loss = self._method.training_step(Batch(images, labels, query))
        del loss
        hook.remove()
        return found


def kept_mib(
    method_class: type[Method], config: Mapping[str, Any], vit: PromptedViT, precision: str, plan: MemoryPlan
) -> dict[int, float]:
    """MiB an image by block, in the second task: the difference between steps of three and of two images."""
    with pretend_device():
        placed = vit.to("cuda")
        placed.memory = plan
        method = method_class(method_class.Config(**config), placed, Setup(200, 10, Schedule())).to("cuda")
        phases = []
        for index in range(2):
            task = TaskInfo(index, range(20 * index, 20 * index + 20), (1,) * 20)
            method.enter_task(task)
            method.begin_task(task)
            phases = method.phases()
        method.begin_phase(max(reversed(phases), key=lambda phase: phase.epochs))
        declare_trainable(method, method.parameter_groups())
        kept = KeptBytes(placed, method)
        two, three = (
            kept.of_step(torch.rand(count, 3, 224, 224).to("cuda"), (torch.arange(count) + 20).to("cuda"), precision)
            for count in (2, 3)
        )
    return {block: (three[block] - two[block]) / MIB for block in three}


def main(name: str) -> None:
    """Print the table of a method."""
    registries = open_registries()
    method = registries.methods.load(name)
    print("| precision | " + " | ".join(plan.words for plan in PLANS) + " |\n|" + " --- |" * (1 + len(PLANS)))
    for precision in ("fp32", "bf16"):
        found: list[float] = []
        for plan in PLANS:
            vit = registries.backbones.load("random").load()
            if precision == "bf16":
                vit.keep_products_in(torch.bfloat16)
            found.append(sum(kept_mib(method, {}, vit, precision, plan).values()))
        print(f"| {precision} | " + " | ".join(f"{each:.1f}" for each in found) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
