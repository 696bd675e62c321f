#!/usr/bin/env bash
# river 0.26.1 (PyPI): a class that the model does not know yet costs nothing, in cross-entropy and in prequential accuracy.
#
# Expected by most: an image whose true class has no probability is the worst case of a cross-entropy (as in LogLoss, which gives 34.5), and
#       "no answer" is a wrong answer in evaluate.progressive_val_score.
# Seen: CrossEntropy sums over the classes in the prediction, and so adds 0 where the true one is missing: the loss of a model that knows one
#       class of five, and is certain of it, is 0, better than the same predictions with the small probability for the others spelt out.
#       progressive_val_score leaves out an image whose prediction is None or {}: a model that answers a fifth of the stream, rightly, has
#       accuracy 100%. A stream on which new classes appear meets both at every new class.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "river==0.26.1"
cat >look.py <<'PYTHON'
import sys

import river
from river import base, evaluate, metrics

print(f"river {river.__version__}")
stream = [({"image": number}, number % 5) for number in range(100)]


class FirstClassOnly(base.Classifier):
    """Recognises class 0; of the other images it is certain that they are class 0, or gives no answer."""

    def __init__(self, others):
        self.others = others

    def learn_one(self, x, y):
        pass

    def predict_proba_one(self, x):
        return {0: 1.0} if x["image"] % 5 == 0 else dict(self.others)


def score(others, metric):
    return round(evaluate.progressive_val_score(stream, FirstClassOnly(others), metric).get(), 3)


silent = score({0: 1.0}, metrics.CrossEntropy())
spelt = score({0: 0.96, 1: 0.01, 2: 0.01, 3: 0.01, 4: 0.01}, metrics.CrossEntropy())
print(f"cross-entropy, certain of class 0 for every image: {silent:.2f}; with 0.01 for each other class: {spelt:.2f}")
wrong, none = score({0: 1.0}, metrics.Accuracy()), score({}, metrics.Accuracy())
print(f"accuracy, class 0 for every image: {wrong:.2f}; no answer in place of the wrong ones: {none:.2f}")
binary = metrics.LogLoss()
binary.update(True, {False: 1.0})
print(f"LogLoss of a missing true class: {binary.get():.1f}")
sys.exit(not (silent == 0 and spelt > 3 and wrong == 0.2 and none == 1 and binary.get() > 30))
PYTHON
venv/bin/python look.py
