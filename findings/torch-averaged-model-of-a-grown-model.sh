#!/usr/bin/env bash
# torch 2.14.1 (PyPI, on the CPU): once the model has got another prompt, AveragedModel averages its parameters with other ones, without a word.
#
# Expected by most: update_parameters(model) goes by name, or refuses a model with more parameters than the average has; at worst it leaves out the new.
# Seen: both lists of parameters are walked in step, up to the end of the shorter. A model with one prompt and one key gets a second prompt for
#       task 2: the average's key is from then on averaged with that PROMPT, if the shape is the same (0.99 to 1: after 500 updates it is
#       4.97 where the key is 1 and the new prompt 5); the new prompt has no average. The count of updates goes on as if all were well.
#       copy.deepcopy of the grown model, or a new AveragedModel for each task, is right. Other shapes are an error.
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
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

warnings.simplefilter("error")
print(f"torch {torch.__version__}")


def vector(value, length=4):
    return nn.Parameter(torch.full((length,), float(value)))


class Prompts(nn.Module):
    def __init__(self):
        super().__init__()
        self.prompts, self.keys = nn.ParameterList([vector(0)]), nn.ParameterList([vector(1)])


def averaged(model):
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))


def values(average):
    return {name: round(value[0].item(), 2) for name, value in average.module.named_parameters()}


model = Prompts()
average = averaged(model)
average.update_parameters(model)
print(f"task 1, average: {values(average)}")
model.prompts.append(vector(5))
model.keys.append(vector(7))
fresh = averaged(model)
for _ in range(500):
    average.update_parameters(model)
    fresh.update_parameters(model)
print(f"task 2, model: {({name: value[0].item() for name, value in model.named_parameters()})}")
print(f"task 2, average of task 1 carried on: {values(average)}, {int(average.n_averaged)} updates\na new one: {values(fresh)}")
other = Prompts()
average_of_other = averaged(other)
average_of_other.update_parameters(other)
other.prompts.append(vector(5, length=3))
try:
    average_of_other.update_parameters(other)
    refused = False
except RuntimeError as error:
    refused = True
    print(f"a prompt of another shape: {type(error).__name__}")
held = values(average) == {"prompts.0": 0.0, "keys.0": 4.97} and int(average.n_averaged) == 501 and refused
sys.exit(not (held and values(fresh) == {"prompts.0": 0.0, "prompts.1": 5.0, "keys.0": 1.0, "keys.1": 7.0}))
PYTHON
venv/bin/python look.py
