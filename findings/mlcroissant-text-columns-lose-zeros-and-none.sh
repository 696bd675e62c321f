#!/usr/bin/env bash
# mlcroissant 1.1.1 (PyPI): a column that the metadata calls text is read as numbers first: "007" becomes "7", and the class "None" is lost.
#
# Expected by most: a field of data type sc:Text holds the text of the CSV file, character by character.
# Seen: the file is read with pandas's guesses, and only then made text. Identifiers lose their zeros ("007" is b"7", and no longer the name of
#       007.jpg); the classes "NA", "None" and "null" become None, as if the label were missing; "1e2" becomes b"100.0". One identifier in
#       the column that is no number keeps the zeros of all the others, so that it depends on the other rows. There is no warning.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "mlcroissant==1.1.1" "pandas==3.1.1"
cat >look.py <<'PYTHON'
import hashlib
import json
import logging
import sys
from importlib.metadata import version

import mlcroissant as mlc

print(f"mlcroissant {version('mlcroissant')}, pandas {version('pandas')}")
logging.disable(logging.WARNING)


def read(*rows):
    """The rows (identifier, class) of a CSV file, as a Croissant description with two text fields gives them."""
    text = "\n".join(["id,class", *(",".join(row) for row in rows)]) + "\n"
    with open("labels.csv", "w") as file:
        file.write(text)
    fields = [
        mlc.Field(
            id=f"images/{name}",
            name=name,
            data_types=mlc.DataType.TEXT,
            source=mlc.Source(file_object="labels.csv", extract=mlc.Extract(column=name)),
        )
        for name in ("id", "class")
    ]
    table = mlc.FileObject(
        id="labels.csv",
        name="labels.csv",
        content_url="labels.csv",
        encoding_formats=["text/csv"],
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    metadata = mlc.Metadata(
        name="labels",
        description="Labels of images.",
        license="CC0-1.0",
        url="https://example.org",
        version="1.0.0",
        distribution=[table],
        record_sets=[mlc.RecordSet(id="images", name="images", fields=fields)],
    )
    with open("croissant.json", "w") as file:
        json.dump(metadata.to_json(), file, default=str)
    return [(record["images/id"], record["images/class"]) for record in mlc.Dataset("croissant.json").records("images")]


numbers = read(("007", "None"), ("010", "NA"), ("011", "cat"))
mixed = read(("007", "None"), ("010", "NA"), ("x11", "cat"))
floats = read(("1e2", "cat"), ("2e1", "dog"))
print(f"ids 007, 010, 011, classes None, NA, cat: {numbers}\nids 007, 010, x11: {mixed}\nids 1e2, 2e1: {floats}")
held = numbers == [(b"7", None), (b"10", None), (b"11", b"cat")] and mixed == [(b"007", None), (b"010", None), (b"x11", b"cat")]
sys.exit(not (held and [one for one, _ in floats] == [b"100.0", b"20.0"]))
PYTHON
venv/bin/python look.py
