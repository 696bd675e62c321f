"""TODO harness/records."""
