#!/usr/bin/env bash
# pandas 3.1.1 (PyPI): DataFrame.to_json writes a p-value of 4e-11 as 0.0, and one of 1e-16 as it is.
#
# Expected by most: a float64 comes back as it was, as from to_csv, to_parquet and the json module; or rounded to so many significant digits.
# Seen: numbers are rounded to ten DECIMALS by default (double_precision=10): 4e-11 to 1e-15 become 0.0, 1.23456789e-8 becomes 1.23e-08, and an
#       accuracy of 0.9123456789012 loses its last digits, so that a comparison to the last bit fails. Below 1e-15 another way of writing is taken,
#       with ten significant digits: 1e-16 stays, and is then greater than what was 4e-11. So it is with lines=True. There is no
#       warning. double_precision=15, the most that is allowed, has no such zeros.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "pandas==3.1.1" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import io
import json
import sys
import warnings

import pandas as pd

warnings.simplefilter("error")
print(f"pandas {pd.__version__}")
numbers = [0.9123456789012, 1.23456789e-8, 4e-11, 1e-15, 1e-16]
table = pd.DataFrame({"x": numbers})
seen = {
    "to_json": [row["x"] for row in json.loads(table.to_json(orient="records"))],
    "to_json, lines": [json.loads(line)["x"] for line in table.to_json(orient="records", lines=True).splitlines()],
    "double_precision=15": [row["x"] for row in json.loads(table.to_json(orient="records", double_precision=15))],
    "json.dumps": json.loads(json.dumps(table["x"].tolist())),
    "to_csv": pd.read_csv(io.StringIO(table.to_csv(index=False)))["x"].tolist(),
}
for name, values in seen.items():
    print(f"{name}: {values}")
rounded = [0.9123456789, 1.23e-08, 0.0, 0.0, 1e-16]
held = seen["to_json"] == seen["to_json, lines"] == rounded and seen["json.dumps"] == seen["to_csv"] == numbers
sys.exit(not (held and seen["double_precision=15"] == [0.9123456789012, 1.2345679e-08, 4e-11, 1e-15, 1e-16]))
PYTHON
venv/bin/python look.py
