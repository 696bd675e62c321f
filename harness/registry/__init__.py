"""Names to methods, benchmarks and other parts; plugins; the files of a new method."""
