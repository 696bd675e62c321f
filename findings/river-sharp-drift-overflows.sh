#!/usr/bin/env bash
# river 0.26.1 (PyPI): ConceptDriftStream cannot make a sharp drift far from the beginning.
#
# Expected by most: a stream of samples for every position and width; width=1 is the usual way to ask for an abrupt change.
# Seen: the probability of the new concept is 1 / (1 + exp(-4 * (t - position) / width)), and exp overflows where position / width is
#       above 177: with position=5000 (the default) and width=20 the first sample is an OverflowError. position=5000, width=100 works.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "river==0.26.1"
cat >look.py <<'PYTHON'
import sys

import river
from river.datasets import synth

print(f"river {river.__version__}")
seen = {}
for width in (100, 20, 1):
    stream = synth.ConceptDriftStream(synth.SEA(seed=1), synth.SEA(seed=1, variant=1), position=5000, width=width, seed=1)
    try:
        seen[width] = f"{len(list(stream.take(10)))} samples"
    except Exception as error:
        seen[width] = type(error).__name__
print("drift at 5000, by width:", seen)
sys.exit(seen != {100: "10 samples", 20: "OverflowError", 1: "OverflowError"})
PYTHON
venv/bin/python look.py
