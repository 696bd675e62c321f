#!/usr/bin/env bash
# mlxtend 0.25.0 and pycm 4.6 (PyPI): the accuracy averaged over classes of a guesser among 100 classes is 0.98.
#
# Expected by most: the accuracy per class is the share of the class's images that are right, and its average over classes is what
#       scikit-learn calls balanced accuracy: 0.01 for answers at random among 100 classes.
# Seen: accuracy_score(..., method="average") of mlxtend and ACC_Macro of pycm average the accuracy of "this class or another", in which
#       nearly all images of a rare class count as rightly not in it: 0.98. It grows with the number of classes seen so far, so that a
#       learner that guesses seems to get better from task to task. pycm's TPR_Macro is the average that is meant.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "mlxtend==0.25.0" "pycm==4.6" "scikit-learn==1.9.1"
cat >look.py <<'PYTHON'
import random
import sys
from importlib.metadata import version

from mlxtend.evaluate import accuracy_score
from pycm import ConfusionMatrix
from sklearn.metrics import balanced_accuracy_score

print(f"mlxtend {version('mlxtend')}, pycm {version('pycm')}, scikit-learn {version('scikit-learn')}")
random.seed(0)
seen = []
for classes in (10, 50, 100):
    labels = [label for label in range(classes) for _ in range(20)]
    answers = [random.randrange(classes) for _ in labels]
    matrix = ConfusionMatrix(labels, answers)
    averages = accuracy_score(labels, answers, method="average"), matrix.ACC_Macro
    recalls = balanced_accuracy_score(labels, answers), matrix.TPR_Macro
    seen.append((*averages, *recalls))
    print(f"{classes} classes, random answers: mlxtend average {averages[0]:.3f}, pycm ACC_Macro {averages[1]:.3f}", end="; ")
    print(f"scikit-learn balanced {recalls[0]:.3f}, pycm TPR_Macro {recalls[1]:.3f}")
rises = all(before[place] < after[place] for before, after in zip(seen, seen[1:]) for place in (0, 1))
sys.exit(not (rises and min(seen[-1][:2]) > 0.97 and max(seen[-1][2:]) < 0.03))
PYTHON
venv/bin/python look.py
