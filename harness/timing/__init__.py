"""Timing of steps, attention, evaluation, data and sweeps: the commands ``bench``."""
