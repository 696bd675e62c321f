#!/usr/bin/env bash
# scikit-learn 1.9.1 (PyPI): GaussianNB.partial_fit with one image at a time answers one class for ever, where fit() is always right.
#
# Expected by most: partial_fit keeps means and variances exactly, so that the size of the pieces of a stream makes no difference worth speaking of.
# Seen: the small number that keeps a variance above 0 is taken anew from the largest variance WITHIN the latest piece, and that of a single
#       image is 0. Where one feature is constant in one class (a dead ReLU), its variance is 0 from then on, the likelihood of the class is
#       not a number, and every image gets the first class: accuracy 0.5 of two classes. In pieces of 20 the same stream gives 1.0. There are
#       RuntimeWarnings about divisions, at prediction and only there.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "scikit-learn==1.9.1" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import sys
import warnings

import numpy as np
import sklearn
from sklearn.naive_bayes import GaussianNB

print(f"scikit-learn {sklearn.__version__}")
random = np.random.default_rng(0)
labels = random.permutation(np.repeat([0, 1], 200))
features = np.maximum(random.normal(0, 1, (400, 8)), 0)
features[labels == 1, :4] += 3
features[labels == 0, 7] = 0
whole = GaussianNB().fit(features, labels)
seen, warned = {"fit": whole.score(features, labels)}, {}
for size in (20, 2, 1):
    model = GaussianNB()
    with warnings.catch_warnings(record=True) as learning:
        warnings.simplefilter("always")
        for start in range(0, 400, size):
            model.partial_fit(features[start : start + size], labels[start : start + size], classes=[0, 1])
    with warnings.catch_warnings(record=True) as answering:
        warnings.simplefilter("always")
        seen[size] = model.score(features, labels)
    warned[size] = (len(learning), len(answering) > 0)
    print(f"partial_fit in pieces of {size}: accuracy {seen[size]}; warnings: {len(learning)} in learning, {len(answering)} in answering")
print(f"fit: accuracy {seen['fit']}")
sys.exit(not (seen == {"fit": 1.0, 20: 1.0, 2: 1.0, 1: 0.5} and warned[1] == (0, True)))
PYTHON
venv/bin/python look.py
