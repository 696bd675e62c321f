#!/usr/bin/env bash
# peft 0.21.2 (PyPI): the "linear" average of two equal LoRA adapters is twice the adapter.
#
# Expected by most: add_weighted_adapter(["a", "b"], [0.5, 0.5], "mean", combination_type="linear") adds half of each adapter's change
#       of the weights, as a task vector is averaged; two equal ones give themselves.
# Seen: the factors are summed, not the products, each times the root of its weight: (A + A')(B + B') / 2 has A B' and A' B besides the
#       wanted A B and A' B'. Two equal adapters give 2.00 times the adapter (1.00 is wanted), the sum of both 4.00 times (2.00); the
#       average of two independent ones is off by as much as its own length. combination_type="cat" gives the wanted numbers exactly, at
#       the sum of the ranks. One adapter alone is scaled as asked, so that a test with one does not show it.
# Exits 0 as long as this holds, 1 when the behaviour has changed. Needs PyTorch, and so 6 GB of disk and some minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "peft==0.21.2" "transformers==5.24.0" "accelerate==1.15.0" "torch==2.14.1" "numpy==2.2.6"
cat >look.py <<'PYTHON'
import sys
import warnings

import peft
import torch
from peft import LoraConfig, get_peft_model

warnings.simplefilter("ignore")
print(f"peft {peft.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
config = LoraConfig(target_modules=["0"], r=4)
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64)), config, adapter_name="a")
layer = model.base_model.model[0]
for name in ("twin", "b"):
    model.add_adapter(name, config)
for part in (layer.lora_A, layer.lora_B):
    for name in ("a", "b"):
        torch.nn.init.normal_(part[name].weight)
    part["twin"].load_state_dict(part["a"].state_dict())


def change(name):
    return layer.get_delta_weight(name).detach()


lengths, errors = {}, {}
for kind in ("linear", "cat"):
    for other, weight in (("twin", 0.5), ("twin", 1.0), ("b", 0.5)):
        name = f"{kind}-{other}-{weight}".replace(".", "_")
        model.add_weighted_adapter(["a", other], [weight, weight], name, combination_type=kind)
        wanted = weight * (change("a") + change(other))
        lengths[kind, other, weight] = round((change(name).norm() / change("a").norm()).item(), 2)
        errors[kind, other, weight] = round(((change(name) - wanted).norm() / wanted.norm()).item(), 2)
        print(
            f"{kind}: {weight} a + {weight} {other}: length {lengths[kind, other, weight]:.2f} times that of a, "
            f"off by {errors[kind, other, weight]:.2f} of what is wanted"
        )
doubled = lengths["linear", "twin", 0.5] == 2 and lengths["linear", "twin", 1.0] == 4 and errors["linear", "b", 0.5] > 0.8
exact = all(error == 0 for (kind, _, _), error in errors.items() if kind == "cat")
sys.exit(not (doubled and exact))
PYTHON
venv/bin/python look.py
