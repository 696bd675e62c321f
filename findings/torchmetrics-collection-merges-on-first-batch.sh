#!/usr/bin/env bash
# torchmetrics 1.9.0 (PyPI): in a MetricCollection top-5 accuracy is top-1 accuracy for ever, if the first batch was all right.
#
# Expected by most: a collection gives what each of its metrics gives alone, in whatever order the batches come; reset() starts afresh.
# Seen: after the first update() metrics whose counts happen to be equal are merged into one "compute group" and share them from then on;
#       their arguments are not compared. A first batch without an error (as of an easy first task) has equal counts for top-1 and top-5:
#       of the next 320 images 31 percent are then right by top-5 as by top-1, where top-5 alone gives 87. reset() keeps the groups. So it
#       is with ignore_index, if the first batch has no such label, and with two thresholds. With compute_groups=False, or when the hard
#       batch comes first, or through forward() instead of update(), all is as expected.
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
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}")
labels = torch.arange(320) % 10
scores = torch.zeros(320, 10)
for image, label in enumerate(labels.tolist()):  # the label's score is the highest for 100 images, among five for 280
    place = 0 if image < 100 else 2 if image < 280 else 7
    order = [other for other in range(10) if other != label]
    order.insert(place, label)
    scores[image, order] = torch.linspace(1, 0, 10)
hard = scores, labels
easy = torch.nn.functional.one_hot(labels[:30], 10) + torch.linspace(0, 0.5, 10), labels[:30]


def metrics(**options):
    top1, top5 = MulticlassAccuracy(10), MulticlassAccuracy(10, top_k=5)
    return MetricCollection({"top-1": top1, "top-5": top5}, **options)


def score(collection, *batches):
    for batch in batches:
        collection.update(*batch)
    return [round(value.item(), 2) for value in collection.compute().values()]


alone = []
for metric in (MulticlassAccuracy(10), MulticlassAccuracy(10, top_k=5)):
    metric.update(*hard)
    alone.append(round(metric.compute().item(), 2))
collection = metrics()
easy_first, hard_first = score(collection, easy, hard), score(metrics(), hard, easy)
collection.reset()
after_reset, ungrouped = score(collection, hard), score(metrics(compute_groups=False), easy, hard)
print("top-1 and top-5 of the hard images: each metric alone", alone, "- a collection that saw the easy ones, after reset()", after_reset)
print("easy and hard images: easy first", easy_first, "- hard first", hard_first, "- compute_groups=False", ungrouped)
merged = easy_first[0] == easy_first[1] and after_reset[0] == after_reset[1] == alone[0]
sys.exit(not (merged and hard_first == ungrouped and hard_first[1] > 0.85 and alone[1] > 0.85))
PYTHON
venv/bin/python look.py
