"""TODO benchmarks/datasets."""
