#!/usr/bin/env bash
# autorank 1.3.0 (PyPI): the frequentist result lists the worst method first, and measures every effect size against the worst one.
#
# Expected by most: with order="descending", the default (higher is better), the best method stands first, and effect sizes are against it, as the
#       docstring has it ("in comparison to the highest mean value"): the best method's is 0, the runner-up's tells how far it is behind.
# Seen: rows are sorted by mean rank, and "descending" sorts that, too: the best method, of mean rank 1, stands last. All effect sizes are against
#       the first row, the worst method; the table of latex_table has them so. approach="bayesian" sorts by the mean and has the best first;
#       with order="ascending" both agree. The names in create_report's text are right.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "autorank==1.3.0" "pandas==3.1.1" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import contextlib
import io
import sys
import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd

warnings.filterwarnings("ignore")
from autorank import autorank, latex_table  # noqa: E402

print(f"autorank {version('autorank')}")
random = np.random.default_rng(0)
accuracies = pd.DataFrame({name: random.normal(mean, 1, 10) for name, mean in (("good", 80), ("best", 83), ("worst", 77))})


def ranked(data, **how):
    """Names in the order of the result, and their effect sizes."""
    with contextlib.redirect_stdout(io.StringIO()):
        result = autorank(data, **how)
    return result, {name: round(float(size), 1) for name, size in result.rankdf["effect_size"].items()}


result, sizes = ranked(accuracies)
_, bayesian = ranked(accuracies, approach="bayesian", nsamples=1000, random_state=0)
_, errors = ranked(100 - accuracies, order="ascending")
print(f"means: {accuracies.mean().round(1).to_dict()}")
print(f"accuracies, effect sizes: {sizes}\nthe same, bayesian: {bayesian}\nerrors, order='ascending': {errors}")
table = io.StringIO()
with contextlib.redirect_stdout(table):
    latex_table(result)
rows = [line.split(" & ")[0] for line in table.getvalue().splitlines() if line.startswith(("best", "good", "worst"))]
print(f"rows of latex_table: {rows}")
falls, rises = ["worst", "good", "best"], ["best", "good", "worst"]
held = list(sizes) == rows == falls and list(bayesian) == list(errors) == rises
held = held and sizes["worst"] == bayesian["best"] == errors["best"] == 0 and sizes["best"] < -2
sys.exit(not held)
PYTHON
venv/bin/python look.py
