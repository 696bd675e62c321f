"""TODO reports/tables."""
