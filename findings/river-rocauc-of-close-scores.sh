#!/usr/bin/env bash
# river 0.26.1 (PyPI): ROCAUC is near chance for a nearly perfect ranking whose scores lie close together.
#
# Expected by most: the area depends on the order of the scores alone; an approximation is off by some hundredths.
# Seen: it is taken at ten fixed thresholds in [0, 1]. Scores between 0.8 and 1, as of a confident network, fall between two or three of
#       them: 0.63 where scikit-learn's exact area is 0.98. The same scores stretched over [0, 1] give 0.97.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "river==0.26.1" "scikit-learn==1.7.2"
cat >look.py <<'PYTHON'
import random
import sys

import river
from river import metrics
from sklearn.metrics import roc_auc_score

print(f"river {river.__version__}")
random.seed(0)
labels = [random.random() < 0.5 for _ in range(500)]
scores = [min(random.gauss(0.9 + 0.05 * label, 0.02), 1.0) for label in labels]
low, high = min(scores), max(scores)


def of_river(values):
    metric = metrics.ROCAUC()
    for label, value in zip(labels, values):
        metric.update(label, value)
    return round(metric.get(), 2)


exact = round(roc_auc_score(labels, scores), 2)
close, stretched = of_river(scores), of_river([(score - low) / (high - low) for score in scores])
print(f"scores from {low:.2f} to {high:.2f}: exact {exact}, river {close}; the same stretched over [0, 1]: river {stretched}")
sys.exit(not (exact > 0.95 and close < 0.75 and stretched > 0.95))
PYTHON
venv/bin/python look.py
