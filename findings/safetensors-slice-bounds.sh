#!/usr/bin/env bash
# safetensors 0.8.0 (PyPI): get_slice takes Python's slices but not their bounds.
#
# Expected by most: f.get_slice(name)[-2:] and [1:100] mean what they mean for the array, as [-1], [::2] and [:, -1] do.
# Seen: [-2:] is an OverflowError ("can't convert negative int to unsigned"), [1:100] of three rows a SafetensorError about index 99, and
#       the empty [2:1] a SystemError (an error of the interpreter's own) instead of an array without rows.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "safetensors==0.8.0" "numpy==2.2.6"
cat >look.py <<'PYTHON'
import sys

import numpy as np
import safetensors
from safetensors import safe_open
from safetensors.numpy import save_file

print(f"safetensors {safetensors.__version__}")
a = np.arange(12, dtype=np.float32).reshape(3, 4)
save_file({"x": a}, "x.safetensors")
seen = {}
with safe_open("x.safetensors", "numpy") as file:
    rows = file.get_slice("x")
    for name, index in {"[-1]": -1, "[::2]": np.s_[::2], "[-2:]": np.s_[-2:], "[1:100]": np.s_[1:100], "[2:1]": np.s_[2:1]}.items():
        try:
            seen[name] = "as numpy" if np.array_equal(rows[index], a[index]) else "differs"
        except Exception as error:
            seen[name] = type(error).__name__
print(seen)
expected = {"[-1]": "as numpy", "[::2]": "as numpy", "[-2:]": "OverflowError", "[1:100]": "SafetensorError", "[2:1]": "SystemError"}
sys.exit(seen != expected)
PYTHON
venv/bin/python look.py
