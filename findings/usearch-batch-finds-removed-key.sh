#!/usr/bin/env bash
# usearch 2.26.6 (PyPI): where too few keys are left, a search for several images at once finds key 0, even if 0 was removed.
#
# Expected by most: of an index with fewer keys than are asked for, the places without a result are marked as such (-1 in faiss), or left out,
#       as in a search for one image.
# Seen: they hold key 0, with the distance nan; "counts" of the result tells how many of a row are meant. Four prompts, of which
#       0, 1 and 2 were removed, asked for the two nearest: prompts 3 and 0 for every image; names[matches.keys] is names[0], with no error.
#       exact=True does the same. One image at a time, or matches[i], gives prompt 3 alone.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "usearch==2.26.6" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import sys

import numpy as np
import usearch
from usearch.index import Index

print(f"usearch {usearch.__version__}")
prompts = np.eye(4, 8, dtype="f4")
index = Index(ndim=8, dtype="f32")
index.add(np.arange(4), prompts)
for key in (0, 1, 2):
    index.remove(key)
held = 0 not in index and len(index) == 1
for exact in (False, True):
    batch = index.search(prompts, 2, exact=exact)
    one = index.search(prompts[0], 2, exact=exact)
    print(f"exact={exact}: four at once {batch.keys.tolist()}, counts {batch.counts.tolist()}; the first of them")
    print(f"  {batch[0].keys.tolist()}; one alone {one.keys.tolist()}; key 0 in the index: {0 in index}")
    held = held and batch.keys.tolist() == [[3, 0]] * 4 and batch.counts.tolist() == [1] * 4 and bool(np.isnan(batch.distances[:, 1]).all())
    held = held and one.keys.tolist() == batch[0].keys.tolist() == [3]
sys.exit(not held)
PYTHON
venv/bin/python look.py
