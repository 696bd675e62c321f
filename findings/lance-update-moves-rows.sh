#!/usr/bin/env bash
# pylance 14.0.2 (PyPI): a label that is put right moves its image to the end of the data set.
#
# Expected by most: update({"label": ...}, where="id = 1") changes one value and leaves the rows where they are, so that row i is still image i,
#       as features, splits and class orders kept beside the data set have it.
# Seen: a changed row is deleted and written anew behind the last: after one label of six, take([1]) gives image 2, and to_table() the order
#       0, 2, 3, 4, 5, 1. merge_insert by "id", also where it changes only a label and adds nothing, does the same. The number of rows is
#       as before. An older version, by its number, still has the order; the ids have to be asked for to see it.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "pylance==14.0.2" "pyarrow==26.0.1" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import sys

import lance
import pyarrow

print(f"pylance {lance.__version__}")
images = pyarrow.table({"id": list(range(6)), "label": [0, 0, 1, 1, 2, 2]})


def order(data):
    return data.to_table()["id"].to_pylist()


updated = lance.write_dataset(images, "updated.lance")
before = updated.version
updated.update({"label": "2"}, where="id = 1")
merged = lance.write_dataset(images, "merged.lance")
merged.merge_insert("id").when_matched_update_all().execute(pyarrow.table({"id": [1], "label": [2]}))
held = True
for name, data in (("update", updated), ("merge_insert", merged)):
    print(f"after {name}: ids {order(data)}, take([1]) is image {data.take([1])['id'][0]}, {data.count_rows()} rows")
    held = held and order(data) == [0, 2, 3, 4, 5, 1] and data.take([1])["id"].to_pylist() == [2]
old = order(lance.dataset("updated.lance", version=before))
print(f"the version before: ids {old}")
sys.exit(not (held and old == [*range(6)]))
PYTHON
venv/bin/python look.py
