#!/usr/bin/env bash
# torch 2.14.1 (PyPI, on the CPU): an optimiser that was given names still loads its state by place, and takes that of other shapes.
#
# Expected by most: an optimiser made from named parameters stores the names, and load_state_dict puts the momentum of "prompt" to "prompt", or
#       refuses names and shapes that differ from its own, as a module's load_state_dict does.
# Seen: only the numbers of groups and of parameters are compared. Saved as prompt, key and loaded as key, prompt (as the order of a set, or of code
#       that was rearranged), each gets the momentum of the other, and the optimiser's own list of names becomes the wrong one. Momentum of
#       4 numbers is taken for a parameter of 10 without a word; the error, if any, comes at the next step. The documentation has a hook
#       for the first.
# Exits 0 as long as this holds, 1 when the behaviour has changed. Needs PyTorch, and so 6 GB of disk and some minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "torch==2.14.1" "numpy==2.2.6"
cat >look.py <<'PYTHON'
import sys
import warnings

import torch

warnings.simplefilter("error")
print(f"torch {torch.__version__}")


def made(*named):
    parameters = {name: torch.nn.Parameter(torch.ones(length)) for name, length in named}
    return parameters, torch.optim.AdamW(list(parameters.items()), lr=0.1)


def momentum(parameters, optimiser):
    return {name: round(optimiser.state[value]["exp_avg"][0].item(), 2) for name, value in parameters.items()}


parameters, optimiser = made(("prompt", 4), ("key", 4))
parameters["prompt"].grad, parameters["key"].grad = torch.full((4,), 1.0), torch.full((4,), 100.0)
optimiser.step()
kept, saved = optimiser.state_dict(), momentum(parameters, optimiser)
print(f"saved: momentum {saved}, names {kept['param_groups'][0]['param_names']}")

swapped, loaded = made(("key", 4), ("prompt", 4))
loaded.load_state_dict(kept)
found, names = momentum(swapped, loaded), loaded.param_groups[0]["param_names"]
print(f"loaded for key, prompt: momentum {found}, names {names}, of which the first is key: {loaded.param_groups[0]['params'][0] is swapped['key']}")

longer, other = made(("mask", 10), ("bias", 2))
other.load_state_dict(kept)
shape = tuple(other.state[longer["mask"]]["exp_avg"].shape)
print(f"loaded for mask of 10 numbers, bias of 2: momentum of mask has {shape[0]}")
for value in longer.values():
    value.grad = torch.ones_like(value)
try:
    other.step()
    error = None
except RuntimeError as raised:
    error = raised
print(f"its next step: {type(error).__name__}")
held = found == {"key": saved["prompt"], "prompt": saved["key"]} and names == ["prompt", "key"]
sys.exit(not (held and saved["prompt"] != saved["key"] and shape == (4,) and isinstance(error, RuntimeError)))
PYTHON
venv/bin/python look.py
