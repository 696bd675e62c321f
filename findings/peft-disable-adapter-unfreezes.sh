#!/usr/bin/env bash
# peft 0.21.2 (PyPI): a pass through the base model, "with model.disable_adapter()", makes frozen parts of an adapter trainable.
#
# Expected by most: a context manager leaves what it found: what was frozen before the block is frozen after it.
# Seen: on leaving, the active adapters are "set" anew, and requires_grad becomes True on every weight of theirs. lora_A, frozen by hand so
#       that only lora_B learns (as where A is drawn once, orthogonal to earlier tasks), learns from then on; of two active adapters the
#       frozen one of an earlier task does; and one loaded with is_trainable=False, with nothing to train, can be trained. A distillation
#       step, which asks the base model for its targets, undoes the freezing in the first batch, and no warning is given.
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
from peft import LoraConfig, PeftModel, get_peft_model

warnings.simplefilter("ignore")
print(f"peft {peft.__version__}, torch {torch.__version__}")
config = LoraConfig(target_modules=["0"], r=4)
image = torch.ones(2, 8)


def base():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8))


def ask_teacher(model):
    with torch.no_grad(), model.disable_adapter():
        return model(image)


def trainable(model):
    return sorted(name.split(".0.")[-1] for name, weight in model.named_parameters() if weight.requires_grad)


moved = []
for teacher in (False, True):
    model = get_peft_model(base(), config)
    layer = model.base_model.model[0]
    torch.nn.init.ones_(layer.lora_B["default"].weight)
    matrix = layer.lora_A["default"].weight.requires_grad_(False)
    optimiser, before = torch.optim.SGD(model.parameters(), lr=0.1), matrix.clone()
    target = ask_teacher(model) if teacher else torch.zeros(2, 8)
    (model(image) - target).square().sum().backward()
    optimiser.step()
    moved.append(not torch.equal(matrix, before))
print("frozen lora_A changes in a training step: without a pass of the base model, with one =", moved)

model = get_peft_model(base(), config, adapter_name="task1")
model.add_adapter("task2", config)
model.base_model.set_adapter(["task1", "task2"])
for name, weight in model.named_parameters():
    weight.requires_grad_(".task2." in name)
two = [trainable(model)]
ask_teacher(model)
two.append(trainable(model))
print("task1 frozen, task2 trained; trainable before and after:", *two, sep="\n    ")

model.save_pretrained("saved", selected_adapters=["task1"])
loaded = PeftModel.from_pretrained(base(), "saved/task1", is_trainable=False)
one = [trainable(loaded)]
ask_teacher(loaded)
one.append(trainable(loaded))
print("loaded with is_trainable=False; trainable before and after:", *one, sep="\n    ")
sys.exit([moved, list(map(len, two)), list(map(len, one))] != [[False, True], [2, 4], [0, 2]])
PYTHON
venv/bin/python look.py
