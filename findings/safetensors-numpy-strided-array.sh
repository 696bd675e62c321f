#!/usr/bin/env bash
# safetensors 0.8.0 (PyPI): safetensors.numpy.save writes other numbers for an array that is not C-contiguous, without a word.
#
# Expected by most: a transposed or strided view is saved as the array that numpy shows (0.3 to 0.7 do), or it is refused,
#       as safetensors.torch refuses it.
# Seen: the bytes are taken from the view's memory in one piece: a.T and a[:, ::2] come back with the right shape and wrong values.
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
from safetensors.numpy import load, save

print(f"safetensors {safetensors.__version__}, numpy {np.__version__}")
a = np.arange(12, dtype=np.float32).reshape(3, 4)
views = {"a": a, "a.T": a.T, "a[:, ::2]": a[:, ::2], "broadcast": np.broadcast_to(a[0], (3, 4))}
kept = {name: np.array_equal(load(save({"x": view}))["x"], view) for name, view in views.items()}
print("saved and loaded equal:", kept)
sys.exit(kept != {"a": True, "a.T": False, "a[:, ::2]": False, "broadcast": False})
PYTHON
venv/bin/python look.py
