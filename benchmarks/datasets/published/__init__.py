"""Benchmarks whose files their owners publish: downloaded or given, checked, and converted once; one file each."""
