#!/usr/bin/env bash
# zarr 3.1.6, tensorstore 0.1.86 and blosc2 4.14.1 (PyPI): rows that were cut off come back when the array grows again.
#
# Expected by most: an array that is shrunk to five rows has lost the others, and when it is made ten again, the new rows hold the fill value
#       until they are written, as in HDF5: a memory of exemplars that is cut for a new class, or from which images were to be removed.
# Seen: chunks that lie beyond the end are deleted; the chunk that the end runs through keeps what it held. Of ten rows in chunks of four, cut to
#       five and grown to ten, rows 5 to 7 hold their old numbers and only 8 and 9 the fill value; in one chunk all ten are back, and they are
#       in the files all the time. So it is in all three; h5py 3.16.0 gives the fill value.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "zarr==3.1.6" "tensorstore==0.1.86" "blosc2==4.14.1" "h5py==3.16.0" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import sys

import blosc2
import h5py
import numpy as np
import tensorstore
import zarr

print(f"zarr {zarr.__version__}, tensorstore, blosc2 {blosc2.__version__}, h5py {h5py.__version__}; fill value 0")
rows = np.arange(1, 11, dtype="i4")


def in_zarr(chunk, shape=(10,)):
    array = zarr.create_array(store=f"{chunk}.zarr", shape=shape, chunks=(chunk,), dtype="i4", fill_value=0)
    array[:] = rows
    array.resize((5,))
    array.resize((10,))
    return array[:]


def in_tensorstore(chunk):
    layout = tensorstore.ChunkLayout(chunk_shape=[chunk])
    store = {"driver": "zarr3", "kvstore": {"driver": "memory"}}
    array = tensorstore.open(store, create=True, dtype=tensorstore.int32, shape=[10], chunk_layout=layout).result()
    array[:] = rows
    array = array.resize(exclusive_max=[5]).result()
    return array.resize(exclusive_max=[10]).result().read().result()


def in_blosc2(chunk):
    array = blosc2.asarray(rows, chunks=(chunk,), blocks=(2,))
    array.resize((5,))
    array.resize((10,))
    return array[:]


def in_hdf5(chunk):
    with h5py.File(f"{chunk}.h5", "w") as file:
        array = file.create_dataset("x", data=rows, chunks=(chunk,), maxshape=(None,))
        array.resize((5,))
        array.resize((10,))
        return array[:]


held = True
for chunk, kept in ((4, 8), (10, 10)):
    for library in (in_zarr, in_tensorstore, in_blosc2, in_hdf5):
        seen, wanted = library(chunk).tolist(), 5 if library is in_hdf5 else kept
        print(f"chunks of {chunk}, {library.__name__}: {seen}")
        held = held and seen == [*range(1, wanted + 1)] + [0] * (10 - wanted)
sys.exit(not held)
PYTHON
venv/bin/python look.py
