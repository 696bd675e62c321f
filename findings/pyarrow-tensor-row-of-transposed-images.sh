#!/usr/bin/env bash
# pyarrow 26.0.1 (PyPI): of a column of tensors made from transposed images, single rows have the right shape and wrong pixels.
#
# Expected by most: column[i].to_numpy() of a FixedShapeTensorArray is the i-th image that was stored, as column.to_numpy_ndarray()[i] is.
# Seen: a transposed view (width before height) is stored with a permutation. The whole column is read back right; a single row has the shape
#       asked for, but its steps through memory are computed from the wrong lengths, so that pixels of other places are returned, with no
#       error. Square images hide it, and so does a copy that is contiguous. After Parquet it is the same; to_pandas gives the numbers in stored
#       order. A view with channels first cannot be read at all, as a column or by row: an error.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "pyarrow==26.0.1" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

print(f"pyarrow {pa.__version__}")


def read(images):
    """Whether the whole column, each row, and each row after Parquet are the images; and whether rows have their shape."""
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(images)
    parquet.write_table(pa.table({"image": column}), "images.parquet")
    stored = parquet.read_table("images.parquet")["image"].combine_chunks()
    rows = [row.to_numpy() for row in column]
    whole = bool((column.to_numpy_ndarray() == images).all())
    by_row, later = (all(bool((a == b).all()) for a, b in zip(one, images)) for one in (rows, [row.to_numpy() for row in stored]))
    return whole, by_row, later, all(row.shape == images[0].shape for row in rows)


wide = np.arange(2 * 4 * 6 * 3, dtype="uint8").reshape(2, 4, 6, 3)
square = np.arange(2 * 4 * 4 * 3, dtype="uint8").reshape(2, 4, 4, 3)
cases = {
    "4 x 6 as it is": wide,
    "4 x 6 transposed": wide.transpose(0, 2, 1, 3),
    "4 x 6 transposed, copied": np.ascontiguousarray(wide.transpose(0, 2, 1, 3)),
    "4 x 4 transposed": square.transpose(0, 2, 1, 3),
}
seen = {name: read(images) for name, images in cases.items()}
for name, (whole, by_row, later, shape) in seen.items():
    print(f"{name}: column right {whole}, rows right {by_row}, after Parquet {later}, shape of rows right {shape}")
right = (True, True, True, True)
sys.exit(list(seen.values()) != [right, (True, False, False, True), right, right])
PYTHON
venv/bin/python look.py
