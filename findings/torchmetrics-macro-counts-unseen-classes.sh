#!/usr/bin/env bash
# torchmetrics 1.9.0 (PyPI): MulticlassAccuracy is another number than Accuracy(task="multiclass"), and one wrong answer can halve it.
#
# Expected by most: both spellings have one default; with average="macro" the accuracies of the classes that have images are averaged,
#       as in scikit-learn's balanced_accuracy_score, so that a stage of a class-incremental run is scored on the classes seen.
# Seen: Accuracy(task=...) averages over images, MulticlassAccuracy over classes. The latter also counts a class WITHOUT images, at 0, as
#       soon as one image is taken for it: of two classes at 100% and 50%, the mean is 0.75 when the wrong answer is a class that has
#       images, and 0.5 when it is one that has none (2/2 and 1/2 over three classes).
# Exits 0 as long as this holds, 1 when the behaviour has changed. Needs PyTorch, and so 6 GB of disk and some minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "torchmetrics==1.9.0" "torch==2.14.1" "numpy==2.2.6"
cat >look.py <<'PYTHON'
import sys

import torch
import torchmetrics
from torchmetrics import Accuracy
from torchmetrics.classification import MulticlassAccuracy

print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}")
answers, targets = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1])
spelled = [round(metric(answers, targets).item(), 3) for metric in (Accuracy(task="multiclass", num_classes=10), MulticlassAccuracy(10))]
print("3 of 4 images right, one of two classes lost: Accuracy, MulticlassAccuracy =", spelled)
targets = torch.tensor([0, 0, 1, 1])
means = [round(MulticlassAccuracy(10)(torch.tensor([0, 0, 1, wrong]), targets).item(), 3) for wrong in (0, 5)]
print("classes at 100% and 50%; the wrong answer is a class with images, without:", means)
sys.exit(spelled != [0.75, 0.5] or means != [0.75, 0.5])
PYTHON
venv/bin/python look.py
