#!/usr/bin/env bash
# aeon 1.6.0 (PyPI): wilcoxon_test gives p-values of one direction, that of the columns' order, and 0 for the other half of the pairs.
#
# Expected by most: a matrix of p-values of the signed-rank test is symmetric and two-sided, as of scipy.stats.wilcoxon: six data sets on which one
#       method wins each time give 0.031, whichever of the two is the first column.
# Seen: only the half above the diagonal is filled, with the one-sided "earlier column is greater": 0.016, significant at 0.05 even after a correction
#       for three pairs, if the better method stands first, and 1.0 if it stands second. The half below is 0, which reads as significant.
#       plot_critical_difference sorts the columns before, and so uses the half p-values throughout, at alpha=0.1 by default.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "aeon==1.6.0" "scipy==1.17.1" "numpy==2.3.5"
cat >look.py <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from aeon.benchmarking.stats import wilcoxon_test
from scipy.stats import wilcoxon

print(f"aeon {version('aeon')}, scipy {version('scipy')}")
best = np.array([80.1, 71.5, 64.0, 90.3, 55.2, 77.7])
worse = best - np.array([0.5, 1.1, 0.8, 2.0, 1.6, 0.3])
two_sided = float(wilcoxon(best, worse).pvalue)
seen = {}
for names, results in ((["best", "worse"], (best, worse)), (["worse", "best"], (worse, best))):
    seen[names[0]] = wilcoxon_test(np.column_stack(results), names).round(3).tolist()
    print(f"columns {names}: {seen[names[0]]}")
print(f"scipy, two-sided: {two_sided:.3f}")
held = seen == {"best": [[1.0, 0.016], [0.0, 1.0]], "worse": [[1.0, 1.0], [0.0, 1.0]]} and round(two_sided, 3) == 0.031
sys.exit(not held)
PYTHON
venv/bin/python look.py
