#!/usr/bin/env bash
# timm 1.0.31 with torch 2.14.1 (PyPI, on the CPU): create_optimizer_v2(layer_decay=...) alone trains all layers at one rate, and a prompt as a head.
#
# Expected by most: with layer_decay=0.5 the groups of the optimiser have falling learning rates, from the head down to the patches, whichever
#       scheduler follows; a prompt that was added to the model before the first block goes with the first layers, or is refused.
# Seen: every group has the same "lr"; the factor lies beside it as "lr_scale", which no optimiser of torch or timm's AdamW reads, nor any scheduler of
#       torch. The first step moves the position embedding as far as the head (0.001), where it should be 1/8192 of it. timm's own
#       schedulers multiply by it, as soon as they exist. The prompt, which the model's layer list does not know, gets the head's 1.0.
#       There is no warning.
# Exits 0 as long as this holds, 1 when the behaviour has changed. Needs PyTorch, and so 6 GB of disk and some minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "timm==1.0.31" "torch==2.14.1" "torchvision==0.29.1" "numpy==2.2.6"
cat >look.py <<'PYTHON'
import sys
import warnings

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

warnings.simplefilter("error")
print(f"timm {timm.__version__}, torch {torch.__version__}")
shown = ("head.weight", "blocks.11.norm1.weight", "pos_embed", "prompt")


def first_step(schedule):
    """How far the first step moves four parameters, all of whose gradients are 1."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    model.prompt = torch.nn.Parameter(torch.zeros(1, 5, 192))  # a user's own, before the first block
    optimiser = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.0, layer_decay=0.5)
    schedule(optimiser)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    optimiser.step()
    moved = {name: (value - before[name]).abs().max().item() for name, value in model.named_parameters()}
    return {name: float(f"{moved[name]:.1e}") for name in shown}


seen = {
    "none": first_step(lambda optimiser: None),
    "torch's cosine": first_step(lambda optimiser: torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10)),
    "timm's cosine": first_step(lambda optimiser: CosineLRScheduler(optimiser, t_initial=10)),
}
for name, moved in seen.items():
    print(f"scheduler {name}: the first step moves {moved}")
none, ours, theirs = seen.values()
held = none == ours == dict.fromkeys(shown, 1e-3) and theirs["head.weight"] == theirs["prompt"] == 1e-3
sys.exit(not (held and theirs["blocks.11.norm1.weight"] == 5e-4 and theirs["pos_embed"] < 2e-7))
PYTHON
venv/bin/python look.py
