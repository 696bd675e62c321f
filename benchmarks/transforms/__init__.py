"""TODO benchmarks/transforms."""
