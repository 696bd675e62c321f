#!/usr/bin/env bash
# torch 2.14.1 (PyPI, on the CPU): in bfloat16 nn.functional.linear rounds a transposed input's outputs twice.
#
# Expected by most: a linear layer gives the same bits for the same numbers, whether they lie in one piece or are a transposed view (in
# float32 it does), as sequence-first tokens are.
# Seen: of (3, 197, 96) tokens that are a transposed view, 29 percent of the outputs differ from those of their contiguous copy: the
#       product is rounded to bfloat16, then the bias is added and rounded again (autograd shows AddBackward0), while the copy goes
#       through one operator. The mean error against float64 is 1.37 times as large.
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
from torch.nn.functional import linear

torch.manual_seed(0)
tokens = torch.randn(197, 3, 96).bfloat16().transpose(0, 1)
weight, bias = (torch.randn(*shape).bfloat16().requires_grad_() for shape in ((64, 96), (64,)))
view, copy = linear(tokens, weight, bias), linear(tokens.contiguous(), weight, bias)
exact = linear(tokens.double(), weight.double(), bias.double())
differ = (view != copy).float().mean().item()
errors = [(each.double() - exact).abs().mean().item() for each in (view, copy)]
single = [linear(each.float(), weight.float(), bias.float()) for each in (tokens, tokens.contiguous())]
print("torch", torch.__version__, "bfloat16:", view.grad_fn.name(), "for the view,", copy.grad_fn.name(), "for the copy")
print(f"bfloat16: {100 * differ:.0f} % of the outputs differ; mean errors {errors[0]:.4f} and {errors[1]:.4f}")
print("float32: equal", torch.equal(*single))
sys.exit(not (differ > 0.1 and errors[0] > 1.2 * errors[1] and torch.equal(*single)))
PYTHON
venv/bin/python look.py
