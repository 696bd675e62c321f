#!/usr/bin/env bash
# statsmodels 0.15.0 (PyPI): one p-value that is nan makes multipletests contradict itself, or call nothing significant.
#
# Expected by most: a comparison without a p-value (nan: two methods with the same result in every seed) stays nan, or raises an error; the others are
#       corrected, and "reject" is True exactly where the corrected p-value is at most alpha.
# Seen: with "fdr_bh", "fdr_by" and "simes-hochberg" every corrected p-value is nan, while reject is True for some; with "hommel" reject is False for
#       all, 0.001 of four among them. "holm" and "bonferroni" keep the nan apart, but count it as a comparison. There is no warning.
#       scipy.stats.false_discovery_control raises an error.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "statsmodels==0.15.0" "scipy==1.17.1" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import sys
import warnings

import numpy as np
import statsmodels
from scipy.stats import ttest_rel
from statsmodels.stats.multitest import multipletests

print(f"statsmodels {statsmodels.__version__}")
base = np.array([70.0, 72.0, 71.0])
same = float(ttest_rel(base, base.copy()).pvalue)
values = [0.001, 0.01, same, 0.03]
print(f"p-values {values}; the third is scipy's for two equal methods")
seen = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for method in ("fdr_bh", "fdr_by", "simes-hochberg", "hommel", "holm", "bonferroni"):
        reject, corrected = multipletests(values, alpha=0.05, method=method)[:2]
        seen[method] = reject.tolist(), int(np.isnan(corrected).sum()), (corrected <= 0.05).tolist()
        print(f"{method}: reject {reject.tolist()}, corrected {corrected.round(4).tolist()}")
contradict = all(any(reject) and lost == 4 for reject, lost, _ in (seen["fdr_bh"], seen["fdr_by"], seen["simes-hochberg"]))
nothing = seen["hommel"][:2] == ([False] * 4, 4)
apart = all(reject == small and lost == 1 for reject, lost, small in (seen["holm"], seen["bonferroni"]))
print(f"warnings: {len(caught)}")
sys.exit(not (contradict and nothing and apart and not caught))
PYTHON
venv/bin/python look.py
