#!/usr/bin/env bash
# torch 2.14.1 (PyPI, on the CPU): a fused optimiser changes parameters without raising their version counter; an unfused one raises it.
#
# Expected by most: parameter._version, by which autograd notices changes in place, grows with every optimizer.step(), so that a cache of
#       something computed from parameters (merged low-rank weights, for example) can tell by it that they have changed.
# Seen: with fused=True the values change and the counter stays at 0, for AdamW, Adam and SGD; with fused=False it grows.
# Exits 0 as long as this holds, 1 when the behaviour has changed. Needs PyTorch, and so 6 GB of disk and some minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "torch==2.14.1" "numpy==2.2.6"
cat >look.py <<'PYTHON'
import sys

import torch

print("torch", torch.__version__)
seen = {}
for name in ("AdamW", "Adam", "SGD"):
    for fused in (True, False):
        parameter = torch.nn.Parameter(torch.ones(3))
        parameter.grad = torch.ones(3)
        getattr(torch.optim, name)([parameter], lr=0.1, fused=fused).step()
        seen[name, fused] = (parameter._version > 0, bool((parameter != 1).all()))
        print(f"{name}, fused={fused}: values changed: {seen[name, fused][1]}, version {parameter._version}")
sys.exit(any(found != (not fused, True) for (_, fused), found in seen.items()))
PYTHON
venv/bin/python look.py
