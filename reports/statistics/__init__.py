"""Statistics of results: samples, paired tests, ranks, variance, and published values."""
