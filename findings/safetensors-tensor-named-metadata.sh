#!/usr/bin/env bash
# safetensors 0.8.0 (PyPI): a tensor called "__metadata__" is saved without complaint into a file that nothing can read.
#
# Expected by most: the one reserved name of the format is refused by save, as a wrong dtype is.
# Seen: save succeeds; load fails with "invalid JSON in header", and the other tensors of the file cannot be read either.
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
from safetensors import SafetensorError
from safetensors.numpy import load, save

print(f"safetensors {safetensors.__version__}")
data = save({"weight": np.ones(3, np.float32), "__metadata__": np.ones(3, np.float32)})
print(f"saved {len(data)} bytes")
try:
    print("loaded", sorted(load(data)))
except SafetensorError as error:
    print("not loaded:", error)
    sys.exit(0)
sys.exit(1)
PYTHON
venv/bin/python look.py
