#!/usr/bin/env bash
# pytorch-lightning 2.6.6 with torch 2.14.1 (PyPI, on the CPU): the second fit() of a Trainer, for the second task, takes no step.
#
# Expected by most: "for task in tasks: trainer.fit(model, task)" with max_epochs=2 trains two epochs on each task.
# Seen: max_epochs counts the epochs of the Trainer's life. Task 1 takes its 8 steps, tasks 2 and 3 none, and the weights stay bit for bit. The state is
#       "finished"; all that is said is the line that also ends the first task ("`Trainer.fit` stopped: `max_epochs=2` reached."), at level
#       INFO. A new Trainer for each task, or trainer.fit_loop.max_epochs += 2 before each, trains all three.
# Exits 0 as long as this holds, 1 when the behaviour has changed. Needs PyTorch, and so 6 GB of disk and some minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "pytorch-lightning==2.6.6" "torch==2.14.1" "numpy==2.2.6" "setuptools==80.9.0"
cat >look.py <<'PYTHON'
import logging
import sys
import warnings

import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
print(f"pytorch-lightning {lightning.__version__}, torch {torch.__version__}")


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.steps = torch.nn.Linear(3, 2), 0

    def training_step(self, batch, index):
        self.steps += 1
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer():
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(max_epochs=2, accelerator="cpu", **quiet)


def tasks():
    torch.manual_seed(0)
    for _ in range(3):
        yield DataLoader(TensorDataset(torch.randn(32, 3), torch.randint(2, (32,))), batch_size=8)


def steps(trainer_of, prepare=lambda one: None):
    """Steps of each task, and which of them moved the weights."""
    model, found = Model(), []
    for number, task in enumerate(tasks()):
        before, taken = model.layer.weight.detach().clone(), model.steps
        one = trainer_of()
        if number:
            prepare(one)
        one.fit(model, task)
        found.append((model.steps - taken, not torch.equal(before, model.layer.weight)))
    return found


def two_more(one):
    one.fit_loop.max_epochs += 2


first, second = trainer(), trainer()
seen = {"one Trainer": steps(lambda: first), "a new one each": steps(trainer), "two more epochs each": steps(lambda: second, two_more)}
for name, found in seen.items():
    print(f"{name}: " + ", ".join(f"task {k}: {taken} steps" for k, (taken, _) in enumerate(found, start=1)))
print(f"the one Trainer's state: {first.state.status}")
trained = [(8, True)] * 3
held = seen["one Trainer"] == [(8, True), (0, False), (0, False)] and first.state.status == "finished"
sys.exit(not (held and seen["a new one each"] == seen["two more epochs each"] == trained))
PYTHON
venv/bin/python look.py
