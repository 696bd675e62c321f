#!/usr/bin/env bash
# webdataset 1.0.2 (PyPI): samples that its own TarWriter wrote under keys with a dot are merged into one when they are read.
#
# Expected by most: what TarWriter accepts as "__key__", WebDataset gives back: two samples "v1.5" and "v1.6" with "jpg" and "cls" each.
# Seen: the reader takes the name up to its FIRST dot for the key. Both become one sample "v1" with the entries "5.jpg", "5.cls",
#       "6.jpg" and "6.cls"; there is no "jpg", and no warning at either end. So is it with a.b.jpg and a.c.jpg from any tar file.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "numpy==2.2.6" "braceexpand==0.1.7" "pyyaml==6.0.2"
venv/bin/pip install -q --no-deps "webdataset==1.0.2"
cat >look.py <<'PYTHON'
import sys
from importlib.metadata import version

import webdataset

print(f"webdataset {version('webdataset')}")
with webdataset.TarWriter("shard.tar") as writer:
    for key in ("v1.5", "v1.6"):
        writer.write({"__key__": key, "cls": 3, "jpg": b"bytes"})
samples = list(webdataset.WebDataset("shard.tar", shardshuffle=False))
seen = [(sample["__key__"], sorted(name for name in sample if not name.startswith("__"))) for sample in samples]
print("two samples written, read:", seen)
sys.exit(seen != [("v1", ["5.cls", "5.jpg", "6.cls", "6.jpg"])])
PYTHON
venv/bin/python look.py
