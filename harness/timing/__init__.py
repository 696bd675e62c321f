"""TODO harness/timing."""
