#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 and flax 0.12.8 with jax 0.10.2 (PyPI, on the CPU): a checkpoint of other shapes is restored into a model without a word.
#
# Expected by most: restore(path, target) gives arrays of the target's shapes, or refuses: prompts of 5 tokens are not loaded for a model of 10, and
#       a head of 10 classes is not one of 20. orbax refuses so where the target is an array of jax.
# Seen: where the target holds numpy arrays, orbax takes their type (float32 is made int8, where that is the target's) and ignores their shape:
#       a target of (10, 4) gets (5, 4). flax.serialization.from_bytes compares names and lengths of lists, never shapes or types, for numpy
#       and jax alike. What follows is broadcast, or cut by whoever indexes it. There is no warning.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "orbax-checkpoint==0.12.8" "flax==0.12.8" "optax==0.2.8" "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import logging
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as orbax
from flax import serialization

logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
print(", ".join(f"{name} {version(name)}" for name in ("orbax-checkpoint", "flax", "jax")))
saved = np.arange(20, dtype=np.float32).reshape(5, 4)
keeper = orbax.StandardCheckpointer()
keeper.save(Path("prompts").absolute(), {"prompt": saved})
keeper.wait_until_finished()
text = serialization.to_bytes({"prompt": saved})


def by_orbax(target):
    try:
        found = keeper.restore(Path("prompts").absolute(), {"prompt": target})["prompt"]
    except ValueError:
        return "ValueError"
    return found.shape, str(found.dtype)


def by_flax(target):
    found = serialization.from_bytes({"prompt": target}, text)["prompt"]
    return found.shape, str(found.dtype)


targets = {
    "numpy (10, 4)": np.zeros((10, 4), np.float32),
    "numpy (1, 4)": np.zeros((1, 4), np.float32),
    "numpy (5, 4) int8": np.zeros((5, 4), np.int8),
    "jax (10, 4)": jnp.zeros((10, 4)),
}
orbaxed, flaxed = ({name: read(target) for name, target in targets.items()} for read in (by_orbax, by_flax))
for name in targets:
    print(f"saved (5, 4) float32, target {name}: orbax {orbaxed[name]}, flax {flaxed[name]}")
plain = ((5, 4), "float32")
held = list(orbaxed.values()) == [plain, plain, ((5, 4), "int8"), "ValueError"]
sys.exit(not (held and set(flaxed.values()) == {plain}))
PYTHON
venv/bin/python look.py
