"""TODO reports/statistics."""
