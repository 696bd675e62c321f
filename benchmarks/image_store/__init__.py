"""TODO benchmarks/image_store."""
