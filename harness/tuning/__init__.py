"""Hyper-parameter search: its plan, its trials and the Optuna study that stores them."""
