"""TODO harness/hardware."""
