"""TODO harness/cli."""
