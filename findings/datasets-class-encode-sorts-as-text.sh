#!/usr/bin/env bash
# datasets 5.2.0 (PyPI): class_encode_column renumbers labels that are numbers already: class 2 of 100 becomes class 12.
#
# Expected by most: a column of the numbers 0 to 99 becomes a ClassLabel of 100 classes, in which class k keeps the number k.
# Seen: the numbers are sorted as text, "0", "1", "10", "11", ...: of 100 classes 88 get another number. Of two splits
#       that hold other classes (the tasks of a sequence, a test set without a rare class) the same class gets two numbers. Only the list of
#       names in the features shows it. cast_column with ClassLabel(num_classes=100) keeps the numbers.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "datasets==5.2.0"
cat >look.py <<'PYTHON'
import sys

import datasets
from datasets import ClassLabel, Dataset

print(f"datasets {datasets.__version__}")
datasets.disable_progress_bars()
labels = list(range(100))
whole = Dataset.from_dict({"label": labels})
encoded = list(whole.class_encode_column("label")["label"])
cast = list(whole.cast_column("label", ClassLabel(num_classes=100))["label"])
task = list(Dataset.from_dict({"label": [9, 10, 11]}).class_encode_column("label")["label"])
changed = [label for label in labels if encoded[label] != label]
print(f"labels 0 to 99: {len(changed)} get another number, such as 2 -> {encoded[2]}, 10 -> {encoded[10]}; unchanged: ", end="")
print([label for label in labels if label not in changed])
print(f"a task of the classes 9, 10, 11: {task}; cast_column changes {sum(one != label for one, label in zip(cast, labels))}")
sys.exit(not (len(changed) == 88 and encoded[2] == 12 and encoded[10] == 2 and task == [2, 0, 1] and cast == labels))
PYTHON
venv/bin/python look.py
