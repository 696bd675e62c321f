"""Timed claims, each the measurement of a ``bench`` command: a step, evaluation, attention, stored pictures, feed, sweeps."""
