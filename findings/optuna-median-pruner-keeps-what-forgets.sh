#!/usr/bin/env bash
# optuna 5.0.0 (PyPI): the median pruner never stops a trial that starts well and then forgets, where accuracy falls from task to task.
#
# Expected by most: at task k a trial is stopped if its accuracy there is below the median of the earlier trials' at task k.
# Seen: the BEST value that the trial has reported up to task k is compared with that median. An average accuracy is best after the first
#       task, and falls for every method: 0.99 after one task beats the others' 0.77 after five, and a trial at 0.10 runs to its end. So it is with
#       PercentilePruner. A trial at the same 0.10 whose first task alone is worse than the others' last is stopped at once: it is the first task
#       that decides. SuccessiveHalvingPruner stops both, at the first rung after the fall.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "optuna==5.0.0"
cat >look.py <<'PYTHON'
import sys

import optuna
from optuna.pruners import MedianPruner, PercentilePruner, SuccessiveHalvingPruner

optuna.logging.set_verbosity(optuna.logging.ERROR)
print(f"optuna {optuna.__version__}; average accuracy after each of five tasks")
usual = [0.98, 0.92, 0.86, 0.81, 0.77]
bad = {"forgets": [0.99, 0.5, 0.33, 0.2, 0.1], "never learned": [0.5, 0.4, 0.33, 0.2, 0.1]}


def stopped(pruner, accuracies):
    """The task after which a trial with these accuracies is stopped, after six usual trials; None if it runs to its end."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for number in range(6):
        trial = study.ask()
        for task, accuracy in enumerate(usual, 1):
            trial.report(accuracy + 0.001 * number, task)
            trial.should_prune()
        study.tell(trial, usual[-1])
    trial = study.ask()
    for task, accuracy in enumerate(accuracies, 1):
        trial.report(accuracy, task)
        if trial.should_prune():
            return task
    return None


pruners = {
    "MedianPruner": lambda: MedianPruner(n_startup_trials=5),
    "PercentilePruner": lambda: PercentilePruner(75.0, n_startup_trials=5),
    "SuccessiveHalvingPruner": lambda: SuccessiveHalvingPruner(min_resource=2, reduction_factor=2),
}
seen = {}
for name, pruner in pruners.items():
    seen[name] = [stopped(pruner(), accuracies) for accuracies in bad.values()]
    for (kind, accuracies), task in zip(bad.items(), seen[name]):
        print(f"{name}: {kind} {accuracies} (others {usual}): {f'stopped after task {task}' if task else 'runs to its end'}")
sys.exit(seen != {"MedianPruner": [None, 1], "PercentilePruner": [None, 1], "SuccessiveHalvingPruner": [2, 2]})
PYTHON
venv/bin/python look.py
