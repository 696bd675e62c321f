"""TODO harness/cost."""
