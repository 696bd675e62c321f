"""TODO harness/training."""
