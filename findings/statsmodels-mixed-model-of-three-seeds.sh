#!/usr/bin/env bash
# statsmodels 0.15.0 (PyPI): a mixed model of two methods and three seeds finds a difference where there is none nearly three times as often as it claims.
#
# Expected by most: the mixed model "accuracy by method, a random level for each seed" agrees with the paired t-test, which it generalises: of equal
#       methods 5% get a p-value below 0.05.
# Seen: MixedLM's p-values are of the normal distribution however few the groups are (a t distribution with 2 degrees of freedom belongs to three
#       seeds): 13% of equal methods are below 0.05 with three seeds, 11% with five, 4% and 5% in the paired t-test. In the first example
#       below, which converges without a warning, it is 0.02 against 0.15. use_t=True, as other models have it, changes nothing.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "statsmodels==0.15.0" "scipy==1.17.1" "pandas==3.1.1" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import sys
import warnings

import numpy as np
import pandas as pd
import statsmodels
import statsmodels.formula.api as formula
from scipy.stats import ttest_rel

print(f"statsmodels {statsmodels.__version__}")
random = np.random.default_rng(0)


def two_methods(seeds):
    """Accuracies of two methods that do not differ: a level that a seed gives to both, and noise of half its size."""
    level = random.normal(70, 1, seeds)
    return level + random.normal(0, 0.5, seeds), level + random.normal(0, 0.5, seeds)


def p_values(first, second):
    """Of the mixed model and of the paired t-test, and the number of warnings of the former."""
    table = pd.DataFrame({"accuracy": [*first, *second], "method": ["a"] * len(first) + ["b"] * len(first)})
    table["seed"] = [*range(len(first))] * 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = formula.mixedlm("accuracy ~ method", table, groups="seed").fit()
    return float(model.pvalues["method[T.b]"]), float(ttest_rel(first, second).pvalue), len(caught)


alarms = {}
for seeds in (3, 5):
    drawn = [p_values(*two_methods(seeds)) for _ in range(150)]
    if seeds == 3:
        example = next(one for one in drawn if one[2] == 0 and one[0] < 0.05 < one[1])
        print(f"an example without a warning: mixed model p = {example[0]:.3f}, paired t-test p = {example[1]:.3f}")
    alarms[seeds] = [float(np.mean([one[place] < 0.05 for one in drawn])) for place in (0, 1)]
    print(f"{seeds} seeds, 150 pairs of equal methods, p below 0.05: mixed model {alarms[seeds][0]:.3f}, paired t-test {alarms[seeds][1]:.3f}")
held = all(mixed > 0.1 and paired < 0.07 for mixed, paired in alarms.values())
sys.exit(not held)
PYTHON
venv/bin/python look.py
