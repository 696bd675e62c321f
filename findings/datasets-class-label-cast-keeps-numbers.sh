#!/usr/bin/env bash
# datasets 5.2.0 (PyPI): a cast to longer or reordered class names keeps the numbers, so that every cat becomes a bird.
#
# Expected by most: casting a ClassLabel column to a ClassLabel that has the same names and more (the classes of a new task), in its own order, keeps
#       each image's class NAME, or raises an error where that is impossible; this is what concatenate_datasets then relies on.
# Seen: cast and cast_column keep the numbers and change the names over them, with no warning. Two tasks, cast to common features as the error of
#       concatenate_datasets suggests, are joined with wrong labels. Going through a column of strings (cast to Value("string")) does not help:
#       it holds the numbers as text. align_labels_with_mapping keeps the names.
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
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets

print(f"datasets {datasets.__version__}")
datasets.disable_progress_bars()


def task(*names):
    return Dataset.from_dict({"label": list(names)}, features=Features({"label": ClassLabel(names=sorted(names))}))


def names(dataset):
    return [dataset.features["label"].int2str(label) for label in dataset["label"]]


first, second = task("cat", "dog"), task("bird", "eel")
try:
    concatenate_datasets([first, second])
    refused = False
except ValueError:
    refused = True
common = ["bird", "cat", "dog", "eel"]
cast = [one.cast_column("label", ClassLabel(names=common)) for one in (first, second)]
mapping = {name: number for number, name in enumerate(common)}
aligned = [one.align_labels_with_mapping(mapping, "label") for one in (first, second)]
before, after, kept = names(first) + names(second), names(concatenate_datasets(cast)), names(concatenate_datasets(aligned))
text = list(first.cast_column("label", Value("string"))["label"])
print(f"classes of the two tasks: {before}; joined as they are: {'refused' if refused else 'accepted'}")
print(f"cast to {common}, joined: {after}\nalign_labels_with_mapping, joined: {kept}\nfirst task as strings: {text}")
held = refused and after == ["bird", "cat", "bird", "cat"] and kept == before and text == ["0", "1"]
sys.exit(not held)
PYTHON
venv/bin/python look.py
