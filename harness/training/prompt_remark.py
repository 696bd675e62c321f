"""A warning of backbones on which prompts can do hardly anything, measured once as a run begins."""

from __future__ import annotations

import torch

from smope_bench.benchmarks.stream import Stream
from smope_bench.harness.training.batches.data import test_batches
from smope_bench.harness.training.batches.feeder import Feeder
from smope_bench.harness.training.observer import evenly_chosen_images
from smope_bench.methods.common.prompts.prompt_mass import is_inert, untrained_shares
from smope_bench.methods.common.vit.vit import PromptedViT

IMAGES = 8


def prompt_remark(backbone: PromptedViT, stream: Stream, device: torch.device, feeder: Feeder) -> str | None:
    """A sentence where most blocks give an untrained prefix less than 2 % of their attention; None elsewhere.

    Measured on a few training images of the first task; no state of the run changes. None where memory does not last for it:
    a remark must not end a run that goes on with less memory.
    """
    views = evenly_chosen_images([stream.tasks[0].train], IMAGES)
    batches = (
        batch
        for view in views
        for batch in test_batches(view, stream.transforms, batch_size=IMAGES, device=device, feeder=feeder)
    )
    try:
        shares = untrained_shares(backbone, torch.cat([batch.images for batch in batches]))
    except torch.OutOfMemoryError:
        return None
    if not is_inert(shares):
        return None
    listed = ", ".join(f"{100 * share:.2g}" for share in shares)
    return f"prompts are nearly inert here: an untrained prefix receives {listed} % of the attention, by block"
