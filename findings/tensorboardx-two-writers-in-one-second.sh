#!/usr/bin/env bash
# tensorboardX 2.6.5 (PyPI), read with tensorboard 2.21.0: of two writers that start in one folder in the same second, only one is kept.
#
# Expected by most: each SummaryWriter has an event file of its own, and TensorBoard joins those of a folder: a run that opens one writer for its curves
#       and one for its final values, or two processes of one run, shows both.
# Seen: the name of the file is the second and the machine's name, without a process or a count, as tensorboard's own writer has, and the
#       file is opened anew: both write into one file from its start, each over the other's bytes. What is closed last is left: 5 scalars of
#       one tag, none of the other's 5, and no error on either side. Started in different seconds, or with filename_suffix, both are there.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "tensorboardX==2.6.5" "tensorboard==2.21.0" "numpy==2.4.6" "protobuf==6.33.6" "setuptools==80.9.0"
cat >look.py <<'PYTHON'
import os
import sys
import time
from importlib.metadata import version

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter

print(f"tensorboardX {version('tensorboardX')}, tensorboard {version('tensorboard')}")


def scalars(name, pause=0.0, suffix=""):
    """Event files of a folder into which two writers write five scalars each, and how many TensorBoard reads of each tag."""
    time.sleep(1 - time.time() % 1)  # the start of a second
    first = SummaryWriter(name)
    time.sleep(pause)
    second = SummaryWriter(name, filename_suffix=suffix)
    for step in range(5):
        first.add_scalar("accuracy", step, step)
        second.add_scalar("final", step, step)
    first.close()
    second.close()
    events = EventAccumulator(name).Reload()
    return len(os.listdir(name)), {tag: len(events.Scalars(tag)) for tag in sorted(events.Tags()["scalars"])}


seen = {"one second": scalars("together"), "two seconds": scalars("apart", pause=1.1), "a suffix": scalars("suffix", suffix=".2")}
for name, (files, found) in seen.items():
    print(f"{name}: {files} file(s), scalars {found}")
both = (2, {"accuracy": 5, "final": 5})
sys.exit(not (seen["one second"] == (1, {"final": 5}) and seen["two seconds"] == seen["a suffix"] == both))
PYTHON
venv/bin/python look.py
