#!/usr/bin/env bash
# ml_dtypes 0.6.0 with numpy 2.4.6 (PyPI): the mean of a thousand equal bfloat16 numbers is a quarter of them; class means shrink as classes grow.
#
# Expected by most: bfloat16 arrays in numpy (features that JAX, or a reader of bfloat16 files, hands over) behave like numpy's own float16,
#       whose mean() adds in float32: the mean of 1000 ones is 1.
# Seen: sum and mean add in bfloat16, one number after the other, and stall as soon as one more number is below half a step of the sum: the
#       mean of 1000 ones is 0.256, with no warning. Prototypes of big classes shrink, and a nearest-mean classifier is wrong on them: it
#       finds every image of the class of 50, and none of the class of 2000. mean(dtype="float32") is right.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "ml_dtypes==0.6.0" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import sys

import ml_dtypes
import numpy as np

print(f"ml_dtypes {ml_dtypes.__version__}, numpy {np.__version__}")
of_ones = {kind: float(np.ones(1000, kind).mean()) for kind in ("float32", "float16", "bfloat16")}
for kind, mean in of_ones.items():
    print(f"mean of 1000 ones in {kind}: {mean:.4f}")

random = np.random.default_rng(0)
centres = 1 + random.random((4, 64))
labels = np.repeat(np.arange(4), (50, 200, 500, 2000))
features = (centres[labels] + random.normal(0, 0.1, (len(labels), 64))).astype("bfloat16")


def right(**how):
    """The share of each class's images that is nearest to the mean of its own class."""
    means = np.stack([features[labels == label].mean(axis=0, **how) for label in range(4)]).astype("float32")
    distances = ((features.astype("float32")[:, None] - means) ** 2).sum(axis=2)
    return [float((distances[labels == label].argmin(axis=1) == label).mean()) for label in range(4)]


added, wide = right(), right(dtype="float32")
print("nearest class mean, right in classes of 50, 200, 500 and 2000 images:")
print(f"  mean(axis=0): {added}\n  mean(axis=0, dtype='float32'): {wide}")
held = of_ones["float16"] == 1 and of_ones["bfloat16"] < 0.26 and wide == [1.0] * 4 and added[0] == 1 and added[3] == 0
sys.exit(not held)
PYTHON
venv/bin/python look.py
