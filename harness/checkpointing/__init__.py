"""Checkpoints of runs: their files, when they are written, and the state of random generators."""
