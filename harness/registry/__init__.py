"""TODO harness/registry."""
