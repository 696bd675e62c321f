"""TODO reports/loading."""
