"""TODO reports/figures."""
