"""TODO harness/execution."""
