#!/usr/bin/env bash
# ptflops 0.7.5, torchinfo 1.8.0, thop 0.1.1, fvcore 0.1.5, torch 2.14.1, timm 1.0.31 (PyPI, on the CPU): one ViT, five costs.
#
# Expected by most: counters of multiply-adds agree within a percent or so on a plain vision transformer (ViT-Ti/16 at 224 px).
# Seen: by hand 1.253 G, of which attention's own products are 0.179 G. torch's FlopCounterMode (halved) and thop give 1.075 G,
#       fvcore 1.079 G and ptflops' operator backend 1.079 G: attention's products are left out, as fused attention is one operator on
#       the CPU that none has a formula for. ptflops' default backend gives 0.913 G, and torchinfo 0.034 G, a 37th: it counts a linear
#       layer once, not once a token. None says a word.
# Exits 0 as long as this holds, 1 when the behaviour has changed. Needs PyTorch, and so 6 GB of disk and some minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "torch==2.14.1" "torchvision==0.29.1" "timm==1.0.31" "numpy==2.2.6" "fvcore==0.1.5.post20221221" \
    "thop==0.1.1.post2209072238" "ptflops==0.7.5" "torchinfo==1.8.0"
cat >look.py <<'PYTHON'
import logging
import sys
import warnings

import thop
import timm
import torch
import torchinfo
from fvcore.nn import FlopCountAnalysis
from ptflops import get_model_complexity_info
from torch.utils.flop_counter import FlopCounterMode

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
tokens, width, depth, image = 197, 192, 12, torch.zeros(1, 3, 224, 224)


def vit():
    return timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()


def by_ptflops(backend):
    return get_model_complexity_info(
        vit(), (3, 224, 224), as_strings=False, print_per_layer_stat=False, backend=backend
    )[0]


layers = 196 * 768 * width + depth * 12 * tokens * width**2
attention = depth * 2 * tokens**2 * width
with FlopCounterMode(display=False) as counter:
    vit()(image)
found = {
    "by hand": layers + attention,
    "by hand without attention's products": layers,
    "torch": counter.get_total_flops() / 2,
    "thop": thop.profile(vit(), (image,), verbose=False)[0],
    "fvcore": FlopCountAnalysis(vit(), image).total(),
    "ptflops, aten": by_ptflops("aten"),
    "ptflops, pytorch": by_ptflops("pytorch"),
    "torchinfo": torchinfo.summary(vit(), input_data=image, verbose=0).total_mult_adds,
}
for name, count in found.items():
    print(f"{name}: {count / 1e9:.3f} G multiply-adds")
seen = {name: round(count / 1e9, 3) for name, count in found.items()}
expected = [1.253, 1.075, 1.075, 1.075, 1.079, 1.079, 0.913, 0.034]
sys.exit(list(seen.values()) != expected)
PYTHON
venv/bin/python look.py
