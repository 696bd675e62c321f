#!/usr/bin/env bash
# h5py 3.16.0 and deeplake 4.7.4 (PyPI): class 300 in a column of bytes becomes class 255 or class 44, and "no label", -1, class 0 or 255.
#
# Layout: a column of labels of 8 bits, made for the first hundred classes of a sequence, to which a later task writes class 300 and the mark -1.
# Expected by most: an error, as of pyarrow and tensorstore (and of numpy, for a plain number 300); or, at worst, the same wrong
#       numbers everywhere, those of numpy's astype: 44 and 255.
# Seen: h5py takes the nearest number that fits: 300 is stored as 255 and -1 as 0, a class with images of its own; a float label 2.7 as 2.
#       deeplake wraps as astype does, 44 and 255, for lists of plain numbers too, and for a ClassLabel column. Neither gives a warning.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "h5py==3.16.0" "deeplake==4.7.4" "pyarrow==26.0.1" "tensorstore==0.1.86" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import deeplake
import h5py
import numpy as np
import pyarrow
import tensorstore

warnings.simplefilter("error")
print(", ".join(f"{name} {version(name)}" for name in ("h5py", "deeplake", "pyarrow", "tensorstore", "numpy")))
labels = [1, 300, -1]


def in_hdf5(values=labels):
    with h5py.File("labels.h5", "w") as file:
        column = file.create_dataset("label", shape=(len(values),), dtype="u1")
        column[:] = np.array(values)
        return column[:].tolist()


def in_deeplake(kind):
    data = deeplake.create(f"mem://{id(kind)}")
    data.add_column("label", kind)
    data.append({"label": labels})
    return data["label"][:].tolist()


def refused(store):
    try:
        return store()
    except (TypeError, pyarrow.ArrowInvalid, OverflowError) as error:
        return f"refused, {type(error).__name__}"


def in_tensorstore():
    store = {"driver": "zarr3", "kvstore": {"driver": "memory"}}
    column = tensorstore.open(store, create=True, dtype=tensorstore.uint8, shape=[3]).result()
    column[:] = np.array(labels)
    return column.read().result().tolist()


hdf5, rounded = in_hdf5(), in_hdf5([2.7])
lake = [in_deeplake(kind) for kind in (deeplake.types.UInt8(), deeplake.types.ClassLabel("uint8"))]
cast = np.array(labels).astype("u1").tolist()
others = [refused(lambda: pyarrow.array(labels, pyarrow.uint8())), refused(in_tensorstore), refused(lambda: np.array(labels, "u1"))]
print(f"{labels} in h5py: {hdf5}, and 2.7: {rounded}; in deeplake: {lake[0]}, as ClassLabel {lake[1]}; numpy's astype: {cast}")
print(f"pyarrow, tensorstore, and numpy from plain numbers: {others}")
held = hdf5 == [1, 255, 0] and rounded == [2] and lake == [[1, 44, 255]] * 2 and cast == [1, 44, 255]
sys.exit(not (held and all(str(other).startswith("refused") for other in others)))
PYTHON
venv/bin/python look.py
