#!/usr/bin/env bash
# kornia 0.9.0 with torch 2.14.1 (PyPI, on the CPU): in a model that is in eval mode, kornia's augmentations go on.
#
# Expected by most: an augmentation is a layer like dropout: random in train mode, and in eval mode images pass as they are. So it may be the first
#       layer of the network, and test images are not changed.
# Seen: eval() and torch.inference_mode() change nothing: flips, crops and erasing are applied to test images and differ from call to call, alone, in
#       Sequential and in AugmentationSequential. Dropout beside them stops. Leave them out at test time, by hand.
# Exits 0 as long as this holds, 1 when the behaviour has changed. Needs PyTorch, and so 6 GB of disk and some minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "kornia==0.9.0" "torch==2.14.1" "numpy==2.2.6"
cat >look.py <<'PYTHON'
import sys
import warnings

import kornia
import kornia.augmentation as augmentation
import torch
from torch import nn

warnings.simplefilter("ignore")
print(f"kornia {kornia.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
images = torch.rand(32, 3, 16, 16)
layers = {
    "a flip": augmentation.RandomHorizontalFlip(p=0.5),
    "a crop in Sequential": nn.Sequential(augmentation.RandomResizedCrop((16, 16))),
    "erasing in AugmentationSequential": augmentation.AugmentationSequential(augmentation.RandomErasing(p=0.5)),
    "dropout": nn.Sequential(nn.Dropout(0.5)),
}
changed, differ = {}, {}
for name, layer in layers.items():
    layer.eval()
    with torch.inference_mode():
        first, second = layer(images), layer(images)
    changed[name] = (first != images).flatten(1).any(1).sum().item()
    differ[name] = (first != second).flatten(1).any(1).sum().item()
    print(f"{name}, eval: {changed[name]} of 32 images changed, {differ[name]} differ between two calls")
random = [name for name in layers if name != "dropout"]
sys.exit(not (all(changed[name] > 5 and differ[name] > 5 for name in random) and changed["dropout"] == differ["dropout"] == 0))
PYTHON
venv/bin/python look.py
