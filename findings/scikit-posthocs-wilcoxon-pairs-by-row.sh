#!/usr/bin/env bash
# scikit-posthocs 0.17.1 (PyPI): posthoc_wilcoxon pairs seeds by the order of rows, so that a shuffled table has other p-values.
#
# Expected by most: a paired test of a long table (method, seed, accuracy) pairs what belongs together whatever the order of rows, as
#       posthoc_nemenyi_friedman of the same table does; or asks for the column that pairs.
# Seen: there is no argument for it: the first row of one method is paired with the first of the other. Of eight seeds, on each of which "c" is better
#       than "a", the p-value is 0.0078; with the same rows in another order, as that in which parallel runs end, it is 0.20 to 0.84 (twenty
#       shuffles). There is no warning. Sort by seed first, and see that no method lacks one: of unequal numbers it complains.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "scikit-posthocs==0.17.1" "pandas==3.1.1" "numpy==2.4.6" "scipy==1.17.1" "statsmodels==0.15.0"
cat >look.py <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd
import scikit_posthocs as posthocs

warnings.simplefilter("error")
print(f"scikit-posthocs {version('scikit-posthocs')}")
random = np.random.default_rng(0)
level = random.normal(70, 5, 8)  # a seed's class order makes all methods better or worse
shift = {"a": 0.0, "b": 0.5, "c": 1.0}
rows = [(method, seed, level[seed] + more + random.normal(0, 0.2)) for method, more in shift.items() for seed in range(8)]
table = pd.DataFrame(rows, columns=["method", "seed", "accuracy"])


def paired(data):
    return round(posthocs.posthoc_wilcoxon(data, val_col="accuracy", group_col="method").loc["a", "c"], 4)


def friedman(data):
    columns = {"y_col": "accuracy", "group_col": "method", "block_col": "seed", "block_id_col": "seed"}
    return round(posthocs.posthoc_nemenyi_friedman(data, melted=True, **columns).loc["a", "c"], 4)


shuffled = [table.sample(frac=1, random_state=number) for number in range(20)]
found = [paired(data) for data in shuffled]
print(f"a against c, by seed: {paired(table)}; shuffled twenty times: from {min(found)} to {max(found)}")
others = {float(friedman(data)) for data in shuffled}
print(f"Nemenyi's test after Friedman's, by seed: {friedman(table)}; shuffled: {others}")
held = paired(table) < 0.01 and max(found) > 0.5 and others == {friedman(table)}
sys.exit(not held)
PYTHON
venv/bin/python look.py
