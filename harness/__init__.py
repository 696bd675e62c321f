"""Runs methods on benchmarks: specs, the engine, records, executors."""
