#!/usr/bin/env bash
# mlflow 3.17.2 (PyPI): an infinite loss is stored as a finite number, and "the metric of a run" is that of the highest step, not the last one logged.
#
# Expected by most: log_metric(inf) is read back as inf, as nan is read back as nan; run.data.metrics holds what was logged last.
# Seen (SQLite store): inf comes back as 1.7976931348623157e+308, so that a diverged run passes isinf; after step 5 and then step 3,
#       run.data.metrics holds the value of step 5, and of several values at one step the last one.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "mlflow==3.17.2"
cat >look.py <<'PYTHON'
import logging
import math
import sys
import warnings

import mlflow
from mlflow import MlflowClient

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
print("mlflow", mlflow.__version__)
mlflow.set_tracking_uri("sqlite:///runs.db")
client = MlflowClient()
run = client.create_run(client.create_experiment("losses")).info.run_id
for name, value, step in (
    ("diverged", math.inf, 0), ("undefined", math.nan, 0), ("backwards", 1.0, 5), ("backwards", 2.0, 3), ("again", 7.0, 1), ("again", 3.0, 1),
):
    client.log_metric(run, name, value, step=step)
found = client.get_run(run).data.metrics
(diverged,) = [one.value for one in client.get_metric_history(run, "diverged")]
print("logged inf, read:", diverged, "| isinf:", math.isinf(diverged), "| logged nan, read:", found["undefined"])
print("logged 1.0 at step 5, then 2.0 at step 3; the run's metric:", found["backwards"])
print("logged 7.0 and then 3.0 at one step; the run's metric:", found["again"])
same = diverged == sys.float_info.max and math.isnan(found["undefined"]) and (found["backwards"], found["again"]) == (1.0, 3.0)
sys.exit(not same)
PYTHON
venv/bin/python look.py 2>/dev/null
