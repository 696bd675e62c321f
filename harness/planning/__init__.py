"""TODO harness/planning."""
