#!/usr/bin/env bash
# pingouin 0.7.0 (PyPI): the confidence interval of a difference of 0.004 is [0, 0], with a p-value of 0.0005 beside it.
#
# Expected by most: the table of ttest holds numbers, and rounding is a matter of printing: accuracies as fractions and in percent give the same
#       interval, a hundred times as large.
# Seen: the interval itself is rounded to two decimals: for accuracies in [0, 1] (as of torchmetrics or scikit-learn) [0.0, 0.0], where it is
#       [0.0018, 0.0044]; t and p are not rounded. compute_bootci does so, too (decimals=2). In percent the interval is [0.18, 0.44].
#       pingouin.options["round.column.CI95"] = None switches it off in ttest, decimals=4 in compute_bootci.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "pingouin==0.7.0" "pandas==3.1.1" "numpy==2.4.6" "scipy==1.17.1"
cat >look.py <<'PYTHON'
import sys

import numpy as np
import pingouin
from scipy import stats

print(f"pingouin {pingouin.__version__}")
random = np.random.default_rng(0)
one = 0.80 + random.normal(0, 0.002, 10)
other = one + 0.004 + random.normal(0, 0.002, 10)


def plain(interval):
    return [float(f"{end:.2g}") for end in interval]


def by_ttest(scale):
    found = pingouin.ttest(scale * other, scale * one, paired=True).iloc[0]
    return plain(found["CI95"]), float(f"{found['p_val']:.2g}")


print(f"options: {({name: value for name, value in pingouin.options.items() if 'CI' in name})}")
wanted = plain(stats.ttest_rel(other, one).confidence_interval())
fractions, percent = by_ttest(1), by_ttest(100)
bootstrapped = plain(pingouin.compute_bootci(other - one, func="mean", seed=0))
finer = plain(pingouin.compute_bootci(other - one, func="mean", seed=0, decimals=4))
for name in [name for name in pingouin.options if name.startswith("round.column.CI")]:
    pingouin.options[name] = None
switched = by_ttest(1)
print(f"scipy: {wanted}\nttest, fractions: {fractions[0]}, p {fractions[1]}; in percent: {percent[0]}, p {percent[1]}")
print(f"compute_bootci: {bootstrapped}; decimals=4: {finer}\nttest, fractions, rounding switched off: {switched[0]}")
held = fractions[0] == bootstrapped == [0, 0] and fractions[1] == percent[1] < 0.001 and percent[0] == [0.18, 0.44]
sys.exit(not (held and wanted == switched[0] == [0.0018, 0.0044] and finer[0] > 0.001))
PYTHON
venv/bin/python look.py
