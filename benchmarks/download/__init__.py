"""TODO benchmarks/download."""
