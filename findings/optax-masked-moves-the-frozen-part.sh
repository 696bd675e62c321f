#!/usr/bin/env bash
# optax 0.2.8 with jax 0.10.2 (PyPI, on the CPU): optax.masked(optimiser, mask) does not freeze the rest, but moves it UP its gradient.
#
# Expected by most: with a mask that is True for prompts and False for the backbone, the optimiser steps the prompts and the backbone stays.
# Seen: where the mask is False, the raw gradient is passed on as the update, and apply_updates adds it: the frozen part moves at rate 1, against
#       the descent, and the loss grows while the prompts learn.
#       optax.transforms.freeze on the rest, or optax.multi_transform with optax.set_to_zero(), keeps it as it is.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "optax==0.2.8" "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
cat >look.py <<'PYTHON'
import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp
import optax

print(f"optax {version('optax')}, jax {version('jax')}")
start = {"backbone": jnp.array([1.0]), "prompt": jnp.array([1.0])}
trained = {"backbone": False, "prompt": True}
rest = {"backbone": True, "prompt": False}


def loss(parameters):
    return 0.05 * (parameters["backbone"] ** 2).sum() + (parameters["prompt"] ** 2).sum()


def after_ten_steps(optimiser):
    parameters, state = start, optimiser.init(start)
    for _ in range(10):
        updates, state = optimiser.update(jax.grad(loss)(parameters), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    return [round(float(parameters[name][0]), 3) for name in start]


adam = optax.adam(0.05)
ways = {
    "masked": optax.masked(adam, trained),
    "masked, and freeze": optax.chain(optax.masked(adam, trained), optax.transforms.freeze(rest)),
    "multi_transform": optax.multi_transform({True: adam, False: optax.set_to_zero()}, trained),
}
seen = {name: after_ten_steps(way) for name, way in ways.items()}
for name, (backbone, prompt) in seen.items():
    print(f"{name}: from 1.0 and 1.0, backbone {backbone}, prompt {prompt}")
moved, frozen, zeroed = seen.values()
sys.exit(not (moved[0] > 2.5 and frozen[0] == zeroed[0] == 1 and moved[1] == frozen[1] == zeroed[1] < 0.6))
PYTHON
venv/bin/python look.py
