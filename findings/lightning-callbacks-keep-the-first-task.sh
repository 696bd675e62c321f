#!/usr/bin/env bash
# pytorch-lightning 2.6.6 with torch 2.14.1 (PyPI, on the CPU): callbacks that are used again keep the first task's best: the second task saves nothing.
#
# Expected by most: with a new Trainer for each task and one ModelCheckpoint and one EarlyStopping for all, fit() starts both afresh: best_model_path is
#       then the best model of the task just trained.
# Seen: the best value so far stays with the object. Task 1 ends at 0.959; task 2, of harder classes, rises from 0.300 without reaching it: after
#       2 of 10 epochs, its patience, it is stopped while it still improves, no file is written, and best_model_path is the model
#       of task 1 still, which does not know the classes of task 2. All that is said is that the folder is not empty. With new callbacks: 10 epochs, saved.
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
from pathlib import Path

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
print(f"pytorch-lightning {lightning.__version__}, torch {torch.__version__}")


class Model(lightning.LightningModule):
    """Its accuracy is given: it rises from 0.95 in the first task, from 0.3 in the second."""

    def __init__(self):
        super().__init__()
        self.layer, self.task, self.epochs = torch.nn.Linear(3, 2), 0, 0

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def on_train_epoch_end(self):
        self.epochs += 1

    def validation_step(self, batch, index):
        self.log("accuracy", (0.95, 0.3)[self.task] + 0.001 * self.trainer.current_epoch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def callbacks(name):
    best = ModelCheckpoint(dirpath=name, monitor="accuracy", mode="max", filename="{epoch}-{accuracy:.3f}")
    return best, EarlyStopping("accuracy", mode="max", patience=2)


def two_tasks(name, again):
    """Epochs and best file of each of two tasks, with a new Trainer each; its callbacks new too, or used again."""
    model, used, found = Model(), callbacks(f"{name}-0"), []
    data = DataLoader(TensorDataset(torch.randn(8, 3), torch.randint(2, (8,))), batch_size=8)
    for model.task in range(2):
        if model.task and not again:
            used = callbacks(f"{name}-1")
        before = model.epochs
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        lightning.Trainer(max_epochs=10, accelerator="cpu", callbacks=list(used), **quiet).fit(model, data, data)
        found.append((model.epochs - before, Path(used[0].best_model_path).name))
    return found


shared, fresh = two_tasks("shared", again=True), two_tasks("fresh", again=False)
print(f"callbacks used again: {shared}\nnew ones: {fresh}")
first = (10, "epoch=9-accuracy=0.959.ckpt")
sys.exit(not (shared == [first, (2, first[1])] and fresh == [first, (10, "epoch=9-accuracy=0.309.ckpt")]))
PYTHON
venv/bin/python look.py
