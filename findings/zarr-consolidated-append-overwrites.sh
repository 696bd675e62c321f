#!/usr/bin/env bash
# zarr 3.1.6 (PyPI): after consolidate_metadata each append through the group overwrites the one before it.
#
# Layout: a group with an array of features; its metadata was consolidated once, after the first task, as is advised for slow stores.
# Expected by most: group["x"].append(rows) of the next task, and of the one after, add their rows; whoever opens the group reads them all.
# Seen: the array behind group["x"] has the shape of the time of consolidation, for ever: both tasks write at the same place. The third task's
#       rows replace the second's, in a new process as in the same one, in format 2 as in 3, and a reader of the group sees neither; a new array in
#       the group is invisible to it. Opening the array by its own path, or with use_consolidated=False, shows the rows that are left.
#       There is no warning (in format 3 one about the standard, when consolidating).
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "zarr==3.1.6" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import sys
import warnings

import numpy as np
import zarr

print(f"zarr {zarr.__version__}")


def grown(path, layout, consolidate):
    """Rows that a reader of the group and one of the array see after three tasks of two rows each, and warnings of the last two."""
    group = zarr.open_group(path, mode="w", zarr_format=layout)
    group.create_array("x", shape=(2,), chunks=(2,), dtype="i4")[:] = 1
    if consolidate:
        zarr.consolidate_metadata(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for task in (2, 3):
            group = zarr.open_group(path, mode="a")
            group["x"].append(np.full(2, task, "i4"))
        group.create_array("y", shape=(1,), dtype="i4")
        reader = zarr.open_group(path, mode="r")
    return reader["x"][:].tolist(), zarr.open_array(f"{path}/x", mode="r")[:].tolist(), "y" in reader, len(caught)


held = True
for layout in (2, 3):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, consolidated = (grown(f"{layout}-{kind}.zarr", layout, kind) for kind in (False, True))
    for name, (group, array, new, count) in (("plain", plain), ("consolidated", consolidated)):
        print(f"format {layout}, {name}: by the group {group}, by the array {array}, new array visible: {new}, {count} warnings")
    held = held and plain[:3] == ([1, 1, 2, 2, 3, 3],) * 2 + (True,) and consolidated == ([1, 1], [1, 1, 3, 3], False, 0)
sys.exit(not held)
PYTHON
venv/bin/python look.py
