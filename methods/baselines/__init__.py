"""TODO methods/baselines."""
