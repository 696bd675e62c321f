#!/usr/bin/env bash
# h5py 3.16.0 (PyPI): a virtual dataset whose part is gone, or was moved, is read as zeros.
#
# Expected by most: a dataset that joins several files (h5py.VirtualLayout; features and labels of one task a file) cannot be read, or raises
#       an error, where one of the files is missing.
# Seen: the rows of the missing file are zeros, with no error and no warning: features of 0 and labels of class 0, and the shape is as before.
#       So it is, for all rows, when the joining file alone is copied into another folder, and for a single file that was renamed.
#       A fill value chosen for the layout (create_virtual_dataset(..., fillvalue=-1)) is read instead, which at least shows the gap.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "h5py==3.16.0" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import os
import shutil
import sys

import h5py
import numpy as np

print(f"h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}")
layout = h5py.VirtualLayout(shape=(6,), dtype="int64")
for task in range(3):
    with h5py.File(f"task{task}.h5", "w") as file:
        file["labels"] = np.array([2 * task + 1, 2 * task + 2])
    layout[2 * task : 2 * task + 2] = h5py.VirtualSource(f"task{task}.h5", "labels", shape=(2,))
with h5py.File("all.h5", "w") as file:
    file.create_virtual_dataset("labels", layout)
    file.create_virtual_dataset("marked", layout, fillvalue=-1)


def read(path, name="labels"):
    with h5py.File(path) as file:
        return file[name][:].tolist()


seen = {"all files there": read("all.h5")}
os.rename("task1.h5", "second-task.h5")
seen["one renamed"] = read("all.h5")
seen["one renamed, fillvalue=-1"] = read("all.h5", "marked")
os.mkdir("elsewhere")
shutil.copy("all.h5", "elsewhere")
os.chdir("/")
seen["copied alone"] = read(os.path.join(sys.argv[1], "elsewhere", "all.h5"))
for name, labels in seen.items():
    print(f"{name}: labels {labels}")
held = list(seen.values()) == [[1, 2, 3, 4, 5, 6], [1, 2, 0, 0, 5, 6], [1, 2, -1, -1, 5, 6], [0] * 6]
sys.exit(not held)
PYTHON
venv/bin/python look.py "$folder"
