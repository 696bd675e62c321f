#!/usr/bin/env bash
# torch 2.14.1 (PyPI, on the CPU): FlopCounterMode counts the products of nn.GRU and none of nn.LSTM.
#
# Expected by most: two recurrent layers of the same sizes cost 4/3 of each other by the counter (four gates against three), or both nothing.
# Seen: GRU(5, 6) over 3 steps of 2 sequences counts 2,376 operations, LSTM(5, 6) counts 0, without a word: on the CPU it runs as one
#       oneDNN operator for which the counter has no formula. (With MKL-DNN switched off it counts 3,168.)
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
from torch.utils.flop_counter import FlopCounterMode


def count(kind):
    with FlopCounterMode(display=False) as counter:
        kind(5, 6)(torch.ones(2, 3, 5))
    return counter.get_total_flops()


print("torch", torch.__version__)
found = [count(torch.nn.GRU), count(torch.nn.LSTM)]
with torch.backends.mkldnn.flags(enabled=False):
    found.append(count(torch.nn.LSTM))
print("operations counted: GRU, LSTM, LSTM without oneDNN =", found)
sys.exit(found != [2376, 0, 3168])
PYTHON
venv/bin/python look.py
