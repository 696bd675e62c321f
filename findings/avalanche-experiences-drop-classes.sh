#!/usr/bin/env bash
# avalanche-lib 0.6.0 (PyPI): class_incremental_benchmark loses the classes that do not divide evenly, with all their images.
#
# Expected by most: ten classes in three experiences are 3, 3 and 4, as the comment in its code says ("final exp will take reminder"), or
#       they are refused, as nc_benchmark refuses them.
# Seen: 3, 3 and 3. The tenth class is in no experience of any stream, and no warning is given. Ten classes in eleven experiences are
#       eleven empty experiences.
# Exits 0 as long as this holds, 1 when the behaviour has changed. Needs PyTorch, and so 6 GB of disk and some minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "avalanche-lib==0.6.0" "torch==2.14.1" "setuptools==80.9.0"
cat >look.py <<'PYTHON'
import sys
import warnings

warnings.simplefilter("ignore", DeprecationWarning)
import avalanche
import torch
from avalanche.benchmarks import class_incremental_benchmark
from avalanche.benchmarks.utils import DataAttribute
from avalanche.benchmarks.utils.classification_dataset import ClassificationDataset

print(f"avalanche-lib {avalanche.__version__}, torch {torch.__version__}")
items = [(torch.zeros(1), label) for label in range(10)]
images = ClassificationDataset([items], data_attributes=[DataAttribute(list(range(10)), "targets")])


def arriving(experiences):
    scenario = class_incremental_benchmark({"train": images, "test": images}, class_order=range(10), num_experiences=experiences)
    return [sorted(experience.classes_in_this_experience) for experience in scenario.train_stream]


seen = {experiences: arriving(experiences) for experiences in (3, 11)}
for experiences, classes in seen.items():
    print(f"ten classes in {experiences} experiences:", classes)
sys.exit(seen != {3: [[0, 1, 2], [3, 4, 5], [6, 7, 8]], 11: [[]] * 11})
PYTHON
venv/bin/python look.py 2>/dev/null
