"""TODO harness/executors."""
