"""TODO harness/tuning."""
