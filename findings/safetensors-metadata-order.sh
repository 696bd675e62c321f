#!/usr/bin/env bash
# safetensors 0.8.0 (PyPI; also 0.3 to 0.7): the same tensors and metadata saved twice give different bytes.
#
# Expected by most: a format without time stamps is reproducible, and the hash of a file of weights tells whether they are the same.
# Seen: the entries of "metadata" are written in the order of a hash map that is seeded anew in each call. With eight entries hardly two
#       of twenty saves in one process are equal; without metadata, or with one entry, all are. Compare tensors, not files.
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
from safetensors.numpy import save

print(f"safetensors {safetensors.__version__}")
tensors = {"x": np.zeros(2, np.float32)}
distinct = {}
for entries in (0, 1, 8):
    metadata = {f"key{number}": "value" for number in range(entries)} or None
    distinct[entries] = len({save(tensors, metadata=metadata) for _ in range(20)})
print("different files among 20 saves, by number of metadata entries:", distinct)
sys.exit(not (distinct[0] == distinct[1] == 1 < distinct[8]))
PYTHON
venv/bin/python look.py
