"""TODO benchmarks/avalanche."""
