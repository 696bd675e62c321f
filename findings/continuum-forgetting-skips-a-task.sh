#!/usr/bin/env bash
# continuum 1.2.7 (PyPI): forgetting and backward transfer of two tasks are 0 whatever was forgotten.
#
# Expected by most: of two tasks, the first learned to 100% and lost entirely, forgetting is 1 and backward transfer -1: forgetting cites
#       equation 3 of Chaudhry et al., whose sum runs over all tasks before the last.
# Seen: both loops end one task early. Forgetting and backward transfer are 0.0 and "remembering" is 1.0; with three tasks, both earlier
#       ones lost entirely, they are 0.5, -0.33 and 0.67. The task learned just before the last never counts, but is divided by.
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
metrics = runpy.run_path(str(installed))


def forgets_everything(tasks):
    """Predictions, targets and task ids after each task: the last task is known, all others are lost; ten images a task."""
    ids = np.repeat(np.arange(tasks), 10)
    return [np.where(ids == last, ids, -1) for last in range(tasks)], [ids] * tasks, [ids] * tasks


names = ("forgetting", "backward_transfer", "remembering")
seen = {tasks: [round(float(metrics[name](*forgets_everything(tasks))), 2) for name in names] for tasks in (2, 3)}
for tasks, values in seen.items():
    print(f"{tasks} tasks, all but the last lost:", dict(zip(names, values)))
sys.exit(seen != {2: [0.0, 0.0, 1.0], 3: [0.5, -0.33, 0.67]})
PYTHON
venv/bin/python look.py
