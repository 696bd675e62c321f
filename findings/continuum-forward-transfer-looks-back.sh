#!/usr/bin/env bash
# continuum 1.2.7 (PyPI): forward_transfer is the accuracy on EARLIER tasks.
#
# Expected by most: forward transfer, with the cited definition of Lopez-Paz and Ranzato, is measured on tasks that are not yet learned,
#       above the diagonal of the accuracy matrix.
# Seen: the sum runs over j < i, below the diagonal. A model that knows every future task and keeps nothing gets 0.0; one that keeps
#       everything and knows nothing of the future gets 1.0.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "numpy==2.2.6"
venv/bin/pip install -q --no-deps "continuum==1.2.7" # its metrics need numpy only; the package as a whole imports torch
cat >look.py <<'PYTHON'
import runpy
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

print(f"continuum {version('continuum')}")
installed = next(Path(sys.prefix).glob("lib/python*/site-packages/continuum/metrics/metrics.py"))
forward_transfer = runpy.run_path(str(installed))["forward_transfer"]
ids = np.repeat(np.arange(3), 10)


def value(known):
    """Of a model that answers the images of task j right after task i where ``known(i, j)`` holds."""
    predictions = [np.array([task if known(stage, task) else -1 for task in ids]) for stage in range(3)]
    return float(forward_transfer(predictions, [ids] * 3, [ids] * 3))


seen = {"knows the future, keeps nothing": value(lambda i, j: j >= i), "keeps all, knows no future": value(lambda i, j: j <= i)}
print("forward transfer:", seen)
sys.exit(list(seen.values()) != [0.0, 1.0])
PYTHON
venv/bin/python look.py
