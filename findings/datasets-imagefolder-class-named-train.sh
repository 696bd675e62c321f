#!/usr/bin/env bash
# datasets 5.2.0 (PyPI): a class folder called "train" makes "imagefolder" drop all other classes, and the labels.
#
# Layout: bus/, car/ and train/ with two images each: a folder a class, as CIFAR-100, COCO and VOC give it, all of which have trains.
# Expected by most: six images of three classes, as for any other three names.
# Seen: names of folders are searched for names of splits (train, test, eval, dev, val, ...) first. The two images of train/ are the
#       "train" split, without a label; bus/ and car/ are gone without a warning. With test/ for train/ there is only a test split.
#       Inside folders train/ and test/ the same three classes are read as they are.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "datasets==5.2.0" "pillow==12.0.0" "numpy==2.2.6"
cat >look.py <<'PYTHON'
import sys
from pathlib import Path

import datasets
from PIL import Image

print(f"datasets {datasets.__version__}")
datasets.disable_progress_bars()


def read(root, classes):
    """Images of each split and the classes it knows, of a folder with two images a class."""
    for name in classes:
        Path(root, name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(Path(root, name, f"{number}.png"))
    found = datasets.load_dataset("imagefolder", data_dir=root)
    return {split: (len(part), part.features["label"].names if "label" in part.features else None) for split, part in found.items()}


seen = {last: read(f"with-{last}", ["bus", "car", last]) for last in ("tram", "train", "test")}
for last, splits in seen.items():
    print(f"bus, car, {last}:", splits)
expected = {"tram": {"train": (6, ["bus", "car", "tram"])}, "train": {"train": (2, None)}, "test": {"test": (2, None)}}
sys.exit(seen != expected)
PYTHON
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" venv/bin/python look.py
